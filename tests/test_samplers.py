"""What every sampler promises, with and without a network's help: order, few steps, keys, slots, trajectories."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.process import Process
from diffusion.samplers import GRIDS, SAMPLERS, sample
from diffusion.types import Prediction
from tests import gaussian
from tests.gaussian import IMAGES, MU, ON_DECOUPLED, PROCESSES, QUICK, RULES, SD, error, keys, rule, steps_of

MARGIN = 6  # on the error's constant, taken at 50 steps: with five, log-SNR jumps by four in one step

# Rules whose order shows only beyond 80 equal steps in log-SNR: t is a logarithm of sigma (ve), beta grows two
# hundredfold (sub_vp), or sigma leaps from a table's first step, .03, to 0, which leaves 5e-4 to 1e-3 at any number of
# steps, and its path has kinks
LATE = {
    *(("euler", "ve"), ("heun", "ve"), ("heun churn", "ve"), ("euler", "sub_vp"), ("heun", "sub_vp")),
    *(("heun", "scaled_linear"), ("heun", "quadratic"), ("dpmpp_2m", "scaled_linear"), ("unipc", "scaled_linear")),
    *(("dpmpp_2m_sde", "scaled_linear"), ("dpmpp_2m_sde eta .5", "scaled_linear")),
}
SDE_2M = {case for case in RULES if case.startswith("dpmpp_2m_sde")}  # slower to its order, and larger until there
NOISY = SDE_2M | {"heun churn"}
SCHEDULES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in PROCESSES if name not in QUICK)]
CASES = [(case, schedule) for case in RULES for schedule in QUICK] + [(case, "decoupled") for case in ON_DECOUPLED]
SLOW_CASES = [(case, schedule) for case in RULES for schedule in PROCESSES if schedule not in QUICK]
SLOW_CASES = [pair for pair in SLOW_CASES if pair not in LATE]
EVERY = pytest.mark.parametrize(
    "case, schedule", [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)]
)


@EVERY
def test_few_steps_are_as_right_as_the_order_promises(case, schedule):
    order = rule(case).order
    constant = error(case, schedule, 50) * 50**order
    assert error(case, schedule, 50) < (0.08 if order == 1 else 0.009 if case in NOISY else 0.004)
    for steps in (5, 10, 20):
        assert error(case, schedule, steps) < MARGIN * constant / steps**order, steps


@EVERY
def test_measured_order(case, schedule):
    counts = (40, 80, 160) if case in SDE_2M else (20, 40, 80)
    errors = [error(case, schedule, steps) for steps in counts]
    measured = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    # on the decoupled schedule the path of data of deviation 1/2 is a straight line: nothing but rounding is left
    assert measured > rule(case).order - 0.3 or max(errors) < 2e-7, errors


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m"])
def test_sample_is_the_rules_steps_one_after_the_other(name):
    process = PROCESSES["cosine"]
    ts = GRIDS["logsnr"](process, 6)
    x = np.linspace(-2, 2, IMAGES, dtype=np.float32)
    denoise, shaped = gaussian.gaussian(process), jnp.asarray(x.reshape(IMAGES, 1, 1, 1))
    whole = jax.jit(lambda ts, x: sample(process, denoise, SAMPLERS[name](), ts, keys(IMAGES), x=x))(ts, shaped)
    np.testing.assert_allclose(np.ravel(whole), steps_of(name, "cosine", np.asarray(ts), x), atol=1e-5)


def closed_form_ddpm(abar: np.ndarray, deviation: float) -> float:
    """The deviation after ancestral steps over ``abar`` (noisy to clean, ending in 1) by Ho 2020, eq. 7, in float64."""
    variance = deviation**2
    for now, then in zip(abar, abar[1:], strict=False):
        beta = 1 - now / then
        gain = SD**2 * math.sqrt(now) / (now * SD**2 + 1 - now)
        slope = math.sqrt(then) * beta / (1 - now) * gain + math.sqrt(now / then) * (1 - then) / (1 - now)
        variance = slope**2 * variance + (1 - then) / (1 - now) * beta
    return math.sqrt(variance)


@pytest.mark.parametrize("steps", [5, 50])
def test_strided_ancestral_uses_the_abar_of_the_times_it_visits(steps):
    abar = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])[:: -1000 // steps]
    start = math.sqrt(abar[0] * SD**2 + 1 - abar[0])
    ts = np.asarray(GRIDS["uniform"](PROCESSES["linear"], steps))
    mean, deviation = gaussian.mean_and_deviation("ddpm", "linear", ts)
    np.testing.assert_allclose(deviation, closed_form_ddpm(abar, start), rtol=1e-4)
    np.testing.assert_allclose(mean, MU, atol=1e-4)


def mixing(process: Process):
    """A denoiser whose pixels see one another through a matrix product, as a net's do."""
    weights = jnp.asarray(np.random.default_rng(1).normal(0, 0.4, (6, 6)), jnp.float32)

    def denoise(x, t):
        alpha, sigma = process.schedule.alpha_sigma(t)
        x0 = jnp.tanh((x / (alpha + sigma)).reshape(len(x), 6) @ weights).reshape(x.shape)
        return Prediction(x0, (x - alpha * x0) / sigma)

    return denoise


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_is_the_same_in_any_slot(name):
    """Bit for bit in one compiled shape, alone or among 64; to 1e-5 in another shape."""
    process, slots = PROCESSES["decoupled" if name == "decoupled" else "cosine"], np.array([0, 17, 63])
    ts = jnp.float32([0.7, 0.4, 0.25, 0.02, 0.0])
    go = jax.jit(lambda k: sample(process, mixing(process), SAMPLERS[name](), ts, k, shape=(2, 3, 1)))
    among = np.asarray(go(keys(64)))
    assert among.shape == (64, 2, 3, 1) and len(np.unique(among)) == among.size
    for slot in slots:
        alone = np.asarray(go(keys(64)[np.full(64, slot)]))
        np.testing.assert_array_equal(alone, np.broadcast_to(among[slot], alone.shape))
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(go(keys(64)[order]), among[order])
    np.testing.assert_allclose(go(keys(64)[slots]), among[slots], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "heun", "unipc"])
