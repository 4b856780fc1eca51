"""Learned variances (Nichol 2021): a second head says where between two bounds the variance of a reverse step lies.

Its loss is the variational bound, with the mean detached, beside the plain loss of eps.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from diffusion.schedules import Schedule
from diffusion.target import Coefficients, Target, expand, solve_line
from diffusion.types import Array, Prediction

BIN = 1 / 255  # half the distance of two 8-bit values in [-1, 1]


def learned_variance(*, vlb: float = 0.001) -> Target:
    """eps, and a head v whose share (v + 1) / 2 interpolates log beta and log posterior variance (Nichol 2021, eq. 15).

    The loss is that of eps plus ``vlb`` times the bound, in bits per dimension and summed over the T steps by T times
    the term of the drawn one, which is the step nearest to t (eq. 16). ``extra["variance_share"]`` is [b h w c] in
    [0, 1]. The term of the first step reads x0 as 8-bit pixels in [-1, 1].

    Raises:
      ValueError: a negative vlb.
    """
    if not vlb >= 0:
        raise ValueError(f"vlb is {vlb}; it must not be negative")

    def solve(at: Coefficients, answers: Sequence[Array], x_t: Array) -> Prediction:
        p = solve_line(_eps, at, answers[0], x_t)
        return Prediction(p.x0, p.eps, {"variance_share": jnp.clip(_share(answers), 0.0, 1.0)})

    def beside(schedule: Schedule, p: Prediction, answers: Sequence[Array], x0: Array, t: Array) -> Array:
        return vlb * schedule.steps * _bound_term(schedule, x0, jax.lax.stop_gradient(p.x0), _share(answers), t)

    return Target((_eps,), divides_by_alpha=True, heads=2, solve=solve, beside=beside, refuses=_no_steps)


def _share(answers: Sequence[Array]) -> Array:
    return 0.5 * (answers[1] + 1.0)  # not bounded in the loss


def _eps(at: Coefficients) -> tuple[Array, Array]:
    return jnp.zeros_like(at.alpha), jnp.ones_like(at.alpha)


def _no_steps(schedule: Schedule) -> str | None:
    if schedule.steps is None or schedule.steps < 2:
        return (
            "learned_variance bounds the variance of one of T steps, and this schedule has none; take linear, "
            "scaled_linear, quadratic or cosine"
        )
    return None


def _bound_term(schedule: Schedule, x0: Array, guess: Array, share: Array, t: Array) -> Array:
    """L_t of the step nearest to t [b], the mean over h w c in bits, f32[b] (Ho 2020, eq. 5; its first step eq. 13)."""
    i = jnp.clip(jnp.round(t * schedule.steps), 1, schedule.steps)
    log_beta, _, weight = _reverse_step(schedule, i)
    # the first step's posterior variance is 0: it takes that of the second
    log_small = _reverse_step(schedule, jnp.maximum(i, 2))[1]
    log_beta, log_small, weight = (expand(a, x0) for a in (log_beta, log_small, weight))
    log_variance = share * log_beta + (1.0 - share) * log_small
    apart = jnp.square(weight * (x0 - guess)) * jnp.exp(-log_variance)
    divergence = 0.5 * (log_variance - log_small - 1.0 + jnp.exp(log_small - log_variance) + apart)
    nats = jnp.where(expand(i, x0) == 1, -_log_pixel(x0, guess, 0.5 * log_variance), divergence)
    return nats.mean(axis=tuple(range(1, x0.ndim))) / math.log(2)


def _reverse_step(schedule: Schedule, i: Array) -> tuple[Array, Array, Array]:
    """Log beta and log posterior variance of step i (from 1), and the weight of x0 in the posterior mean."""
    alpha_t, sigma_t = schedule.alpha_sigma(i / schedule.steps)
    alpha_s, sigma_s = schedule.alpha_sigma((i - 1) / schedule.steps)
    beta = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2  # Ho 2020, eq. 7
    return jnp.log(beta), jnp.log(beta) + 2.0 * jnp.log(sigma_s / sigma_t), alpha_s * beta / sigma_t**2


def _log_pixel(x0: Array, mean: Array, log_deviation: Array) -> Array:
    """Log probability of the 8-bit bin of x0 under a normal (Ho 2020, eq. 13); the outermost bins are open."""
    scale = jnp.exp(-log_deviation)
    above, below = scale * (x0 - mean + BIN), scale * (x0 - mean - BIN)
    inside = jnp.log(jnp.maximum(jax.scipy.special.ndtr(above) - jax.scipy.special.ndtr(below), 1e-12))
    log_ndtr = jax.scipy.special.log_ndtr
    return jnp.where(x0 < -0.999, log_ndtr(above), jnp.where(x0 > 0.999, log_ndtr(-below), inside))
