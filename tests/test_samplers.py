"""Samplers without a network: where the data are N(MU, SD^2), the exact denoiser is linear and so is every step.

What a sampler makes of x_T and its noises is then read off as coefficients, and its mean and deviation are exact
numbers at every number of steps.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from diffusion.process import TARGETS, Process
from diffusion.samplers import GRIDS, SAMPLERS, sample
from diffusion.schedules import SCHEDULES, Schedule
from diffusion.types import Prediction

MU, SD = 0.3, 0.5
IMAGES, LONGEST = 256, 80
PROCESSES = {name: Process(row(), TARGETS["x0"]()) for name, row in SCHEDULES.items()}
NAMES = list(PROCESSES)

RULES = {  # case: (row, keywords)
    **{name: (name, {}) for name in SAMPLERS},
    "ddpm large": ("ddpm", {"variance": "large"}),
    "ddim eta .5": ("ddim", {"eta": 0.5}),
}
# Rules whose order shows only beyond 80 equal steps in log-SNR: t is a logarithm of sigma (ve), beta grows two
# hundredfold (sub_vp), or sigma leaps from a table's first step, .03, to 0, and its path has kinks
LATE = {
    *(("euler", "ve"), ("heun", "ve"), ("euler", "sub_vp"), ("heun", "sub_vp")),
    *(("heun", "scaled_linear"), ("heun", "quadratic"), ("dpmpp_2m", "scaled_linear")),
}
QUICK = ("linear", "cosine", "flow", "edm")
IN_ORDER = [
    pytest.param(case, name, marks=() if name in QUICK else pytest.mark.slow)
    for case in RULES
    for name in NAMES
    if (case, name) not in LATE
]
MARGIN = 6  # on the error's constant, taken at 50 steps: with five, log-SNR jumps by four in one step


def keys(n: int) -> jax.Array:
    return jax.random.split(jax.random.key(3), n)


def gaussian(process: Process):
    """E[x0 | x_t] and E[eps | x_t] for data N(MU, SD^2)."""

    def denoise(x, t):
        alpha, sigma = process.schedule.alpha_sigma(t)
        excess = (x - alpha * MU) / ((alpha * SD) ** 2 + sigma**2)
        return Prediction(MU + alpha * SD**2 * excess, sigma * excess)

    return denoise


def one_of_all(which: jax.Array) -> Process:
    """The process of the ``which``-th schedule, so that one compiled program serves them all."""
    pairs = [process.schedule.alpha_sigma for process in PROCESSES.values()]
    none = [None] * 3
    return Process(Schedule(lambda t: lax.switch(which, pairs, t), *none, t_min=0.0, t_max=1.0), TARGETS["x0"]())


def step_keys(i: jax.Array) -> jax.Array:
    """The keys of step i, [IMAGES]; an image's key folded with 0 is left to its initial draw."""
    return jax.vmap(lambda key: jax.random.fold_in(key, i + 1))(keys(IMAGES))


@functools.cache
def noises() -> np.ndarray:
    """[step image], the standard normal number that each image's key gives at each step."""
    one_step = jax.vmap(lambda key: jax.random.normal(key, (1, 1, 1)))
    z = jax.jit(jax.vmap(lambda i: one_step(step_keys(i))))(jnp.arange(LONGEST))
    return np.asarray(z, np.float64).reshape(LONGEST, IMAGES)


@functools.cache
def program(case: str):
    """A rule's steps along the first n of a row of times, compiled once for every n and schedule."""
    name, keywords = RULES[case]
    rule = SAMPLERS[name](**keywords)

    @jax.jit
    def go(which, n, ts, x):
        process = one_of_all(which)

        def body(i, carry):
            x, memory = carry
            return rule.step(process, gaussian(process), x, ts[i], ts[i + 1], memory, step_keys(i))

        return lax.fori_loop(0, n, body, (x, rule.init(process, x)))[0]

    return go


