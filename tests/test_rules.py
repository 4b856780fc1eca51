"""Rules against the papers' algorithms, written out in NumPy float64 with a denoiser that is not linear."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.process import Process
from diffusion.samplers import GRIDS, SAMPLERS, sample
from diffusion.types import Prediction
from tests.gaussian import PROCESSES, RULES, keys


def bent(x, alpha, sigma, tanh):
    """A denoiser that is not linear, for NumPy and JAX alike."""
    return tanh(2 * x / (alpha + sigma)) - 0.1 * x / (1 + sigma)


def bent_denoiser(process: Process, **extra):
    def denoise(x, t):
        alpha, sigma = process.schedule.alpha_sigma(t)
        x0 = bent(x, alpha, sigma, jnp.tanh)
        return Prediction(x0, (x - alpha * x0) / sigma, {name: jnp.full_like(x, v) for name, v in extra.items()})

    return denoise


def run(name: str, schedule: str, ts, x: np.ndarray, extra: dict = {}, **keywords) -> np.ndarray:  # noqa: B006
    """[n], the end of the sampler's path from the states x [n]."""
    process, denoise = PROCESSES[schedule], bent_denoiser(PROCESSES[schedule], **extra)
    go = jax.jit(lambda ts, x: sample(process, denoise, SAMPLERS[name](**keywords), ts, keys(len(x)), x=x))
    return np.asarray(go(jnp.float32(ts), jnp.float32(x.reshape(-1, 1, 1, 1))), np.float64).ravel()


X_T = np.linspace(-2, 2, 9)


def drawn(steps: int, images: int = len(X_T)) -> np.ndarray:
    """[step image], the normal number of every image's key at every step."""
    folded = [jax.vmap(lambda key, i=i: jax.random.fold_in(key, i + 1))(keys(images)) for i in range(steps)]
    return np.array([np.ravel(jax.vmap(lambda key: jax.random.normal(key, (1, 1, 1)))(k)) for k in folded], np.float64)


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


def karras_algorithm_2(x: np.ndarray, ts, pair, t_of_sigma, churn: dict, z: np.ndarray) -> np.ndarray:
    """Karras 2022, alg. 2, in the state x / alpha of the schedule ``pair``, Heun in t."""
    n = len(ts) - 1

    def slope(x, t):
        (alpha, sigma), e = pair(t), 1e-6
        d_alpha, d_sigma = (np.array(pair(t + e)) - np.array(pair(t - e))) / (2 * e)
        x0 = bent(x, alpha, sigma, np.tanh)
        return d_alpha * x0 + d_sigma * (x - alpha * x0) / sigma

    for i in range(n):
        alpha, sigma = pair(ts[i])
        ratio = sigma / alpha
        inside = churn["s_min"] <= ratio <= churn["s_max"]
        gamma = min(churn["s_churn"] / n, math.sqrt(2) - 1) if inside else 0.0
        raised, t = (1 + gamma) * ratio, ts[i]
        if gamma:
            t = t_of_sigma(raised)
            x = pair(t)[0] * (x / alpha + math.sqrt(raised**2 - ratio**2) * churn["s_noise"] * z[i])
        h, d = ts[i + 1] - t, slope(x, t)
        x, before = x + h * d, x
        if ts[i + 1] != 0:
            x = before + h * (d + slope(x, ts[i + 1])) / 2
    return x


CHURNS = {
    "gentle": dict(s_churn=1.0, s_min=0.0, s_max=1e9, s_noise=1.003),
    "capped": dict(s_churn=40.0, s_min=0.1, s_max=8.0, s_noise=1.0),
}


@pytest.mark.parametrize("churn", CHURNS)
def test_heun_with_churn_is_karras_algorithm_2(churn):
    given, ts = CHURNS[churn], karras_sigmas(6)
    wanted = karras_algorithm_2(80 * X_T, ts, lambda t: (1.0, t), lambda sigma: sigma, given, drawn(6))
    np.testing.assert_allclose(run("heun", "edm", ts, 80 * X_T, **given), wanted, atol=2e-4)


@pytest.mark.parametrize("churn", CHURNS)
def test_churn_where_alpha_moves(churn):
    given, ts = CHURNS[churn], np.array([0.9, 0.7, 0.4, 0.2, 0.0])
    wanted = karras_algorithm_2(X_T, ts, lambda t: (1 - t, t), lambda s: s / (1 + s), given, drawn(4))
    np.testing.assert_allclose(run("heun", "flow", ts, X_T, **given), wanted, atol=5e-5)


