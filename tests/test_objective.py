import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.objective import DENSITIES, WEIGHTINGS, denoising_losses
from diffusion.process import TARGETS, Process
from diffusion.schedules import SCHEDULES

SD = 0.7


def process(schedule: str = "cosine", target: str = "v", sigma_data: float = SD) -> Process:
    return Process(SCHEDULES[schedule](), TARGETS[target](), sigma_data)


def cosine(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma in float64."""
    alpha = np.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    return alpha, np.sqrt(1 - alpha**2)


TIMES = np.array([0.05, 0.2, 0.35, 0.5, 0.7, 0.9])
ALPHA, SIGMA = cosine(TIMES)
SNR = (ALPHA / SIGMA) ** 2
EDM = (SIGMA**2 + (ALPHA * SD) ** 2) / (SIGMA * SD) ** 2  # on x0: (s^2 + sd^2) / (s sd)^2 with s = sigma / alpha

WEIGHTS = {  # (weighting, keywords, target): lambda at TIMES on the cosine schedule
    ("unit", (), "v"): np.ones(6),
    ("unit", (), "eps"): np.ones(6),
    ("min_snr", (), "x0"): np.minimum(SNR, 5),
    ("min_snr", (), "eps"): np.minimum(SNR, 5) / SNR,
    ("min_snr", (), "v"): np.minimum(SNR, 5) / (SNR + 1),
    ("min_snr", (("gamma", 1.0),), "eps"): np.minimum(SNR, 1) / SNR,
    ("edm", (), "x0"): EDM,
    ("edm", (), "eps"): EDM / SNR,
    ("edm", (), "edm"): np.ones(6),
}


@pytest.fixture(scope="module")
def weights() -> dict:
    def everything(t):
        return {
            (name, keywords, target): WEIGHTINGS[name](**dict(keywords))(process("cosine", target), t)
            for name, keywords, target in WEIGHTS
        }

    return dict(zip(WEIGHTS, jax.jit(lambda t: list(everything(t).values()))(jnp.float32(TIMES)), strict=True))


@pytest.mark.parametrize("case", WEIGHTS, ids=str)
def test_weightings_in_closed_form(weights, case):
    assert (SNR > 5).any() and (SNR < 1).any()
    np.testing.assert_allclose(weights[case], WEIGHTS[case], rtol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_edm_weighs_its_own_target_with_1_everywhere(schedule):
    p = process(schedule, "edm")
    times = jnp.linspace(p.schedule.t_min, p.schedule.t_max, 7)
    np.testing.assert_allclose(WEIGHTINGS["edm"]()(p, times), 1.0, rtol=1e-4)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_are_finite_at_both_ends(schedule, weighting):
    p = process(schedule, "v")
    found = np.asarray(WEIGHTINGS[weighting]()(p, jnp.asarray([p.schedule.t_min, p.schedule.t_max])))
    assert np.isfinite(found).all() and (found >= 0).all()


def draws(name: str, n: int, valid: int | None = None, schedule: str = "cosine", **keywords) -> np.ndarray:
    """[n], the times of slots 0…n-1 of which the first ``valid`` hold examples."""
    density = DENSITIES[name](process(schedule), **keywords)
    t = jax.jit(density)(jax.random.key(1), jnp.arange(n), jnp.int32(n if valid is None else valid))
    return np.asarray(t, np.float64)


@pytest.mark.parametrize("name", DENSITIES)
def test_a_draw_belongs_to_its_slot(name):
    padded, bare = draws(name, 8, valid=6), draws(name, 6)
    np.testing.assert_array_equal(padded[:6], bare)
    assert len(set(bare)) == 6


@pytest.mark.parametrize("name", DENSITIES)
def test_a_part_of_the_batch_draws_what_the_whole_batch_draws_there(name):
    density = DENSITIES[name](process())
    part = density(jax.random.key(1), jnp.asarray([4, 5, 6, 7]), jnp.int32(8))
    np.testing.assert_allclose(part, draws(name, 8)[4:], rtol=1e-6)


RANGES = {  # densities pushed beyond the schedule's times, and how they were pushed
    "uniform": [("edm", {}), ("linear", {})],
    "stratified": [("edm", {}), ("linear", {})],
    "lognormal": [("edm", {"mean": 0.0, "std": 9.0}), ("linear", {"mean": 0.0, "std": 9.0})],
    "logit_normal": [("linear", {"mean": 0.0, "std": 9.0})],
}


@pytest.mark.parametrize("name", RANGES)
def test_draws_stay_inside_the_schedules_times(name):
    for schedule, keywords in RANGES[name]:
        t, s = draws(name, 256, schedule=schedule, **keywords), SCHEDULES[schedule]()
        assert t.min() >= np.float32(s.t_min) and t.max() <= np.float32(s.t_max), schedule


def log_sigma(t: np.ndarray) -> np.ndarray:
    alpha, sigma = cosine(t)
    return np.log(sigma / alpha)


MOMENTS = {  # case: (density, schedule, keywords, what is normal, mean, deviation)
    "lognormal on edm": ("lognormal", "edm", {}, np.log, -1.2, 1.2),
    "lognormal on a VP schedule": ("lognormal", "cosine", {"mean": -0.4, "std": 1.0}, log_sigma, -0.4, 1.0),
    "logit-normal": ("logit_normal", "flow", {"mean": 0.8, "std": 0.8}, lambda t: np.log(t / (1 - t)), 0.8, 0.8),
    "uniform": ("uniform", "flow", {}, lambda t: t, 0.5, 12**-0.5),
}


@pytest.mark.parametrize("case", MOMENTS)
def test_moments(case):
    name, schedule, keywords, transform, mean, deviation = MOMENTS[case]
    n = 4096
    z = transform(draws(name, n, schedule=schedule, **keywords))
    assert abs(z.mean() - mean) < 4 * deviation / math.sqrt(n)
    assert abs(z.std() / deviation - 1) < 4 / math.sqrt(2 * n)


@pytest.mark.parametrize("valid", [8, 5])
def test_stratified_spaces_the_valid_rows_equally(valid):
    schedule = SCHEDULES["flow"]()
    t = np.sort(draws("stratified", 8, valid=valid, schedule="flow")[:valid])
    gaps = np.diff(t, append=t[0] + schedule.t_max - schedule.t_min)
    np.testing.assert_allclose(gaps, (schedule.t_max - schedule.t_min) / valid, rtol=1e-4)


def test_stratified_over_no_valid_rows_is_a_number():
    assert np.isfinite(draws("stratified", 4, valid=0)).all()


RANDOM = np.random.default_rng(0)
X0, EPS = (RANDOM.standard_normal((6, 3, 2, 1)).astype(np.float32) for _ in range(2))


@pytest.mark.parametrize("target", TARGETS)
def test_a_perfect_net_has_no_loss_and_a_known_error_has_its_loss(target):
    p = process("cosine", target)
    error = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1) * np.array([1.0, -1.0, 2.0]).reshape(1, 3, 1, 1)
    error = error.astype(np.float32) * np.ones_like(X0)

    @jax.jit
    def run(x0, eps, t, error):
        perfect = p.regression_target(x0, eps, t)
        nets = (lambda x, c_noise: perfect), (lambda x, c_noise: perfect + error)
        return [denoising_losses(p, WEIGHTINGS["unit"](), net, x0, eps, t) for net in nets]

    perfect, wrong = run(jnp.asarray(X0), jnp.asarray(EPS), jnp.float32(TIMES), jnp.asarray(error))
    np.testing.assert_allclose(perfect.loss, np.zeros(6), atol=1e-10)
    np.testing.assert_allclose(wrong.loss, np.arange(6) ** 2 * 2.0, rtol=1e-5)
    np.testing.assert_allclose(wrong.t, TIMES, rtol=1e-6)


def test_the_loss_is_weighted_and_the_net_is_fed_by_the_process():
    p = process("cosine", "eps")
    seen = {}

    def net(x, c_noise):
        seen.update(x=x, c_noise=c_noise)
        return jnp.zeros_like(x)

    losses = denoising_losses(p, WEIGHTINGS["min_snr"](), net, jnp.asarray(X0), jnp.asarray(EPS), jnp.float32(TIMES))
    square = (EPS.astype(np.float64) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(losses.loss, np.minimum(SNR, 5) / SNR * square, rtol=2e-4)
    alpha, sigma = (a.reshape(6, 1, 1, 1) for a in (ALPHA, SIGMA))
    scaled = (alpha * X0 + sigma * EPS) / np.sqrt((alpha * SD) ** 2 + sigma**2)
    np.testing.assert_allclose(seen["x"], scaled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen["c_noise"], 1000 * TIMES, rtol=1e-6)


def test_a_half_precision_answer_is_measured_in_float32():
    p = process("flow", "velocity")
    net = lambda x, c_noise: jnp.zeros(x.shape, jnp.bfloat16)  # noqa: E731
    loss = denoising_losses(p, WEIGHTINGS["unit"](), net, jnp.asarray(X0), jnp.asarray(EPS), jnp.float32(TIMES)).loss
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, ((EPS - X0) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5)


ILLEGAL = {  # case: (what is built, what the message says)
    "lognormal without width": (lambda: DENSITIES["lognormal"](process(), std=0.0), "std is 0"),
    "logit-normal without width": (lambda: DENSITIES["logit_normal"](process(), std=-1.0), "std is -1"),
    "logit-normal of a sigma": (lambda: DENSITIES["logit_normal"](process("edm")), "edm schedule.*lognormal"),
    "gamma 0": (lambda: WEIGHTINGS["min_snr"](gamma=0.0), "gamma is 0"),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_choices_are_refused(case):
    build, message = ILLEGAL[case]
    with pytest.raises(ValueError, match=message):
        build()
