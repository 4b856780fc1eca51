"""What a net regresses on: lines y = p * x0 + q * eps through the data, the noise and what else a path holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from diffusion.schedules import Schedule
from diffusion.types import Array, Prediction


@dataclass(frozen=True)
class Coefficients:
    """What a target's coefficients may depend on, all at one time t."""

    t: Array
    alpha: Array
    sigma: Array
    d_alpha: Array
    d_sigma: Array
    sigma_data: float


Line = Callable[[Coefficients], tuple[Array, ...]]


@dataclass(frozen=True)
class Third:
    """A third variable of the path: x_t = alpha x0 + sigma eps + kappa * third.

    Attributes:
      kappa: its coefficient.
      draw: unit normal noise [b h w c] -> the variable.
    """

    kappa: Callable[[Coefficients], Array]
    draw: Callable[[Array], Array]


@dataclass(frozen=True)
class Target:
    """A regression target: one line, or the lines of several heads.

    Attributes:
      lines: of each regressed head the coefficients (p, q) of (x0, eps) in its y, or (p, q, k) with a third variable.
      divides_by_alpha: recovering x0 from y divides by alpha, so alpha must never be exactly 0.
      heads: groups of c channels that the net answers; those beyond the lines are not regressed.
      solve: (at, answers of the heads, x_t) -> Prediction; None solves the only line for (x0, eps).
      gains: at -> an error of e in each line's y is one of gain * e in (C, eps, …); None where heads are no such parts.
      beside: (schedule, prediction, answers, x0, t) -> f32[b], a loss beside that of the lines; or None.
      third: the path's third variable, or None.
      refuses: schedule -> why the target cannot stand with it, or None.
    """

    lines: tuple[Line, ...]
    divides_by_alpha: bool = False
    heads: int = 1
    solve: Callable[[Coefficients, Sequence[Array], Array], Prediction] | None = None
    gains: Callable[[Coefficients], tuple[Array, ...]] | None = None
    beside: Callable[[Schedule, Prediction, Sequence[Array], Array, Array], Array] | None = None
    third: Third | None = None
    refuses: Callable[[Schedule], str | None] = lambda schedule: None


def solve_line(line: Line, at: Coefficients, y: Array, x_t: Array) -> Prediction:
    """Solve alpha x0 + sigma eps = x_t, p x0 + q eps = y for (x0, eps)."""
    p, q = line(at)
    det = at.alpha * q - at.sigma * p
    x0 = expand(q / det, x_t) * x_t - expand(at.sigma / det, x_t) * y
    eps = expand(at.alpha / det, x_t) * y - expand(p / det, x_t) * x_t
    return Prediction(x0, eps)


def expand(a: Array, like: Array) -> Array:
    """Append axes of length 1 to [b] (or []) until it multiplies ``like`` [b ...]."""
    return jnp.reshape(a, jnp.shape(a) + (1,) * (like.ndim - jnp.ndim(a)))