def test_churn_ends_where_the_schedule_does():
    """From pure noise there is nothing to raise: the first step is the plain one, and finite."""
    ts = [1.0, 0.5, 0.0]
    found = run("heun", "flow", ts, X_T, s_churn=40.0, s_max=1.0)  # sigma / alpha is 1 at t = .5: the second is raised
    assert np.isfinite(found).all() and np.abs(found - run("heun", "flow", ts, X_T)).max() > 0.01
    np.testing.assert_array_equal(run("heun", "flow", ts, X_T, s_churn=40.0, s_max=0.9), run("heun", "flow", ts, X_T))


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


def dpmpp_2m_sde(x, alphas, sigmas, eta, z):
    """SDE-DPM-Solver++ (2M) as k-diffusion writes it, with alpha: midpoint differences, a first-order last step."""
    h_before = x0_before = None
    for i in range(len(alphas) - 1):
        x0 = bent(x, alphas[i], sigmas[i], np.tanh)
        if sigmas[i + 1] == 0:
            return x0
        h = np.log(alphas[i + 1] / sigmas[i + 1]) - np.log(alphas[i] / sigmas[i])
        x = sigmas[i + 1] / sigmas[i] * np.exp(-eta * h) * x - alphas[i + 1] * np.expm1(-(1 + eta) * h) * x0
        if h_before is not None:
            x = x - 0.5 * alphas[i + 1] * np.expm1(-(1 + eta) * h) * h / h_before * (x0 - x0_before)
        x = x + sigmas[i + 1] * np.sqrt(-np.expm1(-2 * eta * h)) * z[i]
        h_before, x0_before = h, x0
    return x


def unipc(x, alphas, sigmas):
    """Zhao 2023 with B(h) = e^h - 1 on x0: UniP-2 and UniC-2 by their linear systems, UniC-1 after the first step."""
    lambdas, memory = np.log(alphas[:-1] / sigmas[:-1]), []  # (x, x0) by step
    for i in range(len(alphas) - 1):
        x0 = bent(x, alphas[i], sigmas[i], np.tanh)
        if i:
            h, (origin, m0) = lambdas[i] - lambdas[i - 1], memory[-1]
            nodes, differences = [1.0], [x0 - m0]
            if i > 1:
                r = (lambdas[i - 2] - lambdas[i - 1]) / h
                nodes, differences = [r, 1.0], [(memory[-2][1] - m0) / r, x0 - m0]
            b_h, phi, b = np.expm1(-h), np.expm1(-h) / -h - 1, []
            for k in range(1, len(nodes) + 1):
                b.append(phi * math.factorial(k) / b_h)
                phi = phi / -h - 1 / math.factorial(k + 1)
            rhos = np.linalg.solve(np.vander(nodes, increasing=True).T, b) if i > 1 else [0.5]
            x = sigmas[i] / sigmas[i - 1] * origin - alphas[i] * b_h * m0
            x = x - alphas[i] * b_h * sum(rho * d for rho, d in zip(rhos, differences, strict=True))
        memory.append((x, x0))
        if sigmas[i + 1] == 0:
            return x0
        h = lambdas[i + 1] - lambdas[i]
        x = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * np.expm1(-h) * x0
        if i:
            r = (lambdas[i - 1] - lambdas[i]) / h
            x = x - alphas[i + 1] * np.expm1(-h) * 0.5 * (memory[-2][1] - x0) / r
    return x


def euler_ancestral(x, alphas, sigmas, eta, z):
    """k-diffusion's sample_euler_ancestral on x / alpha."""
    x, sigmas = x / alphas[0], sigmas / alphas
    for i, (now, then) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        x0 = bent(x * alphas[i], alphas[i], now * alphas[i], np.tanh)
        up = min(then, eta * math.sqrt(then**2 * (now**2 - then**2) / now**2))
        x = x + (x - x0) / now * (math.sqrt(then**2 - up**2) - now) + up * z[i]
    return alphas[-1] * x


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


