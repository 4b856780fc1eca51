import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.steps import Metrics
from diffusion.window import Window, divide

RNG = np.random.default_rng(0)
LOSSES = [RNG.normal(1, 0.1, n).astype(np.float32) for n in (4, 4, 3, 4, 1, 2, 4)]


def metrics(step: int) -> Metrics:
    """Of the step that ends as number ``step``: a loss over its examples, a quarter of t that nothing fell into."""
    loss = LOSSES[(step - 1) % len(LOSSES)]
    sums = {
        "train/loss": (jnp.float32(loss.sum()), jnp.float32(len(loss))),
        "train/loss/q3": (jnp.float32(0), jnp.float32(0)),
    }
    return Metrics(sums, {"train/lr": jnp.float32(step / 8)}, jnp.zeros(2, jnp.int32), None)


def run(window: Window, first: int, last: int) -> Window:
    for step in range(first, last + 1):
        window.add(step, metrics(step))
    return window


def test_a_window_is_the_mean_over_all_examples_and_the_newest_rate():
    taken = run(Window(3), 1, 7).take(7)
    assert [step for step, _ in taken] == [3, 6]
    for step, values in taken:
        mean = np.concatenate(LOSSES[step - 3 : step]).mean(dtype=np.float64)
        np.testing.assert_allclose(values.pop("train/loss"), mean, rtol=1e-6)
        assert values == {"train/loss/q3": None, "train/lr": step / 8}


def test_windows_are_counted_from_the_start_of_the_run():
    assert [step for step, _ in run(Window(4), 6, 12).take(12)] == [8, 12]


def test_each_window_is_taken_once_and_not_before_it_is_old():
    window = run(Window(2), 1, 6)
    assert window.take(1) == []
    assert [step for step, _ in window.take(3)] == [2]
    assert [step for step, _ in window.take(6)] == [4, 6]
    assert window.take(6) == []


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_window_saved_half_way_goes_on_bit_for_bit(cut):
    straight, before = run(Window(6), 1, 6), run(Window(6), 1, cut)
    saved = json.loads(json.dumps(before.open_sums()))
    after = run(Window(6, saved), cut + 1, 6)
    assert after.take(6) == straight.take(6)
    assert after.open_sums() is None


def test_what_is_open_holds_no_closed_window():
    window = run(Window(3), 1, 4)
    assert window.open_sums() == {"train/loss": [float(LOSSES[3].sum()), 4.0], "train/loss/q3": [0.0, 0.0]}


def test_adding_reads_and_transfers_nothing():
    given = [metrics(step) for step in range(1, 5)]
    window = Window(2)
    with jax.transfer_guard("disallow"):
        for step, m in enumerate(given, start=1):
            window.add(step, m)
    assert len(window.take(4)) == 2


def test_divide_has_no_value_where_nothing_was_counted():
    assert divide({"a": (np.float32(3), np.float32(2)), "b": (np.float32(0), np.float32(0))}) == {"a": 1.5, "b": None}
