"""A mixture of two Gaussians in 2-D with its exact denoiser: every sampler finds both modes, in their shares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.process import Process
from diffusion.samplers import GRIDS, SAMPLERS, sample
from diffusion.types import Prediction
from tests.gaussian import PROCESSES

SHARES = np.array([0.3, 0.7])
MEANS = np.array([[-0.8, 0.2], [0.6, -0.4]])
DEVIATIONS = np.array([0.15, 0.25])
POINTS = 4096
MEAN = SHARES @ MEANS
COVARIANCE = sum(
    w * (s**2 * np.eye(2) + np.outer(m - MEAN, m - MEAN)) for w, m, s in zip(SHARES, MEANS, DEVIATIONS, strict=True)
)


def mixture(process: Process):
    """E[x0 | x_t]: the modes' own linear answers, weighted by how likely each made x_t. A point is an image [1 2 1]."""

    def of_point(point, alpha, sigma):
        variance = (alpha * DEVIATIONS) ** 2 + sigma**2  # [2], of each mode
        apart = point[None, :] - alpha * MEANS  # [mode 2]
        log_odds = jnp.log(SHARES) - jnp.log(variance) - 0.5 * jnp.sum(apart**2, -1) / variance
        each = MEANS + (alpha * DEVIATIONS**2 / variance)[:, None] * apart
        return jax.nn.softmax(log_odds) @ each

    def denoise(x, t):
        alpha, sigma = process.schedule.alpha_sigma(t)
        x0 = jax.vmap(lambda point: of_point(point, alpha, sigma))(x.reshape(-1, 2)).reshape(x.shape)
        return Prediction(x0, (x - alpha * x0) / sigma)

    return denoise


@functools.cache
def drawn(name: str, schedule: str, steps: int) -> np.ndarray:
    """[POINTS 2] from the exact distribution at the grid's first time."""
    process, rng = PROCESSES[schedule], np.random.default_rng(0)
    ts = GRIDS["logsnr"](process, steps)
    alpha, sigma = map(float, process.schedule.alpha_sigma(ts[0]))
    mode = rng.choice(2, POINTS, p=SHARES)
    x0 = MEANS[mode] + DEVIATIONS[mode, None] * rng.standard_normal((POINTS, 2))
    x = jnp.asarray(alpha * x0 + sigma * rng.standard_normal((POINTS, 2)), jnp.float32).reshape(POINTS, 1, 2, 1)
    keys = jax.random.split(jax.random.key(1), POINTS)
    go = jax.jit(lambda ts, x: sample(process, mixture(process), SAMPLERS[name](), ts, keys, x=x))
    return np.asarray(go(ts, x), np.float64).reshape(POINTS, 2)


def share_of_the_first(points: np.ndarray) -> float:
    likely = [
        np.log(w) - 2 * np.log(s) - 0.5 * np.sum((points - m) ** 2, 1) / s**2
        for w, m, s in zip(SHARES, MEANS, DEVIATIONS, strict=True)
    ]
    return float(np.mean(likely[0] > likely[1]))


def check(name: str, schedule: str, steps: int = 50) -> None:
    """Shares and moments within what so many points can tell, and what 50 steps leave."""
    points = drawn(name, schedule, steps)
    chance = 4 / np.sqrt(POINTS)
    bias = 0.02 if SAMPLERS[name]().order > 1 else 0.06
    assert abs(share_of_the_first(points) - SHARES[0]) < chance * np.sqrt(SHARES.prod()) + bias / 2
    np.testing.assert_allclose(points.mean(0), MEAN, atol=chance * 0.7 + bias / 2)
    np.testing.assert_allclose(np.cov(points.T), COVARIANCE, atol=chance * 0.5 + bias)


NAMES = [name for name in SAMPLERS if name != "decoupled"]


@pytest.mark.parametrize("name", NAMES)
def test_both_modes_in_their_shares(name):
    check(name, "cosine")


def test_the_decoupled_step_finds_them_too():
    check("decoupled", "decoupled")


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [name for name in PROCESSES if name != "cosine"])
@pytest.mark.parametrize("name", NAMES)
def test_both_modes_on_every_schedule(name, schedule):
    # Euler steps in t, on ve a logarithm of sigma: in 50 steps it shrinks far too much
    check(name, schedule, 800 if (name, schedule) == ("euler", "ve") else 50)


@pytest.mark.parametrize("name", [name for name in NAMES if not SAMPLERS[name]().stochastic])
def test_every_ode_rule_goes_to_the_same_points(name):
    """Against a fine reference: 400 steps of Heun from the same noise; the higher the order, the nearer."""
    away = np.sqrt(np.mean((drawn(name, "cosine", 50) - drawn("heun", "cosine", 400)) ** 2))
    assert away < (0.08 if SAMPLERS[name]().order == 1 else 0.02)