ORACLES = {  # case: (row, keywords, (x, alphas, sigmas, noises) -> the end of the path)
    "dpmpp_2m": ("dpmpp_2m", {}, lambda x, a, s, z: dpmpp_2m(x, a, s)),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {}, lambda x, a, s, z: dpmpp_2m_sde(x, a, s, 1.0, z)),
    "dpmpp_2m_sde eta .3": ("dpmpp_2m_sde", {"eta": 0.3}, lambda x, a, s, z: dpmpp_2m_sde(x, a, s, 0.3, z)),
    "unipc": ("unipc", {}, lambda x, a, s, z: unipc(x, a, s)),
    "euler_ancestral": ("euler_ancestral", {}, lambda x, a, s, z: euler_ancestral(x, a, s, 1.0, z)),
    "euler_ancestral eta 2": ("euler_ancestral", {"eta": 2.0}, lambda x, a, s, z: euler_ancestral(x, a, s, 2.0, z)),
}


@pytest.mark.parametrize("schedule", UNEVEN)
@pytest.mark.parametrize("case", ORACLES)
def test_rules_are_the_papers(case, schedule):
    name, keywords, oracle = ORACLES[case]
    ts, alphas, sigmas = PATHS[schedule](UNEVEN[schedule])
    x = sigmas[0] * X_T
    wanted = oracle(x, alphas, sigmas, drawn(len(ts) - 1))
    np.testing.assert_allclose(run(name, schedule, ts, x, **keywords), wanted, atol=1e-4)


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


@pytest.mark.parametrize("name", ["unipc", "dpmpp_2m_sde"])
def test_starts_where_alpha_is_0(name):
    """The first step, infinitely long in lambda, is of first order; nothing extrapolates from it or corrects it."""
    ts, z, x0 = np.array([1.0, 0.8, 0.5, 0.1, 0.0]), drawn(4), bent(X_T, 0.0, 1.0, np.tanh)
    if name == "unipc":
        wanted = unipc(0.8 * X_T + 0.2 * x0, 1 - ts[1:], ts[1:])
    else:
        wanted = dpmpp_2m_sde(0.2 * x0 + 0.8 * z[0], 1 - ts[1:], ts[1:], 1.0, z[1:])
    np.testing.assert_allclose(run(name, "flow", ts, X_T), wanted, atol=1e-4)


def decoupled(x, ts, stochastic, k, z):
    """Huang 2023 for C and K as they define them, step by step; C := -x0' - K / 2."""
    for i, (t, s) in enumerate(zip(ts, ts[1:], strict=False)):
        x0 = bent(x, 1 - t, math.sqrt(t), np.tanh)
        eps, c, d = (x - (1 - t) * x0) / math.sqrt(t), -x0 - k / 2, t - s
        if stochastic:
            x = x + k * d**2 / 2 - k * t * d - c * d - d / math.sqrt(t) * eps + math.sqrt(d * (t - d) / t) * z[i]
        else:
            x = x0 + c * s + k * s**2 / 2 + math.sqrt(s) * eps
    return x


@pytest.mark.parametrize("k", [None, 0.7])
@pytest.mark.parametrize("stochastic", [True, False])
def test_decoupled_is_huangs(stochastic, k):
    ts = np.array([1.0, 0.75, 0.5, 0.25, 1e-4, 0.0])
    extra = {} if k is None else {"K": k}
    found = run("decoupled", "decoupled", ts, X_T, extra, stochastic=stochastic)
    np.testing.assert_allclose(found, decoupled(X_T, ts, stochastic, k or 0.0, drawn(5)), atol=5e-5)


def test_the_two_headed_step_takes_eps_as_it_is_answered():
    """One free step, by hand, with an eps that is not on the line."""
    process = PROCESSES["decoupled"]
    free = lambda x, t: Prediction(jnp.full_like(x, 0.3), jnp.full_like(x, 2.0))  # noqa: E731
    x, ts = jnp.full((1, 1, 1, 1), 1.5), jnp.float32([0.64, 0.0])
    found = sample(process, free, SAMPLERS["decoupled"](), ts, keys(1), x=x)
    np.testing.assert_allclose(np.ravel(found), 1.5 + 0.3 * 0.64 - 0.8 * 2.0, atol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "flow", "edm"])
