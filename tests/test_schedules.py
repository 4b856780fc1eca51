import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.schedules import SCHEDULES

ROWS = list(SCHEDULES)
SCHEDULE = {name: row() for name, row in SCHEDULES.items()}

GOLDEN_ABAR = {  # name: {index of the published table with T = 1000: abar}
    "linear": {0: 0.9999, 999: 4.0358297654e-5},
    "cosine": {499: 0.49384359044, 999: 2.4287669e-9},
}


def published_linear(steps: int) -> np.ndarray:
    """abar of DDPM's betas, [steps], by a loop in float64."""
    abar, product = [], 1.0
    for i in range(steps):
        share = i / (steps - 1)
        product *= 1.0 - 1000 / steps * (1e-4 * (1 - share) + 0.02 * share)
        abar.append(product)
    return np.array(abar)


def published_cosine(steps: int, s: float = 0.008) -> np.ndarray:
    """abar of Nichol's betas with their clip at .999, [steps], by a loop in float64."""

    def f(t: float) -> float:
        return math.cos((t + s) / (1 + s) * math.pi / 2) ** 2

    abar, product = [], 1.0
    for i in range(steps):
        product *= 1.0 - min(1.0 - f((i + 1) / steps) / f(i / steps), 0.999)
        abar.append(product)
    return np.array(abar)


PUBLISHED = {
    "linear 1000": (SCHEDULES["linear"](), published_linear(1000)),
    "linear 250": (SCHEDULES["linear"](steps=250), published_linear(250)),
    "cosine 1000": (SCHEDULES["cosine"](), published_cosine(1000)),
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


CLOSED = {  # name: (t, alpha, sigma)
    "flow": (0.3, 0.7, 0.3),
    "edm": (2.5, 1.0, 2.5),
    "cosine": (
        0.25,
        math.cos(0.258 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2),
        math.sqrt(1 - (math.cos(0.258 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2),
    ),
    "linear": (0.1005, (published_linear(1000)[99] * published_linear(1000)[100]) ** 0.25, None),
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


@pytest.mark.parametrize("name", ROWS)
def test_the_noisy_end(name):
    schedule = SCHEDULE[name]
    alpha, sigma = map(float, schedule.alpha_sigma(jnp.float32(schedule.t_max)))
    assert sigma / max(alpha, 1e-30) > 79
    assert schedule.alpha_reaches_zero == (alpha == 0.0)


@pytest.mark.parametrize("name", ROWS)
def test_noise_grows_and_signal_does_not(name):
    schedule = SCHEDULE[name]
    times = jnp.linspace(schedule.t_min, schedule.t_max, 400)
    alpha, sigma = map(np.asarray, jax.jit(schedule.alpha_sigma)(times))
    ratio = sigma / np.maximum(alpha, 1e-30)
    assert (np.diff(alpha) <= 0).all() and (np.diff(sigma) >= 0).all() and (np.diff(ratio) > 0).all()
    if name in ("linear", "cosine"):
        np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_a_time_comes_back_from_its_logsnr(name):
    schedule = SCHEDULE[name]
    share = np.concatenate([np.geomspace(1e-3, 0.1, 20), np.linspace(0.1, 0.95, 30)])
    times = (schedule.t_min + share * (schedule.t_max - schedule.t_min)).astype(np.float32)

    def there_and_back(t):
        alpha, sigma = schedule.alpha_sigma(t)
        return schedule.t_of_logsnr(2.0 * (jnp.log(alpha) - jnp.log(sigma)))

    np.testing.assert_allclose(jax.jit(there_and_back)(jnp.asarray(times)), times, rtol=2e-5)


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
    "offset of no number": ("cosine", {"s": math.nan}, "positive"),
    "sigma_min 0": ("edm", {"sigma_min": 0.0}, "sigma_min"),
    "sigmas swapped": ("edm", {"sigma_min": 80.0, "sigma_max": 0.002}, "sigma_min < sigma_max"),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_keywords_are_refused(case):
    name, keywords, message = ILLEGAL[case]
    with pytest.raises(ValueError, match=message):
        SCHEDULES[name](**keywords)