@functools.cache
def error(case: str, schedule: str, steps: int) -> float:
    """Distance of (mean, deviation) from (MU, SD), starting from the exact distribution of x at ts[0]."""
    process = PROCESSES[schedule]
    ts = GRIDS["logsnr"](process, steps)
    alpha, sigma = map(float, process.schedule.alpha_sigma(ts[0]))
    mean, deviation = alpha * MU, math.hypot(alpha * SD, sigma)
    x = np.float32(mean + deviation * np.random.default_rng(0).standard_normal(IMAGES))
    out = program(case)(
        NAMES.index(schedule), steps, jnp.pad(ts, (0, LONGEST - steps)), jnp.asarray(x.reshape(IMAGES, 1, 1, 1))
    )
    z = noises()[:steps] if SAMPLERS[RULES[case][0]](**RULES[case][1]).stochastic else []
    inputs = np.stack([np.ones(IMAGES), (x - mean) / deviation, *z], axis=1)
    out = np.asarray(out, np.float64).ravel()
    coefficients, *_ = np.linalg.lstsq(inputs, out, rcond=None)
    np.testing.assert_allclose(inputs @ coefficients, out, atol=2e-5 * max(1.0, np.abs(out).max()))
    return math.hypot(coefficients[0] - MU, np.linalg.norm(coefficients[1:]) - SD)


@pytest.mark.parametrize(("case", "schedule"), IN_ORDER)
def test_few_steps_are_as_right_as_the_order_promises(case, schedule):
    order = SAMPLERS[RULES[case][0]](**RULES[case][1]).order
    constant = error(case, schedule, 50) * 50**order
    assert error(case, schedule, 50) < (0.08 if order == 1 else 0.004)
    for steps in (5, 10, 20):
        assert error(case, schedule, steps) < MARGIN * constant / steps**order, steps


@pytest.mark.parametrize(("case", "schedule"), IN_ORDER)
def test_measured_order(case, schedule):
    counts = (20, 40, 80)
    errors = [error(case, schedule, steps) for steps in counts]
    measured = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert measured > SAMPLERS[RULES[case][0]](**RULES[case][1]).order - 0.3, errors


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m"])
def test_sample_is_the_rules_steps_one_after_the_other(name):
    process, steps = PROCESSES["cosine"], 6
    ts = GRIDS["logsnr"](process, steps)
    x = jnp.asarray(np.linspace(-2, 2, IMAGES, dtype=np.float32).reshape(IMAGES, 1, 1, 1))
    by_hand = program(name)(NAMES.index("cosine"), steps, jnp.pad(ts, (0, LONGEST - steps)), x)
    whole = jax.jit(lambda ts, x: sample(process, gaussian(process), SAMPLERS[name](), ts, keys(IMAGES), x=x))(ts, x)
    np.testing.assert_allclose(whole, by_hand, atol=1e-5)


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
    process = PROCESSES["linear"]
    ts = GRIDS["uniform"](process, steps)
    start = math.sqrt(abar[0] * SD**2 + 1 - abar[0])
    x = np.float32(math.sqrt(abar[0]) * MU + start * np.random.default_rng(0).standard_normal(IMAGES))
    padded = jnp.pad(ts, (0, LONGEST - steps))
    out = program("ddpm")(NAMES.index("linear"), steps, padded, jnp.asarray(x.reshape(IMAGES, 1, 1, 1)))
    inputs = np.stack([np.ones(IMAGES), (x - math.sqrt(abar[0]) * MU) / start, *noises()[:steps]], axis=1)
    coefficients, *_ = np.linalg.lstsq(inputs, np.asarray(out, np.float64).ravel(), rcond=None)
    np.testing.assert_allclose(np.linalg.norm(coefficients[1:]), closed_form_ddpm(abar, start), rtol=1e-4)
    np.testing.assert_allclose(coefficients[0], MU, atol=1e-4)


def bent(x, alpha, sigma, tanh):
    """A denoiser that is not linear, for NumPy and JAX alike."""
    return tanh(2 * x / (alpha + sigma)) - 0.1 * x / (1 + sigma)


def bent_denoiser(process: Process):
    def denoise(x, t):
        alpha, sigma = process.schedule.alpha_sigma(t)
        x0 = bent(x, alpha, sigma, jnp.tanh)
        return Prediction(x0, (x - alpha * x0) / sigma)

    return denoise


def run(name: str, schedule: str, ts, x: np.ndarray, **keywords) -> np.ndarray:
    """[n], the end of the sampler's path from the states x [n]."""
    process, rule = PROCESSES[schedule], SAMPLERS[name](**keywords)
    go = jax.jit(lambda ts, x: sample(process, bent_denoiser(process), rule, ts, keys(len(x)), x=x))
    return np.asarray(go(jnp.float32(ts), jnp.float32(x.reshape(-1, 1, 1, 1))), np.float64).ravel()


X_T = np.linspace(-2, 2, 9)


def karras_sigmas(steps: int) -> np.ndarray:
    i = np.arange(steps)
    sigmas = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    return np.append(sigmas, 0.0)


