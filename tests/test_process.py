"""Oracles in float64: the paths and the targets as their papers write them."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.process import TARGETS, Process, expand
from diffusion.schedules import SCHEDULES

SD = 0.7
COSINE_START = math.cos(0.008 / 1.008 * math.pi / 2)


def discrete(betas: np.ndarray):
    table = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])

    def path(t: float) -> tuple[float, float]:
        log_abar = np.interp(t, np.arange(1001) / 1000, table)
        return math.exp(log_abar / 2), math.sqrt(-math.expm1(log_abar))

    return path


def sigmoid(t: float) -> tuple[float, float]:
    low, at, high = (1 / (1 + math.exp(-z)) for z in (-3, 6 * t - 3, 3))
    abar = (high - at) / (high - low)
    return math.sqrt(abar), math.sqrt(1 - abar)


def vp(t: float) -> tuple[float, float]:
    log_abar = -9.95 * t**2 - 0.1 * t
    return math.exp(log_abar / 2), math.sqrt(-math.expm1(log_abar))


def cosine(t: float) -> tuple[float, float]:
    alpha = math.cos((t + 0.008) / 1.008 * math.pi / 2) / COSINE_START
    return alpha, math.sqrt(1 - alpha**2)


PATHS = {
    "linear": discrete(np.linspace(1e-4, 0.02, 1000)),
    "scaled_linear": discrete(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
    "quadratic": discrete(np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2),
    "cosine": cosine,
    "sigmoid": sigmoid,
    "vp": vp,
    "sub_vp": lambda t: (vp(t)[0], vp(t)[1] ** 2),
    "ve": lambda t: (1.0, math.sqrt(0.01**2 * 5000 ** (2 * t) - 0.01**2)),
    "edm": lambda t: (1.0, t),
    "flow": lambda t: (1 - t, t),
    "gvp": lambda t: (math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)),
    "decoupled": lambda t: (1 - t, math.sqrt(t)),
}
BETWEEN = (0.0505, 0.3005, 0.6005)  # a table's path has kinks at the thousandths: between them its slope is defined
TIMES = dict.fromkeys(PATHS, (0.05, 0.5, 0.8)) | {
    "linear": BETWEEN,
    "scaled_linear": BETWEEN,
    "quadratic": BETWEEN,
    "vp": (0.05, 0.3, 0.6),
    "sub_vp": (0.05, 0.3, 0.6),
    "ve": (0.2, 0.5, 0.7),
    "edm": (0.05, 0.5, 5.0),
    "flow": (0.05, 0.5, 0.95),
}


def legal(schedule: str, target: str) -> bool:
    try:
        Process(SCHEDULES[schedule](), TARGETS[target]())
    except ValueError:
        return False
    return True


ENDS_IN_NOISE = {"flow", "gvp", "decoupled"}
LEGAL = [(s, y) for s in SCHEDULES for y in TARGETS if legal(s, y)]

RANDOM = np.random.default_rng(0)
X0, EPS = (RANDOM.standard_normal((3, 2, 2, 1)) for _ in range(2))


def along(schedule: str, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma of the three times, each shaped to multiply X0."""
    return np.array([PATHS[schedule](t + shift) for t in TIMES[schedule]]).T.reshape(2, 3, 1, 1, 1)


def noisy(schedule: str, shift: float = 0.0) -> np.ndarray:
    alpha, sigma = along(schedule, shift)
    return alpha * X0 + sigma * EPS


def karras_f(schedule: str) -> np.ndarray:
    """F = (x0 - c_skip x) / c_out of Karras 2022, table 1, with x = x0 + s eps and s = sigma / alpha."""
    alpha, sigma = along(schedule)
    s = sigma / alpha
    c_skip, c_out = SD**2 / (s**2 + SD**2), s * SD / np.sqrt(s**2 + SD**2)
    return (X0 - c_skip * (X0 + s * EPS)) / c_out


def salimans_ho_v(schedule: str) -> np.ndarray:
    alpha, sigma = along(schedule)
    return alpha * EPS - sigma * X0


ORACLES = {
    "x0": lambda schedule: X0,
    "eps": lambda schedule: EPS,
    "v": salimans_ho_v,
    "velocity": lambda schedule: (noisy(schedule, 1e-5) - noisy(schedule, -1e-5)) / 2e-5,
    "edm": karras_f,
}