def test_the_trajectory_is_what_the_denoiser_answered(name):
    process, ts = PROCESSES["flow"], jnp.float32([0.7, 0.4, 0.02, 0.0])
    given = process, mixing(process), SAMPLERS[name](), ts, keys(4), (2, 3, 1)
    plain = np.asarray(jax.jit(lambda: sample(*given))())
    x0, seen = jax.jit(lambda: sample(*given, trajectory=True))()
    np.testing.assert_allclose(x0, plain, atol=1e-6)
    assert seen.shape == (3, 4, 2, 3, 1)
    first = process.schedule.alpha_sigma(ts[0])[1] * jax.vmap(
        lambda key: jax.random.normal(jax.random.fold_in(key, 0), (2, 3, 1))
    )(keys(4))
    np.testing.assert_allclose(seen[0], mixing(process)(first, ts[0]).x0, atol=1e-5)
    np.testing.assert_allclose(seen[-1], plain, atol=1e-5)


def test_the_initial_draw_has_the_deviation_of_the_first_time():
    process = PROCESSES["edm"]
    ts = jnp.asarray([80.0, 0.0])
    keep = lambda x, t: Prediction(x, jnp.zeros_like(x))  # noqa: E731
    drawn = np.asarray(sample(process, keep, SAMPLERS["ddim"](), ts, keys(16), shape=(16, 16, 1)))
    assert abs(drawn.std() / 80 - 1) < 4 / math.sqrt(2 * drawn.size) and abs(drawn.mean()) < 4 * 80 / 64


ILLEGAL = {  # case: (what is asked for, what the message says)
    "neither shape nor x": (lambda: _sample([1.0, 0.0]), "either shape"),
    "shape and x": (lambda: _sample([1.0, 0.0], shape=(1, 1, 1), x=jnp.zeros((4, 1, 1, 1))), "either shape"),
    "a single time": (lambda: _sample([0.0], shape=(1, 1, 1)), "at least two times"),
}


def _sample(ts: list[float], **keywords) -> jax.Array:
    process = PROCESSES["flow"]
    return sample(process, gaussian.gaussian(process), SAMPLERS["euler"](), jnp.asarray(ts), keys(4), **keywords)


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_requests_are_refused(case):
    ask, message = ILLEGAL[case]
    with pytest.raises(ValueError, match=message):
        ask()