def karras_algorithm_1(x: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    for now, then in zip(sigmas, sigmas[1:], strict=False):
        d = (x - bent(x, 1.0, now, np.tanh)) / now
        guess = x + (then - now) * d
        if then != 0:
            d = (d + (guess - bent(guess, 1.0, then, np.tanh)) / then) / 2
            guess = x + (then - now) * d
        x = guess
    return x


def test_heun_is_karras_algorithm_1():
    sigmas = karras_sigmas(6)
    ts = GRIDS["karras"](PROCESSES["edm"], 6)
    np.testing.assert_allclose(run("heun", "edm", ts, 80 * X_T), karras_algorithm_1(80 * X_T, sigmas), atol=2e-4)


def dpmpp_2m(x: np.ndarray, alphas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Lu 2022b, algorithm 2, with a first-order last step; a clean end (alpha 1, sigma 0) is the last x0 itself."""
    h_before = x0_before = None
    for i in range(len(alphas) - 1):
        x0 = bent(x, alphas[i], sigmas[i], np.tanh)
        if sigmas[i + 1] == 0:
            return x0
        h = np.log(alphas[i + 1] / sigmas[i + 1]) - np.log(alphas[i] / sigmas[i])
        d = x0
        if h_before is not None:
            r = h_before / h
            d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * x0_before
        x = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * np.expm1(-h) * d
        h_before, x0_before = h, x0
    return x


PATHS = {  # schedule: (times, alpha, sigma) in float64, unevenly spaced
    "edm": lambda t: (t, np.ones_like(t), t),
    "cosine": lambda t: (t, *_cosine(t)),
    "flow": lambda t: (t, 1 - t, t),
}
UNEVEN = {
    "edm": karras_sigmas(6),
    "cosine": np.array([0.98, 0.8, 0.7, 0.4, 0.25, 0.02, 0.0]),
    "flow": np.array([0.98, 0.8, 0.7, 0.4, 0.25, 0.02, 0.0]),
}


def _cosine(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    alpha = np.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    return alpha, np.sqrt(np.maximum(1 - alpha**2, 0))


@pytest.mark.parametrize("schedule", UNEVEN)
def test_dpmpp_2m_is_the_papers(schedule):
    ts, alphas, sigmas = PATHS[schedule](UNEVEN[schedule])
    x = sigmas[0] * X_T
    np.testing.assert_allclose(run("dpmpp_2m", schedule, ts, x), dpmpp_2m(x, alphas, sigmas), atol=1e-4)


def test_dpmpp_2m_starts_where_alpha_is_0():
    """The first log-SNR is -inf there; the first two steps are of first order."""
    ts = np.array([1.0, 0.8, 0.5, 0.1, 0.0])
    x = bent(X_T, 0.0, 1.0, np.tanh) * 0.2 + 0.8 * X_T  # x = t x + (1 - t) x0 at t = .8
    x = 0.5 / 0.8 * x + (0.5 - 0.5 / 0.8 * 0.2) * bent(x, 0.2, 0.8, np.tanh)
    before = bent(bent(X_T, 0.0, 1.0, np.tanh) * 0.2 + 0.8 * X_T, 0.2, 0.8, np.tanh)
    h, h_before = math.log(9) - 0.0, 0.0 - math.log(0.25)
    now = bent(x, 0.5, 0.5, np.tanh)
    d = now + h / (2 * h_before) * (now - before)
    x = 0.1 / 0.5 * x + (0.9 - 0.1 / 0.5 * 0.5) * d
    np.testing.assert_allclose(run("dpmpp_2m", "flow", ts, X_T), bent(x, 0.9, 0.1, np.tanh), atol=1e-4)


SAME = {  # case: (schedule, two rules that must agree)
    "DDIM with eta 1 is ancestral": ("cosine", ("ddim", {"eta": 1.0}), ("ddpm", {"variance": "small"})),
    "on EDM DDIM is Euler": ("edm", ("ddim", {}), ("euler", {})),
    "on flow DDIM is Euler": ("flow", ("ddim", {}), ("euler", {})),
}


@pytest.mark.parametrize("case", SAME)
def test_rules_that_agree(case):
    schedule, *rules = SAME[case]
    ts = UNEVEN[schedule]
    found = [run(name, schedule, ts, X_T * PATHS[schedule](ts)[2][0], **keywords) for name, keywords in rules]
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_depends_on_its_own_key_only(name):
    process = PROCESSES["cosine"]
    ts = jnp.float32(UNEVEN["cosine"][2:])
    go = jax.jit(lambda k: sample(process, bent_denoiser(process), SAMPLERS[name](), ts, k, shape=(2, 3, 1)))
    order = np.array([2, 0, 3, 1])
    whole = np.asarray(go(keys(4)))
    assert whole.shape == (4, 2, 3, 1) and len(np.unique(whole)) == whole.size
    np.testing.assert_array_equal(go(keys(4)[order]), whole[order])
    np.testing.assert_allclose(go(keys(4)[1:3]), whole[1:3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["ddpm", "ddpm large", "ddim eta .5"])
def test_the_last_step_adds_no_noise(case):
    name, keywords = RULES[case]
    found = run(name, "flow", [0.5, 0.0], np.full(9, 0.7), **keywords)
    np.testing.assert_allclose(found, np.full(9, bent(0.7, 0.5, 0.5, np.tanh)), atol=1e-6)


def test_the_initial_draw_has_the_deviation_of_the_first_time():
    process = PROCESSES["edm"]
    ts = jnp.asarray([80.0, 0.0])
    keep = lambda x, t: Prediction(x, jnp.zeros_like(x))  # noqa: E731
    drawn = np.asarray(sample(process, keep, SAMPLERS["ddim"](), ts, keys(16), shape=(16, 16, 1)))
    assert abs(drawn.std() / 80 - 1) < 4 / math.sqrt(2 * drawn.size) and abs(drawn.mean()) < 4 * 80 / 64


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("grid", GRIDS)
def test_grids_decrease_to_the_clean_end(grid, schedule):
    process = PROCESSES[schedule]
    for steps in (1, 2, 10, 250):
        ts = np.asarray(GRIDS[grid](process, steps))
        assert ts.shape == (steps + 1,) and ts[-1] == 0.0 and (np.diff(ts) < 0).all(), steps
        assert 0.9 * process.schedule.t_max < ts[0] <= np.float32(process.schedule.t_max) or steps == 1
        if grid != "uniform" and steps > 1:
            assert ts[-2] >= 0.999 * process.schedule.t_min, "the last step starts inside the trained range"


def test_golden_grids():
    np.testing.assert_allclose(GRIDS["karras"](PROCESSES["edm"], 18), karras_sigmas(18), rtol=2e-5)
    # sigma_1 and sigma_16 of the paper's default grid with N = 18
    np.testing.assert_allclose(GRIDS["karras"](PROCESSES["edm"], 18)[1], 57.585948, rtol=1e-5)
    np.testing.assert_allclose(GRIDS["uniform"](PROCESSES["flow"], 4), [1, 0.75, 0.5, 0.25, 0], rtol=1e-6)
    np.testing.assert_allclose(GRIDS["logsnr"](PROCESSES["edm"], 3), [80, 0.4, 0.002, 0], rtol=1e-5)
    sigmas = karras_sigmas(5)[:-1]
    np.testing.assert_allclose(GRIDS["karras"](PROCESSES["flow"], 5)[:-1], sigmas / (1 + sigmas), rtol=2e-5)


ILLEGAL = {  # case: (what is asked for, what the message says)
    "an eta above 1": (lambda: SAMPLERS["ddim"](eta=1.5), "eta is 1.5"),
    "an eta below 0": (lambda: SAMPLERS["ddim"](eta=-0.1), "eta is -0.1"),
    "an unknown variance": (lambda: SAMPLERS["ddpm"](variance="learned"), "'learned'.*'small'.*'large'"),
    "rho 0": (lambda: GRIDS["karras"](PROCESSES["edm"], 5, rho=0.0), "rho 0"),
    "sigmas swapped": (lambda: GRIDS["karras"](PROCESSES["edm"], 5, sigma_min=2.0, sigma_max=1.0), "sigma_min < sig"),
    "neither shape nor x": (lambda: _sample([1.0, 0.0]), "either shape"),
    "shape and x": (lambda: _sample([1.0, 0.0], shape=(1, 1, 1), x=jnp.zeros((4, 1, 1, 1))), "either shape"),
    "a single time": (lambda: _sample([0.0], shape=(1, 1, 1)), "at least two times"),
}


def _sample(ts: list[float], **keywords) -> jax.Array:
    process = PROCESSES["flow"]
    return sample(process, gaussian(process), SAMPLERS["euler"](), jnp.asarray(ts), keys(4), **keywords)


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_requests_are_refused(case):
    ask, message = ILLEGAL[case]
    with pytest.raises(ValueError, match=message):
        ask()
