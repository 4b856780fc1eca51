"""Decoupled diffusion (Huang 2023): two heads, C = -x0 along the way to zero and eps along the way to noise.

x_t = x0 + C t + sqrt(t) eps, that is (1 - t) x0 + sqrt(t) eps. In the linear variant C itself changes with t:
x_t = x0 + K t^2 / 2 + C t + sqrt(t) eps with C = -x0 - K / 2 and a third variable K.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from diffusion.schedules import Schedule
from diffusion.target import Coefficients, Target, Third, expand
from diffusion.types import Array, Prediction


def decoupled(*, precondition: bool = True, free: bool = False) -> Target:
    """Heads C and eps, in this order; x0 = x_t - C t - sqrt(t) eps.

    Args:
      precondition: the net answers F1 and F2, with C = c_skip x_t + c_out F for data of the deviation sigma_data.
      free: eps is the head's own answer, as in the paper; else eps follows from x0, so that the two lie on the line
        alpha x0 + sigma eps = x_t and every rule can step from them.
    """

    def solve(at: Coefficients, answers: Sequence[Array], x_t: Array) -> Prediction:
        c, eps = _unconditioned(at, answers, x_t) if precondition else answers
        x0 = x_t - expand(at.t, x_t) * c - expand(at.sigma, x_t) * eps
        return Prediction(x0, eps if free else (x_t - expand(at.alpha, x_t) * x0) / expand(at.sigma, x_t))

    if precondition:
        return Target((_unit, _unit), heads=2, solve=solve, gains=_unit_gains, refuses=_other_paths)
    return Target((_minus_x0, _eps), heads=2, solve=solve, gains=_no_gains, refuses=_other_paths)


def decoupled_linear(*, free: bool = False) -> Target:
    """The linear variant (Huang 2023, appendix): heads C, eps and K ~ clamp(N(0, 1), -1, 1), which is ``extra["K"]``.

    x0 = x_t - C t - sqrt(t) eps - K t^2 / 2; without ``free`` eps follows from x0 and K. A rule that steps with
    alpha x0 + sigma eps alone leaves K out and is only right for the last step.
    """

    def solve(at: Coefficients, answers: Sequence[Array], x_t: Array) -> Prediction:
        c, eps, k = answers
        x0 = x_t - expand(at.t, x_t) * c - expand(at.sigma, x_t) * eps - expand(0.5 * at.t**2, x_t) * k
        line = (x_t - expand(at.alpha, x_t) * x0 - expand(_kappa(at), x_t) * k) / expand(at.sigma, x_t)
        return Prediction(x0, eps if free else line, {"K": k})

    return Target(
        (_minus_x0_minus_half_k, _eps_of_three, _k),
        heads=3,
        solve=solve,
        gains=lambda at: (jnp.ones_like(at.t),) * 3,
        third=Third(_kappa, lambda normal: jnp.clip(normal, -1.0, 1.0)),
        refuses=_other_paths,
    )


def _other_paths(schedule: Schedule) -> str | None:
    if not schedule.decoupled:
        return "the decoupled targets are made for alpha = 1 - t, sigma = sqrt(t): take the decoupled schedule"
    return None


def _unconditioned(at: Coefficients, answers: Sequence[Array], x_t: Array) -> tuple[Array, Array]:
    """(C, eps) from (F1, F2): skips and scales for unit variance of F, with V the variance of x_t."""
    first, second = answers
    sd, variance = at.sigma_data, _variance(at)
    to_c, to_eps = _unit_gains(at)
    c = expand(to_c, x_t) * first - expand(at.alpha * sd**2 / variance, x_t) * x_t
    eps = expand(to_eps, x_t) * second + expand(at.sigma / variance, x_t) * x_t
    return c, eps


def _variance(at: Coefficients) -> Array:
    return (at.alpha * at.sigma_data) ** 2 + at.sigma**2


def _unit_gains(at: Coefficients) -> tuple[Array, Array]:
    root = at.sigma_data / jnp.sqrt(_variance(at))
    return at.sigma * root, at.alpha * root


def _unit(at: Coefficients) -> tuple[Array, Array]:
    # C and eps less their skips are the same line: what x_t does not tell, in units of its deviation
    root = jnp.sqrt(_variance(at))
    return -at.sigma / (at.sigma_data * root), at.alpha * at.sigma_data / root


def _no_gains(at: Coefficients) -> tuple[Array, Array]:
    return jnp.ones_like(at.t), jnp.ones_like(at.t)


def _minus_x0(at: Coefficients) -> tuple[Array, Array]:
    return -jnp.ones_like(at.t), jnp.zeros_like(at.t)


def _eps(at: Coefficients) -> tuple[Array, Array]:
    return jnp.zeros_like(at.t), jnp.ones_like(at.t)


def _kappa(at: Coefficients) -> Array:
    return 0.5 * at.t * (at.t - 1.0)  # K t^2 / 2 + C t with C = -x0 - K / 2


def _minus_x0_minus_half_k(at: Coefficients) -> tuple[Array, Array, Array]:
    one = jnp.ones_like(at.t)
    return -one, 0.0 * one, -0.5 * one


def _eps_of_three(at: Coefficients) -> tuple[Array, Array, Array]:
    one = jnp.ones_like(at.t)
    return 0.0 * one, one, 0.0 * one


def _k(at: Coefficients) -> tuple[Array, Array, Array]:
    one = jnp.ones_like(at.t)
    return 0.0 * one, 0.0 * one, one
