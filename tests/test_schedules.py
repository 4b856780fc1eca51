import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.process import TARGETS, Process
from diffusion.samplers import GRIDS
from diffusion.schedules import SCHEDULES

ROWS = list(SCHEDULES)
SCHEDULE = {name: row() for name, row in SCHEDULES.items()}

GOLDEN_ABAR = {  # name: {index of the published table with T = 1000: abar}
    "linear": {0: 0.9999, 999: 4.0358297654e-5},
    "scaled_linear": {0: 0.99915, 999: 0.0046600985131},
    "quadratic": {0: 0.9999},
    "cosine": {499: 0.49384359044, 999: 2.4287669e-9},
}


def published(steps: int, start: float, end: float, power: int = 1) -> np.ndarray:
    """abar of betas evenly spaced in their root, [steps], by a loop in float64."""
    abar, product = [], 1.0
    for i in range(steps):
        share = i / (steps - 1)
        product *= 1.0 - 1000 / steps * (start ** (1 / power) * (1 - share) + end ** (1 / power) * share) ** power
        abar.append(product)
    return np.array(abar)


def published_linear(steps: int) -> np.ndarray:
    return published(steps, 1e-4, 0.02)


def published_cosine(steps: int, s: float = 0.008) -> np.ndarray:
    """abar of Nichol's betas with their clip at .999, [steps], by a loop in float64."""

    def f(t: float) -> float:
        return math.cos((t + s) / (1 + s) * math.pi / 2) ** 2

    abar, product = [], 1.0
    for i in range(steps):
        product *= 1.0 - min(1.0 - f((i + 1) / steps) / f(i / steps), 0.999)
        abar.append(product)
    return np.array(abar)


def to_zero_snr(abar: np.ndarray) -> np.ndarray:
    """Lin 2023, alg. 1."""
    alpha = np.sqrt(abar)
    return ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2


TABLES = {  # case: (row, keywords, abar)
    "linear 1000": ("linear", {}, published_linear(1000)),
    "linear 250": ("linear", {"steps": 250}, published_linear(250)),
    "scaled linear 1000": ("scaled_linear", {}, published(1000, 0.00085, 0.012, power=2)),
    "quadratic 1000": ("quadratic", {}, published(1000, 1e-4, 0.02, power=2)),
    "cosine 1000": ("cosine", {}, published_cosine(1000)),
    "cosine 4000": ("cosine", {"steps": 4000}, published_cosine(4000)),
}
PUBLISHED = {case: (SCHEDULES[name](**keywords), abar) for case, (name, keywords, abar) in TABLES.items()} | {
    f"{case} to zero SNR": (SCHEDULES[name](**keywords, zero_snr=True), to_zero_snr(abar))
    for case, (name, keywords, abar) in TABLES.items()
}


@pytest.mark.parametrize("name", GOLDEN_ABAR)
def test_golden_abar(name):
    for index, abar in GOLDEN_ABAR[name].items():
        alpha, sigma = SCHEDULES[name]().alpha_sigma(jnp.float32((index + 1) / 1000))
        np.testing.assert_allclose(float(alpha) ** 2, abar, rtol=1e-5, err_msg=f"abar[{index}]")
        np.testing.assert_allclose(float(sigma) ** 2, 1 - abar, rtol=1e-4, err_msg=f"1 - abar[{index}]")


@pytest.mark.parametrize("case", PUBLISHED)
def test_passes_through_every_published_value(case):
    schedule, abar = PUBLISHED[case]
    steps = len(abar)
    alpha, sigma = jax.jit(schedule.alpha_sigma)(jnp.arange(1, steps + 1, dtype=jnp.float32) / steps)
    # atol: a time is known to 6e-8 only, and the cosine falls to nearly 0 with a slope of 1.6
    np.testing.assert_allclose(np.asarray(alpha, np.float64), np.sqrt(abar), rtol=3e-5, atol=1e-7)
    np.testing.assert_allclose(np.asarray(sigma, np.float64), np.sqrt(1 - abar), rtol=3e-5)
    assert schedule.steps == steps


@pytest.fixture
def double_precision():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("case", PUBLISHED)
def test_every_published_value_in_double_precision(case, double_precision):
    schedule, abar = PUBLISHED[case]
    alpha, sigma = schedule.alpha_sigma(jnp.arange(1, len(abar) + 1) / len(abar))
    np.testing.assert_allclose(alpha, np.sqrt(abar), rtol=1e-5)
    np.testing.assert_allclose(sigma, np.sqrt(1 - abar), rtol=1e-5)


