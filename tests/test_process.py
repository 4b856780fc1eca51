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
X0, EPS, THIRD = (RANDOM.standard_normal((3, 2, 2, 1)) for _ in range(3))


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
    "learned_variance": lambda schedule: EPS,
    # the preconditioning C = c_skip x + c_out F and its like for eps, solved for the two F
    "decoupled": lambda schedule: np.concatenate([huang_f(0), huang_f(1)], axis=-1),
    "decoupled_linear": lambda schedule: np.concatenate([-X0 - THIRD / 2, EPS, THIRD], axis=-1),
}


def huang_f(head: int) -> np.ndarray:
    t = np.array(TIMES["decoupled"]).reshape(3, 1, 1, 1)
    x_t, v = (1 - t) * X0 + np.sqrt(t) * EPS, (1 - t) ** 2 * SD**2 + t
    if head == 0:
        return (-X0 + (1 - t) * SD**2 / v * x_t) / (SD * np.sqrt(t / v))
    return (EPS - np.sqrt(t) / v * x_t) / ((1 - t) * SD / np.sqrt(v))


def all_heads(process: Process, y):
    """An answer of every head, 0 where there is nothing to regress on."""
    missing = process.target.heads - len(process.target.lines)
    return jnp.concatenate([y, *[jnp.zeros_like(y)] * missing], axis=-1)


ONE_LINE = [(s, y) for s, y in LEGAL if len(TARGETS[y]().lines) == 1]


