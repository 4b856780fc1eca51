"""What a density learns belongs to the training state: it moves on healthy steps alone, the same on any devices."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from diffusion import train
from diffusion.leaves import by_path
from diffusion.mesh import make_mesh, put_replicated
from diffusion.objective import DENSITIES
from diffusion.state import fingerprint
from diffusion.steps import make_train_step
from tests.test_steps import OPTIMISER, PROCESS, ROWS, diffusion, host_batch, host_state, losses, no_stop, put, toy_net
from tests.tiny import program, state_print

DENSITY = DENSITIES["importance"](PROCESS, buckets=4, history=3)


@functools.cache
def step_on(devices: int, **changed):
    learning = replace(diffusion(toy_net(rate=0.0)), density=DENSITY)
    return make_train_step(learning, replace(OPTIMISER, **changed), make_mesh(devices))


def run(devices: int, batches, start=None, **changed):
    density = DENSITY.init() if start is None else start
    state = put_replicated(make_mesh(devices), replace(host_state("toy"), density=density))
    found = []
    for batch in batches:
        state, metrics = step_on(devices, **changed)(state, None, put(devices, batch), no_stop(devices))
        found.append(losses(metrics.sums))
    return jax.device_get(state), found


SIZES = (ROWS, 11, ROWS, 5, 29, ROWS)


def batches():
    return [host_batch(n, seed=i) for i, n in enumerate(SIZES)]


@functools.cache
def alone():
    return run(1, batches())


def assert_same_history(state, wanted):
    for path, value in by_path(wanted.density).items():
        np.testing.assert_allclose(by_path(state.density)[path], value, rtol=2e-5, err_msg=path)


def test_it_learns_and_then_draws_by_what_it_learned():
    state, found = alone()
    assert (state.density["seen"] >= 3).all() and (state.density["losses"] > 0).all()
    plain, _ = run(1, batches()[:1])
    assert found[0] == run(1, batches()[:1])[1][0], "uniform before anything is learned"
    again, _ = run(1, batches()[:1], start=state.density)
    assert fingerprint(again.opt_state) != fingerprint(plain.opt_state), "other times and weights afterwards"


@pytest.mark.parametrize(("devices", "changed"), [(8, {"micro_batches": 2}), (2, {"strict": 4})], ids=str)
def test_the_same_on_any_devices_and_in_parts(devices, changed):
    state, found = run(devices, batches(), **changed)
    assert_same_history(state, alone()[0])
    for mine, wanted in zip(found, alone()[1], strict=True):
        np.testing.assert_allclose(mine["train/loss"], wanted["train/loss"], rtol=1e-5)


def test_a_padded_batch_teaches_what_the_unpadded_one_does():
    padded = host_batch(11, seed=1)
    unpadded = jax.tree.map(lambda a: a[:11], padded)
    assert_same_history(run(1, [padded])[0], run(1, [unpadded])[0])


def test_a_bad_step_teaches_nothing():
    bad = host_batch(20, seed=9)
    bad.x[3, 2, 2] = np.nan
    before, _ = run(1, batches()[:2])
    after, _ = run(1, [*batches()[:2], bad])
    assert int(after.bad_total) == 1 and fingerprint(after.density) == fingerprint(before.density)


@pytest.mark.slow
def test_a_run_goes_on_with_what_it_learned(tmp_path):
    """Six steps at once, and three and three: the same state to the bit, with a weighting that learns beside it."""
    quiet = {"val__every": 0, "sample__every": 0, "eval__metrics": "()", "mesh__data": 1, "train__steps": 6}
    learning = {
        "objective__density": "importance",
        "objective__importance__buckets": 8,
        "objective__importance__history": 2,
        "objective__weighting": "uncertainty",
        "objective__uncertainty__channels": 4,
    }
    at_once, in_two = tmp_path / "at_once", tmp_path / "in_two"
    train.run(program(at_once, **quiet, **learning))
    train.run(program(in_two, **(quiet | {"train__steps": 3}), **learning))
    train.run(program(in_two, **quiet, **learning))
    prints = [state_print(workdir, **quiet, **learning)[0] for workdir in (at_once, in_two)]
    assert prints[0] == prints[1]