@functools.cache
def computed(schedule: str) -> SimpleNamespace:
    """Everything that the process says at the three times, from one compiled program per schedule."""
    processes = {y: Process(SCHEDULES[schedule](), TARGETS[y](), SD) for s, y in LEGAL if s == schedule}

    def everything(x0, eps, t):
        any_process = processes["x0"]
        x_t = any_process.perturb(x0, eps, t)
        targets = {y: process.regression_target(x0, eps, t) for y, process in processes.items()}
        found = {y: process.predict(targets[y], x_t, t) for y, process in processes.items()}
        moved = {y: process.predict(targets[y] + 0.5, x_t, t) for y, process in processes.items()}
        return SimpleNamespace(
            x_t=x_t,
            c_in=any_process.c_in(t),
            logsnr=any_process.logsnr(t),
            targets=targets,
            found={y: (p.x0, p.eps) for y, p in found.items()},
            moved={y: p.x0 - found[y].x0 for y, p in moved.items()},
            gain={y: process.x0_gain(t) for y, process in processes.items()},
        ).__dict__

    arguments = (jnp.asarray(a, jnp.float32) for a in (X0, EPS, TIMES[schedule]))
    return SimpleNamespace(**jax.tree.map(lambda a: np.asarray(a, np.float64), jax.jit(everything)(*arguments)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_perturb(schedule):
    np.testing.assert_allclose(computed(schedule).x_t, noisy(schedule), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("schedule", "target"), LEGAL)
def test_the_target_is_the_papers(schedule, target):
    np.testing.assert_allclose(computed(schedule).targets[target], ORACLES[target](schedule), rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(("schedule", "target"), LEGAL)
def test_the_target_leads_back_to_x0_and_eps(schedule, target):
    x0, eps = computed(schedule).found[target]
    np.testing.assert_allclose(x0, X0, atol=1e-5)
    np.testing.assert_allclose(eps, EPS, atol=1e-5)


@pytest.mark.parametrize(("schedule", "target"), LEGAL)
def test_any_answer_lands_on_the_line(schedule, target):
    process = Process(SCHEDULES[schedule](), TARGETS[target](), SD)
    x_t, y = (jnp.asarray(a, jnp.float32) for a in (X0, EPS))
    p = process.predict(y, x_t, jnp.float32(TIMES[schedule][1]))
    alpha, sigma = PATHS[schedule](TIMES[schedule][1])
    np.testing.assert_allclose(alpha * np.asarray(p.x0) + sigma * np.asarray(p.eps), X0, atol=1e-5)


@pytest.mark.parametrize(("schedule", "target"), LEGAL)
def test_x0_gain_is_the_slope_of_x0_in_the_answer(schedule, target):
    slope = np.abs(computed(schedule).moved[target]).mean(axis=(1, 2, 3)) / 0.5
    np.testing.assert_allclose(computed(schedule).gain[target], slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gains_in_closed_form(schedule):
    alpha, sigma = (a.ravel() for a in along(schedule))
    gain = computed(schedule).gain
    np.testing.assert_allclose(gain["x0"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(gain["v"], sigma / (alpha**2 + sigma**2), rtol=1e-4)
    if schedule not in ENDS_IN_NOISE:
        np.testing.assert_allclose(gain["eps"], sigma / alpha, rtol=1e-4)
    # c_out of Karras 2022, whose loss weight is 1 / c_out^2
    np.testing.assert_allclose(gain["edm"], sigma * SD / np.sqrt(sigma**2 + (alpha * SD) ** 2), rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_c_in_gives_unit_variance(schedule):
    alpha, sigma = (a.ravel() for a in along(schedule))
    np.testing.assert_allclose(computed(schedule).c_in ** 2 * (alpha**2 * SD**2 + sigma**2), 1.0, rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_logsnr(schedule):
    alpha, sigma = (a.ravel() for a in along(schedule))
    np.testing.assert_allclose(computed(schedule).logsnr, 2 * np.log(alpha / sigma), rtol=1e-4, atol=1e-4)
    assert float(Process(SCHEDULES[schedule](), TARGETS["x0"]()).logsnr(jnp.float32(0.0))) == math.inf


def test_the_denoiser_scales_the_nets_input_and_spreads_one_time_over_the_batch():
    process = Process(SCHEDULES["edm"](), TARGETS["x0"](), SD)
    seen = {}

    def net(x, c_noise):
        seen.update(x=np.asarray(x), c_noise=np.asarray(c_noise))
        return jnp.full_like(x, 0.25)

    p = process.denoiser(net)(jnp.asarray(X0, jnp.float32), jnp.float32(2.0))
    np.testing.assert_allclose(seen["x"], X0 / math.sqrt(SD**2 + 4), rtol=1e-5)
    np.testing.assert_allclose(seen["c_noise"], np.full(3, math.log(2) / 4), rtol=1e-5)
    np.testing.assert_allclose(p.x0, np.full(X0.shape, 0.25), atol=1e-6)
    np.testing.assert_allclose(p.eps, (X0 - 0.25) / 2, atol=1e-5)


def test_expand():
    like = jnp.zeros((3, 2, 2, 1))
    assert expand(jnp.zeros(3), like).shape == (3, 1, 1, 1)
    assert expand(jnp.zeros(()), like).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("schedule", sorted(ENDS_IN_NOISE))
def test_eps_is_refused_where_alpha_reaches_0(schedule):
    with pytest.raises(ValueError, match="alpha is exactly 0.*take x0, v"):
        Process(SCHEDULES[schedule](), TARGETS["eps"]())


def test_only_these_pairs_are_refused():
    assert {(s, y) for s in SCHEDULES for y in TARGETS} - set(LEGAL) == {(s, "eps") for s in ENDS_IN_NOISE}


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.nan])
def test_an_illegal_sigma_data_is_refused(sigma_data):
    with pytest.raises(ValueError, match="sigma_data"):
        Process(SCHEDULES["edm"](), TARGETS["x0"](), sigma_data)
