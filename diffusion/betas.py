"""Paths through the values of a table of betas, as functions of a continuous t in [0, 1].

Step i of T (from 0) lies at t = (i + 1) / T, and t = 0 is clean data. The tables are made in Python's float64; between
two steps the logarithm of abar is linear, or alpha itself where a table ends in alpha = 0.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from diffusion.types import Array

Path = tuple[Callable[[Array], tuple[Array, Array]], Callable[[Array], Array]]  # alpha_sigma, t_of_logsnr


def spaced(steps: int, start: float, end: float, power: int = 1) -> list[float]:
    """T betas, start … end, evenly spaced in their ``power``-th root and scaled by 1000 / T (Nichol 2021, section 4).

    Raises:
      ValueError: betas outside (0, 1), or steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 is needed")
    scale = 1000 / steps
    if not 0 < scale * start <= scale * end < 1:
        raise ValueError(
            f"beta_start {start} and beta_end {end} give betas {scale * start:g}…{scale * end:g} "
            f"at {steps} steps; they must lie in (0, 1) and not fall"
        )
    low, high = start ** (1 / power), end ** (1 / power)
    return [scale * (low + (high - low) * i / max(steps - 1, 1)) ** power for i in range(steps)]


def through(betas: Sequence[float], zero_snr: bool) -> Path:
    """The path with abar[i] = the product of 1 - beta up to i; with ``zero_snr`` rescaled as ``to_zero_snr`` says.

    Raises:
      ValueError: a single step that is to end in alpha = 0.
    """
    log_abar = [0.0]
    for beta in betas:
        log_abar.append(log_abar[-1] + math.log1p(-beta))
    if not zero_snr:
        return _along_log_abar(log_abar)
    if len(betas) < 2:
        raise ValueError("zero_snr keeps the first step and takes the last to 0: at least 2 steps are needed")
    lifted = to_zero_snr(math.exp(0.5 * log_abar[1]), math.exp(0.5 * log_abar[-1]))
    return _along_alpha([0.0] + [lifted(-math.expm1(0.5 * value)) for value in log_abar[1:]])


def to_zero_snr(first: float, last: float) -> Callable[[float | Array], float | Array]:
    """1 - alpha -> 1 - alpha', with alpha' = (alpha - last) first / (first - last) (Lin 2023, alg. 1).

    The step that had ``first`` keeps it and the one that had ``last`` gets 0. Written in 1 - alpha, which keeps its
    digits where alpha is nearly 1.
    """
    scale = first / (first - last)
    return lambda gap: scale * gap + (1 - scale * (1 - last))


def _along_log_abar(log_abar: list[float]) -> Path:
    steps = len(log_abar) - 1

    def table() -> tuple[Array, Array]:
        return jnp.arange(steps + 1) / steps, jnp.asarray(log_abar)

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        times, values = table()
        at = jnp.interp(t, times, values)
        return jnp.exp(0.5 * at), jnp.sqrt(jnp.abs(jnp.expm1(at)))

    def t_of_logsnr(logsnr: Array) -> Array:
        times, values = table()
        return jnp.interp(-jax.nn.log_sigmoid(logsnr), -values, times)

    return alpha_sigma, t_of_logsnr


def _along_alpha(gap: list[float]) -> Path:
    """``gap`` is 1 - alpha at t = 0, 1 / T, …, 1: from 0 to 1."""
    steps, rest = len(gap) - 1, [1.0 - g for g in gap[:-1]] + [0.0]

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        times = jnp.arange(steps + 1) / steps
        # two tables of one line: alpha keeps its digits near 0, 1 - alpha near 1
        alpha, below = (jnp.interp(t, times, jnp.asarray(values)) for values in (rest, gap))
        return alpha, jnp.sqrt(below * (1.0 + alpha))

    def t_of_logsnr(logsnr: Array) -> Array:
        below = jax.nn.sigmoid(-logsnr) / (1.0 + jnp.sqrt(jax.nn.sigmoid(logsnr)))
        return jnp.interp(below, jnp.asarray(gap), jnp.arange(steps + 1) / steps)

    return alpha_sigma, t_of_logsnr