def test_decoupled_is_refused_elsewhere(schedule):
    process = PROCESSES[schedule]
    with pytest.raises(ValueError, match="alpha = 1 - t, sigma = sqrt.*process.schedule=decoupled"):
        jax.eval_shape(lambda x: SAMPLERS["decoupled"]().init(process, x, 5), jnp.zeros((1, 1, 1, 1)))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_learned_variance(share):
    """Nichol 2021, eq. 15, over the times visited; 0 is the posterior's, 1 is beta."""
    ts, alphas, sigmas = PATHS["cosine"](np.array([0.7, 0.4, 0.0]))
    x, z = X_T, drawn(2)
    for i in range(2):
        ratio = (alphas[i] / alphas[i + 1]) ** 2
        beta = sigmas[i] ** 2 - ratio * sigmas[i + 1] ** 2
        small = sigmas[i + 1] ** 2 / sigmas[i] ** 2 * beta
        x0 = bent(x, alphas[i], sigmas[i], np.tanh)
        eps = (x - alphas[i] * x0) / sigmas[i]
        x = alphas[i + 1] * x0 + math.sqrt(sigmas[i + 1] ** 2 - small) * eps
        if sigmas[i + 1]:
            x = x + math.exp(0.5 * (share * math.log(beta) + (1 - share) * math.log(small))) * z[i]
    found = run("ddpm", "cosine", ts, X_T, {"variance_share": share}, variance="learned")
    np.testing.assert_allclose(found, x, atol=2e-5)


def test_a_variance_that_was_not_learned_is_refused():
    with pytest.raises(ValueError, match="the target learns no variance"):
        run("ddpm", "cosine", [0.7, 0.0], X_T, variance="learned")


SAME = {  # case: (schedule, two rules that must agree)
    "DDIM with eta 1 is ancestral": ("cosine", ("ddim", {"eta": 1.0}), ("ddpm", {"variance": "small"})),
    "on EDM DDIM is Euler": ("edm", ("ddim", {}), ("euler", {})),
    "on flow DDIM is Euler": ("flow", ("ddim", {}), ("euler", {})),
    "2M SDE without noise is 2M": ("cosine", ("dpmpp_2m_sde", {"eta": 0.0}), ("dpmpp_2m", {})),
    "nearly without noise too": ("cosine", ("dpmpp_2m_sde", {"eta": 1e-13}), ("dpmpp_2m", {})),
    "Euler ancestral is DDIM of its eta": ("cosine", ("euler_ancestral", {"eta": 0.4}), ("ddim", {"eta": 0.4})),
}


@pytest.mark.parametrize("case", SAME)
def test_rules_that_agree(case):
    schedule, *rules = SAME[case]
    ts = UNEVEN[schedule]
    found = [run(name, schedule, ts, X_T * PATHS[schedule](ts)[2][0], **keywords) for name, keywords in rules]
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)


@pytest.mark.parametrize(
    "case", [c for c in RULES if SAMPLERS[RULES[c][0]](**RULES[c][1]).stochastic and "churn" not in c]
)
def test_the_last_step_adds_no_noise(case):
    name, keywords = RULES[case]
    found = run(name, "flow", [0.5, 0.0], np.full(9, 0.7), {"variance_share": 0.5}, **keywords)
    np.testing.assert_allclose(found, np.full(9, bent(0.7, 0.5, 0.5, np.tanh)), atol=1e-6)


ILLEGAL = {  # case: (row, keywords, what the message says)
    "an eta above 1": ("ddim", {"eta": 1.5}, "eta is 1.5"),
    "an eta below 0": ("ddim", {"eta": -0.1}, "eta is -0.1"),
    "2M SDE's eta above 1": ("dpmpp_2m_sde", {"eta": 1.5}, "eta is 1.5"),
    "ancestral eta below 0": ("euler_ancestral", {"eta": -1.0}, "eta is -1.0"),
    "an unknown variance": ("ddpm", {"variance": "medium"}, "'medium'.*'small'.*'large'.*'learned'"),
    "a churn below 0": ("heun", {"s_churn": -1.0}, "s_churn -1.0"),
    "churn's ends swapped": ("heun", {"s_min": 2.0, "s_max": 1.0}, "must not exceed s_max"),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_keywords_are_refused(case):
    name, keywords, message = ILLEGAL[case]
    with pytest.raises(ValueError, match=message):
        SAMPLERS[name](**keywords)