@pytest.mark.parametrize("case", [case for case in PUBLISHED if "zero" in case])
def test_zero_terminal_snr(case):
    """Pure noise at the end, which no eps target can invert; a log-SNR still finds its time."""
    schedule, _ = PUBLISHED[case]
    alpha, sigma = schedule.alpha_sigma(jnp.float32(1.0))
    assert float(alpha) == 0.0 and abs(float(sigma) - 1) < 1e-6 and schedule.alpha_reaches_zero
    with pytest.raises(ValueError, match="alpha is exactly 0"):
        Process(schedule, TARGETS["eps"]())
    assert_times_come_back(schedule)
    process = Process(schedule, TARGETS["v"]())
    for grid in GRIDS.values():
        ts = np.asarray(grid(process, 20))
        assert np.isfinite(ts).all() and (np.diff(ts) < 0).all()
    x0 = jnp.ones((2, 1, 1, 1))
    for target in ("x0", "v", "velocity", "edm"):
        process, ends = Process(schedule, TARGETS[target]()), jnp.float32([schedule.t_min, schedule.t_max])
        y = process.regression_target(x0, 0.5 * x0, ends)
        p = process.predict(y, process.perturb(x0, 0.5 * x0, ends), ends)
        np.testing.assert_allclose(p.x0, x0, atol=2e-5)
        np.testing.assert_allclose(p.eps, 0.5 * x0, atol=2e-4)


def S(z: float) -> float:  # noqa: N802
    return 1 / (1 + math.exp(-z))


