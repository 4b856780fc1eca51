"""Samplers without a network: where the data are N(MU, SD^2), the exact denoiser is linear and so is every step.

What a sampler makes of x_T and its noises is then read off as coefficients, and its mean and deviation are exact
numbers at every number of steps.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffusion.process import TARGETS, Process
from diffusion.samplers import GRIDS, SAMPLERS
from diffusion.schedules import SCHEDULES, Schedule
from diffusion.types import Prediction

MU, SD = 0.3, 0.5
IMAGES, LONGEST = 256, 160


PROCESSES = {name: Process(row(), TARGETS["x0"]()) for name, row in SCHEDULES.items()}
QUICK = ("linear", "cosine", "flow", "edm")  # the others are for the slow tests

RULES = {  # case: (row, keywords)
    **{name: (name, {}) for name in SAMPLERS if name != "decoupled"},
    "ddpm large": ("ddpm", {"variance": "large"}),
    "ddpm learned": ("ddpm", {"variance": "learned"}),
    "ddim eta .5": ("ddim", {"eta": 0.5}),
    "heun churn": ("heun", {"s_churn": 4.0}),
    "dpmpp_2m_sde eta .5": ("dpmpp_2m_sde", {"eta": 0.5}),
}
ON_DECOUPLED = {
    "decoupled": ("decoupled", {}),
    "decoupled deterministic": ("decoupled", {"stochastic": False}),
}


def group(case: str, schedule: str) -> tuple[str, ...]:
    """The schedules that share a compiled program with this one."""
    if case in ON_DECOUPLED:
        return ("decoupled",)
    return QUICK if schedule in QUICK else tuple(name for name in PROCESSES if name not in QUICK)


def rule(case: str):
    name, keywords = (RULES | ON_DECOUPLED)[case]
    return SAMPLERS[name](**keywords)


def keys(n: int) -> jax.Array:
    return jax.random.split(jax.random.key(3), n)


def gaussian(process: Process):
    """E[x0 | x_t] and E[eps | x_t] for data N(MU, SD^2); a learned variance a quarter of the way."""

    def denoise(x, t):
        alpha, sigma = process.schedule.alpha_sigma(t)
        excess = (x - alpha * MU) / ((alpha * SD) ** 2 + sigma**2)
        share = {"variance_share": jnp.full_like(x, 0.25)}
        return Prediction(MU + alpha * SD**2 * excess, sigma * excess, share)

    return denoise


def one_of(names: tuple[str, ...], which: jax.Array) -> Process:
    """The process of the ``which``-th schedule, so that one compiled program serves them all."""
    if len(names) == 1:
        return PROCESSES[names[0]]
    schedules = [PROCESSES[name].schedule for name in names]
    pairs, times = [s.alpha_sigma for s in schedules], [s.t_of_logsnr for s in schedules]
    schedule = Schedule(
        lambda t: lax.switch(which, pairs, t),
        lambda logsnr: lax.switch(which, times, logsnr),
        *[None] * 2,
        t_min=0.0,
        t_max=1.0,
    )
    return Process(schedule, TARGETS["x0"]())


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
def program(case: str, names: tuple[str, ...]):
    """A rule's steps along the first n of a row of times, compiled once for every n and schedule."""
    stepping = rule(case)

    @jax.jit
    def go(which, n, ts, x):
        process = one_of(names, which)

        def body(i, carry):
            x, memory = carry
            return stepping.step(process, gaussian(process), x, ts[i], ts[i + 1], memory, step_keys(i))

        return lax.fori_loop(0, n, body, (x, stepping.init(process, x, n)))[0]

    return go


def steps_of(case: str, schedule: str, ts: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[IMAGES], the end of the path along ts from the states x [IMAGES]."""
    names, steps = group(case, schedule), len(ts) - 1
    padded = jnp.pad(jnp.asarray(ts), (0, LONGEST - steps))
    out = program(case, names)(names.index(schedule), steps, padded, jnp.asarray(x.reshape(IMAGES, 1, 1, 1)))
    return np.asarray(out, np.float64).ravel()


def mean_and_deviation(case: str, schedule: str, ts: np.ndarray) -> tuple[float, float]:
    """Of what the sampler makes of the exact distribution of x at ts[0]."""
    steps = len(ts) - 1
    alpha, sigma = map(float, PROCESSES[schedule].schedule.alpha_sigma(jnp.asarray(ts[0])))
    mean, deviation = alpha * MU, math.hypot(alpha * SD, sigma)
    x = np.float32(mean + deviation * np.random.default_rng(0).standard_normal(IMAGES))
    out = steps_of(case, schedule, ts, x)
    z = noises()[:steps] if rule(case).stochastic else []
    inputs = np.stack([np.ones(IMAGES), (x - mean) / deviation, *z], axis=1)
    coefficients, *_ = np.linalg.lstsq(inputs, out, rcond=None)
    np.testing.assert_allclose(inputs @ coefficients, out, atol=2e-5 * max(1.0, np.abs(out).max()))
    return coefficients[0], float(np.linalg.norm(coefficients[1:]))


@functools.cache
def error(case: str, schedule: str, steps: int) -> float:
    """Distance of (mean, deviation) from (MU, SD), starting from the exact distribution of x at ts[0]."""
    grid = "quadratic" if case in ON_DECOUPLED else "logsnr"
    mean, deviation = mean_and_deviation(case, schedule, np.asarray(GRIDS[grid](PROCESSES[schedule], steps)))
    return math.hypot(mean - MU, deviation - SD)
