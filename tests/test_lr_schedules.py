import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.lr_schedules import LR_SCHEDULES, Schedule, depends_on_steps, plateau_state
from diffusion.tables import rows

LR, STEPS = 1e-3, 100

SMALL = {  # keywords that make a schedule move within STEPS updates
    "warmup": {"warmup_steps": 10},
    "warmup_cosine": {"warmup_steps": 10, "end_scale": 0.1},
    "cosine_restarts": {"period": 10, "growth": 2, "peak_decay": 0.5},
    "linear": {"warmup_steps": 10, "end_scale": 0.5},
    "step": {"interval": 20},
    "exponential": {"interval": 20, "end_scale": 0.1},
    "inverse_sqrt": {"warmup_steps": 15},
    "plateau": {"warmup_steps": 4, "patience": 2},
}


def small(name: str, steps: int = STEPS) -> Schedule:
    return LR_SCHEDULES[name](LR, steps, **SMALL.get(name, {}))


def rates(schedule: Schedule, n: int = STEPS) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(n)))


GOLDEN = {  # name: {updates: share of LR}
    "constant": {0: 1.0, 99: 1.0},
    "warmup": {0: 1 / 11, 4: 5 / 11, 10: 1.0, 50: 1.0},
    "cosine": {0: 1.0, 50: 0.5, 75: 0.5 - 0.5**1.5},
    "warmup_cosine": {0: 1 / 11, 10: 1.0, 55: 0.55},
    "cosine_restarts": {0: 1.0, 5: 0.5, 10: 0.5, 20: 0.25, 30: 0.25, 50: 0.125, 70: 0.125},
    "linear": {0: 1 / 11, 10: 1.0, 55: 0.75},
    "step": {19: 1.0, 20: 0.5, 39: 0.5, 40: 0.25},
    "exponential": {0: 1.0, 20: 0.5, 30: 0.5**1.5, 99: 0.1},
    "one_cycle": {0: 1 / 25, 30: 1.0, 65: (1 + 1 / 25e4) / 2},
    "inverse_sqrt": {0: 1 / 16, 7: 0.5, 15: 1.0, 63: 0.5},
    "plateau": {0: 1 / 5, 4: 1.0, 99: 1.0},
}


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_golden_rates(name):
    got = rates(small(name))
    for updates, share in GOLDEN[name].items():
        np.testing.assert_allclose(got[updates], share * LR, rtol=2e-6, err_msg=f"{name} at {updates}")


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_rates_are_finite_positive_and_never_above_the_peak(name):
    got = rates(small(name))
    assert got.dtype == np.float32
    assert np.isfinite(got).all() and (got > 0).all() and (got <= LR * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_dependence_on_the_length_of_the_run_is_declared_truly(name):
    differ = not np.array_equal(rates(small(name)), rates(small(name, 2 * STEPS)))
    assert depends_on_steps(name) == small(name).depends_on_steps == differ


def test_equal_cycles_restart():
    got = rates(LR_SCHEDULES["cosine_restarts"](LR, STEPS, period=25))
    np.testing.assert_array_equal(got[:25], got[75:])


def test_a_long_restart_schedule_counts_in_integers():
    schedule = LR_SCHEDULES["cosine_restarts"](LR, STEPS, period=1000, growth=3)
    assert float(schedule(jnp.int32(2**31 - 1))) >= 0


BAD = [
    ("constant", {"lr": -1.0}, "lr"),
    ("constant", {"lr": float("nan")}, "lr"),
    ("cosine", {"steps": 0}, "steps"),
    ("cosine", {"end_scale": 1.5}, "end_scale"),
    ("warmup", {"warmup_steps": -1}, "warmup_steps"),
    ("warmup_cosine", {"warmup_steps": 100}, "warmup_steps"),
    ("linear", {"warmup_steps": 100}, "warmup_steps"),
    ("cosine_restarts", {"period": 0}, "period"),
    ("cosine_restarts", {"growth": 0}, "growth"),
    ("cosine_restarts", {"peak_decay": 0.0}, "peak_decay"),
    ("step", {"interval": 0}, "interval"),
    ("step", {"factor": 0.0}, "factor"),
    ("exponential", {"factor": 2.0}, "factor"),
    ("one_cycle", {"warmup_share": -0.1}, "warmup_share"),
    ("inverse_sqrt", {"warmup_steps": -5}, "warmup_steps"),
    ("plateau", {"factor": 1.0}, "factor"),
    ("plateau", {"patience": 0}, "patience"),
    ("plateau", {"rtol": 0.0}, "rtol"),
    ("plateau", {"cooldown": -1}, "cooldown"),
    ("plateau", {"every": 0}, "every"),
    ("plateau", {"min_scale": -0.1}, "min_scale"),
]


@pytest.mark.parametrize(("name", "keywords", "field"), BAD)
def test_an_illegal_number_is_named(name, keywords, field):
    keywords = {"lr": LR, "steps": STEPS} | keywords
    lr, steps = keywords.pop("lr"), keywords.pop("steps")
    with pytest.raises(ValueError, match=f"^{field}: "):
        LR_SCHEDULES[name](lr, steps, **keywords)


def test_only_the_rhythm_of_observations_is_called_every():
    """A field ``every`` may change on resume; what shapes a rate as a function of updates may not."""
    assert [name for name, keywords in rows(LR_SCHEDULES).items() if "every" in keywords] == ["plateau"]


def observe_all(values, **keywords):
    plateau = LR_SCHEDULES["plateau"](LR, STEPS, **keywords).plateau
    state, scales = plateau.init(), []
    for value in values:
        state = plateau.observe(state, jnp.float32(value))
        scales.append(float(state.scale))
    return state, scales


def test_a_loss_that_improves_at_each_validation_never_reduces_the_rate():
    _, scales = observe_all([0.99**k for k in range(60)], patience=1)
    assert scales == [1.0] * 60


def test_patience_counts_observations():
    _, scales = observe_all([1.0] * 8, patience=3, factor=0.5)
    assert scales == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_cooldown_and_lowest_scale():
    _, scales = observe_all([1.0] * 8, patience=1, cooldown=2, factor=0.5, min_scale=0.3)
    assert scales == [
        1.0,
        0.5,
        0.5,
        0.5,
        pytest.approx(0.3),
        pytest.approx(0.3),
        pytest.approx(0.3),
        pytest.approx(0.3),
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_observation_that_is_not_finite_changes_nothing(bad):
    state, _ = observe_all([1.0, 0.9, 0.95])
    ignored, _ = observe_all([1.0, bad, 0.9, bad, 0.95, bad])
    assert jax.tree.map(float, state) == jax.tree.map(float, ignored)


def test_only_the_plateau_has_a_rule_and_every_run_carries_its_state():
    with_rule = [name for name in LR_SCHEDULES if small(name).plateau is not None]
    assert with_rule == ["plateau"]
    assert jax.tree.structure(small("plateau").plateau.init()) == jax.tree.structure(plateau_state())


def test_rates_that_jump_say_so():
    """A jump is what a user is told of: the rate keeps its value for several updates, then changes."""
    assert {name for name in LR_SCHEDULES if small(name).in_steps} == {"step", "plateau"}