CLOSED = {  # name: (t, alpha, sigma)
    "flow": (0.3, 0.7, 0.3),
    "edm": (2.5, 1.0, 2.5),
    "cosine": (
        0.25,
        math.cos(0.258 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2),
        math.sqrt(1 - (math.cos(0.258 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2),
    ),
    "linear": (0.1005, (published_linear(1000)[99] * published_linear(1000)[100]) ** 0.25, None),
    "scaled_linear": (0.1005, np.prod(published(1000, 0.00085, 0.012, 2)[99:101]) ** 0.25, None),
    "quadratic": (0.1005, np.prod(published(1000, 1e-4, 0.02, 2)[99:101]) ** 0.25, None),
    # Chen 2023: gamma(t) of Sigmoid(-3, 3, 1) at t = .25
    "sigmoid": (0.25, math.sqrt((S(3) - S(-1.5)) / (S(3) - S(-3))), None),
    "vp": (0.3, math.exp(-0.25 * 0.09 * 19.9 - 0.5 * 0.3 * 0.1), None),
    "sub_vp": (0.3, math.exp(-0.25 * 0.09 * 19.9 - 0.5 * 0.3 * 0.1), -math.expm1(-0.5 * 0.09 * 19.9 - 0.3 * 0.1)),
    "ve": (0.5, 1.0, math.sqrt(0.01 * 50 - 0.01**2)),
    "gvp": (0.3, math.cos(0.15 * math.pi), math.sin(0.15 * math.pi)),
    "decoupled": (0.25, 0.75, 0.5),
}


@pytest.mark.parametrize("name", ROWS)
def test_closed_form_between_published_values(name):
    t, alpha, sigma = CLOSED[name]
    sigma = math.sqrt(1 - alpha**2) if sigma is None else sigma
    np.testing.assert_allclose(np.stack(SCHEDULE[name].alpha_sigma(jnp.float32(t))), [alpha, sigma], rtol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_the_clean_end_is_exact(name):
    alpha, sigma = jax.jit(SCHEDULE[name].alpha_sigma)(jnp.float32(0.0))
    assert (float(alpha), float(sigma)) == (1.0, 0.0)


LEAST_NOISE = {"scaled_linear": 14, "quadratic": 36, "ve": 49}  # of sigma / alpha at the end, where it is less than 79


@pytest.mark.parametrize("name", ROWS)
def test_the_noisy_end(name):
    schedule = SCHEDULE[name]
    alpha, sigma = map(float, schedule.alpha_sigma(jnp.float32(schedule.t_max)))
    assert sigma / max(alpha, 1e-30) > LEAST_NOISE.get(name, 79)
    assert schedule.alpha_reaches_zero == (alpha == 0.0)


@pytest.mark.parametrize("name", ROWS)
def test_noise_grows_and_signal_does_not(name):
    schedule = SCHEDULE[name]
    times = jnp.linspace(schedule.t_min, schedule.t_max, 400)
    alpha, sigma = map(np.asarray, jax.jit(schedule.alpha_sigma)(times))
    ratio = sigma / np.maximum(alpha, 1e-30)
    assert (np.diff(alpha) <= 0).all() and (np.diff(sigma) >= 0).all() and (np.diff(ratio) > 0).all()
    if name in ("linear", "scaled_linear", "quadratic", "cosine", "sigmoid", "vp", "gvp"):
        np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)


def assert_times_come_back(schedule, atol: float = 0.0) -> None:
    share = np.concatenate([np.geomspace(1e-3, 0.1, 20), np.linspace(0.1, 0.95, 30)])
    times = (schedule.t_min + share * (schedule.t_max - schedule.t_min)).astype(np.float32)

    def there_and_back(t):
        alpha, sigma = schedule.alpha_sigma(t)
        return schedule.t_of_logsnr(2.0 * (jnp.log(alpha) - jnp.log(sigma)))

    np.testing.assert_allclose(jax.jit(there_and_back)(jnp.asarray(times)), times, rtol=2e-5, atol=atol)


@pytest.mark.parametrize("name", ROWS)
def test_a_time_comes_back_from_its_logsnr(name):
    # geometric in t: the rounding of a logarithm is one of t itself
    assert_times_come_back(SCHEDULE[name], atol=1e-6 if name == "ve" else 0.0)


@pytest.mark.parametrize("name", ROWS)
def test_slopes_are_finite_where_training_draws(name):
    schedule = SCHEDULE[name]
    ends = jnp.float32([schedule.t_min, schedule.t_max])
    _, slopes = jax.jvp(schedule.alpha_sigma, (ends,), (jnp.ones(2),))
    assert np.isfinite(np.stack(slopes)).all()


@pytest.mark.parametrize("name", ROWS)
def test_extreme_logsnrs_give_times_inside_the_range(name):
    schedule = SCHEDULE[name]
    noisy, clean = map(float, schedule.t_of_logsnr(jnp.asarray([-30.0, 60.0])))
    assert math.isfinite(noisy) and 0 <= clean < schedule.t_min
    assert noisy >= 0.999 * schedule.t_max


@pytest.mark.parametrize("name", ROWS)
def test_progress_runs_from_0_to_1(name):
    schedule = SCHEDULE[name]
    progress = np.asarray(schedule.progress(jnp.linspace(schedule.t_min, schedule.t_max, 9)))
    assert 0 <= progress[0] <= 0.01 and 0.99 <= progress[-1] <= 1 and (np.diff(progress) > 0).all()


def test_noise_embedding_numbers():
    np.testing.assert_allclose(SCHEDULE["edm"].c_noise(jnp.float32(2.0)), math.log(2.0) / 4, rtol=1e-6)
    for name in ("linear", "cosine", "flow"):
        np.testing.assert_allclose(SCHEDULE[name].c_noise(jnp.float32(0.25)), 250.0, rtol=1e-6)


ILLEGAL = {  # case: (row, keywords, what the message names)
    "no steps": ("linear", {"steps": 0}, "steps is 0"),
    "no noise": ("linear", {"beta_start": 0.0}, "beta_start"),
    "falling betas": ("linear", {"beta_start": 0.02, "beta_end": 0.01}, "not fall"),
    "betas above 1 at few steps": ("linear", {"steps": 20}, "20 steps"),
    "no offset": ("cosine", {"s": 0.0}, "positive"),
    "a cosine of one step": ("cosine", {"steps": 1}, "steps is 1"),
    "zero SNR in one step": ("linear", {"steps": 1, "beta_end": 0.0005, "zero_snr": True}, "at least 2 steps"),
    "a sigmoid that falls": ("sigmoid", {"start": 3.0}, "start < end"),
    "a sigmoid without width": ("sigmoid", {"tau": 0.0}, "tau"),
    "beta_min 0": ("vp", {"beta_min": 0.0}, "beta_min"),
    "betas swapped": ("sub_vp", {"beta_min": 20.0, "beta_max": 0.1}, "beta_min < beta_max"),
    "VE's sigmas swapped": ("ve", {"sigma_min": 80.0}, "sigma_min < sigma_max"),
    "offset of no number": ("cosine", {"s": math.nan}, "positive"),
    "sigma_min 0": ("edm", {"sigma_min": 0.0}, "sigma_min"),
    "sigmas swapped": ("edm", {"sigma_min": 80.0, "sigma_max": 0.002}, "sigma_min < sigma_max"),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_keywords_are_refused(case):
    name, keywords, message = ILLEGAL[case]
    with pytest.raises(ValueError, match=message):
        SCHEDULES[name](**keywords)


def test_the_sigmoid_finds_times_close_to_its_noisy_end():
    """Where abar is 1e-4, by the inverse of the paper's formula in float64."""
    z = S(3) - 1e-4 * (S(3) - S(-3))
    t = (math.log(z / (1 - z)) + 3) / 6
    found = float(SCHEDULE["sigmoid"].t_of_logsnr(jnp.float32(math.log(1e-4 / (1 - 1e-4)))))
    assert 0.9996 < t < 0.9998 and abs(found - t) < 2e-7