@functools.cache
def computed(schedule: str) -> SimpleNamespace:
    """Everything that the process says at the three times, from one compiled program per schedule."""
    processes = {y: Process(SCHEDULES[schedule](), TARGETS[y](), SD) for s, y in LEGAL if s == schedule}

    def everything(x0, eps, t):
        any_process = processes["x0"]
        third = {y: jnp.float32(THIRD) if process.target.third else None for y, process in processes.items()}
        x_t = {y: process.perturb(x0, eps, t, third[y]) for y, process in processes.items()}
        targets = {y: process.regression_target(x0, eps, t, third[y]) for y, process in processes.items()}
        found = {y: process.predict(all_heads(process, targets[y]), x_t[y], t) for y, process in processes.items()}
        lines = {y: process for y, process in processes.items() if len(process.target.lines) == 1}
        moved = {y: process.predict(all_heads(process, targets[y] + 0.5), x_t[y], t) for y, process in lines.items()}
        return SimpleNamespace(
            x_t=x_t["x0"],
            c_in=any_process.c_in(t),
            logsnr=any_process.logsnr(t),
            targets=targets,
            found={y: (p.x0, p.eps) for y, p in found.items()},
            moved={y: p.x0 - found[y].x0 for y, p in moved.items()},
            gain={y: process.x0_gain(t) for y, process in lines.items()},
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


@pytest.mark.parametrize(("schedule", "target"), [case for case in LEGAL if case[1] != "decoupled_linear"])
def test_any_answer_lands_on_the_line(schedule, target):
    process = Process(SCHEDULES[schedule](), TARGETS[target](), SD)
    x_t, y = (jnp.asarray(a, jnp.float32) for a in (X0, EPS))
    p = process.predict(jnp.concatenate([y] * process.target.heads, -1), x_t, jnp.float32(TIMES[schedule][1]))
    alpha, sigma = PATHS[schedule](TIMES[schedule][1])
    np.testing.assert_allclose(alpha * np.asarray(p.x0) + sigma * np.asarray(p.eps), X0, atol=1e-5)


@pytest.mark.parametrize(("schedule", "target"), ONE_LINE)
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
    refused = {(s, y) for s in SCHEDULES for y in TARGETS} - set(LEGAL)
    discrete = {name for name, row in SCHEDULES.items() if row().steps}
    assert discrete == {"linear", "scaled_linear", "quadratic", "cosine"}
    assert refused == {
        *((s, "eps") for s in ENDS_IN_NOISE),
        *((s, "learned_variance") for s in set(SCHEDULES) - discrete),
        *((s, y) for s in set(SCHEDULES) - {"decoupled"} for y in ("decoupled", "decoupled_linear")),
    }


@pytest.mark.parametrize(
    ("schedule", "target", "message"),
    [
        ("vp", "learned_variance", "this schedule has none; take linear"),
        ("flow", "decoupled", "take the decoupled schedule"),
        ("gvp", "decoupled_linear", "take the decoupled schedule"),
    ],
)
def test_a_target_that_is_made_for_another_schedule_says_so(schedule, target, message):
    with pytest.raises(ValueError, match=message):
        Process(SCHEDULES[schedule](), TARGETS[target]())


def huang(**keywords) -> Process:
    return Process(SCHEDULES["decoupled"](), TARGETS["decoupled"](**keywords), SD)


@pytest.mark.parametrize("precondition", [True, False])
@pytest.mark.parametrize("t", [1e-4, 0.3, 1.0])
def test_two_heads_that_disagree(t, precondition):
    """x0 is x_t - C t - sqrt(t) eps of both; the free form keeps the head's eps, the other takes it from the line."""
    f1, f2 = 0.4 * EPS[::-1], 0.3 * X0[::-1]
    x_t, v = (1 - t) * X0 + math.sqrt(t) * EPS, (1 - t) ** 2 * SD**2 + t
    c, eps = f1, f2
    if precondition:
        c = -(1 - t) * SD**2 / v * x_t + SD * math.sqrt(t / v) * f1
        eps = math.sqrt(t) / v * x_t + (1 - t) * SD / math.sqrt(v) * f2
    x0 = x_t - c * t - math.sqrt(t) * eps
    y, x = jnp.float32(np.concatenate([f1, f2], axis=-1)), jnp.float32(x_t)
    free, bound = (huang(precondition=precondition, free=f).predict(y, x, jnp.float32(t)) for f in (True, False))
    for p in (free, bound):
        np.testing.assert_allclose(p.x0, x0, atol=2e-6)
    np.testing.assert_allclose(free.eps, eps, atol=1e-5)
    np.testing.assert_allclose((1 - t) * x0 + math.sqrt(t) * np.asarray(bound.eps), x_t, atol=2e-6)


def test_the_preconditioned_heads_have_unit_variance_and_a_finite_target_at_both_ends():
    x0, eps = np.random.default_rng(5).standard_normal((2, 3, 64, 64, 1))
    times = jnp.float32([1e-4, 0.4, 1.0])
    y = np.asarray(huang().regression_target(jnp.float32(SD * x0), jnp.float32(eps), times))
    np.testing.assert_allclose(y.std(axis=(1, 2)), 1.0, rtol=0.05)


def test_the_linear_variant_moves_by_its_own_three_variables():
    process = Process(SCHEDULES["decoupled"](), TARGETS["decoupled_linear"](), SD)
    t, x0, eps, k = np.array([0.2, 0.5, 1.0]).reshape(3, 1, 1, 1), X0, EPS, THIRD
    x_t = x0 + k * t**2 / 2 + (-x0 - k / 2) * t + np.sqrt(t) * eps  # Huang 2023
    times, x0, eps, k = jnp.float32(t.ravel()), jnp.float32(x0), jnp.float32(eps), jnp.float32(k)
    np.testing.assert_allclose(process.perturb(x0, eps, times, k), x_t, atol=1e-6)
    p = process.predict(process.regression_target(x0, eps, times, k), jnp.float32(x_t), times)
    for found, wanted in ((p.x0, X0), (p.eps, EPS), (p.extra["K"], THIRD)):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    draw = np.asarray(process.target.third.draw(jnp.float32([-3, -0.5, 0.5, 3])))
    np.testing.assert_array_equal(draw, np.float32([-1, -0.5, 0.5, 1]))


def test_the_learned_share_stays_between_its_bounds():
    process = Process(SCHEDULES["linear"](), TARGETS["learned_variance"]())
    v = jnp.float32([-3.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 5, 1, 1)
    p = process.predict(jnp.concatenate([v, v], axis=-1), jnp.ones_like(v), jnp.float32(0.5))
    np.testing.assert_allclose(p.extra["variance_share"].ravel(), [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.nan])
def test_an_illegal_sigma_data_is_refused(sigma_data):
    with pytest.raises(ValueError, match="sigma_data"):
        Process(SCHEDULES["edm"](), TARGETS["x0"](), sigma_data)
