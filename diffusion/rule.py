"""What a sampler's rule is, and the arithmetic that rules share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.process import Process, expand
from diffusion.types import Array, Prediction

Memory = Any  # what a rule carries from step to step, a pytree of arrays


def _one_a_step(steps: int) -> int:
    return steps


class Rule(NamedTuple):
    """A way to step from x_t to x_s, s < t.

    Attributes:
      init: (process, x [b h w c], steps) -> memory, steps being how many the grid has. Raises ValueError where the rule
        is not for this process.
      step: (process, denoise, x, t, s, memory, keys [b]) -> (x_s, memory).
      order: the declared order: the global error falls like steps ** -order.
      stochastic: True where steps add noise; then the order is that of mean and deviation.
      calls: steps of a grid that ends clean -> how often the denoiser is called.
      third: it reads ``Prediction.extra["K"]``, a third variable beside x0 and eps.
    """

    init: Callable[[Process, Array, int | Array], Memory]
    step: Callable[..., tuple[Array, Memory]]
    order: int
    stochastic: bool = False
    calls: Callable[[int], int] = _one_a_step
    third: bool = False


def no_memory(process: Process, x: Array, steps: int | Array) -> Memory:
    return ()


def per_image_normal(keys: Array, stream: int | Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise [b *shape], image i from fold_in(keys[i], stream)."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(fold(keys, stream))


def fold(keys: Array, data: int | Array) -> Array:
    """Every image's key with ``data`` folded in, [b]."""
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def noise(keys: Array, x: Array) -> Array:
    """Standard normal noise shaped like x [b h w c], image i from keys[i]."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)


def between(process: Process, t: Array, s: Array) -> tuple[tuple[Array, Array, Array, Array], Array]:
    """(alpha_t, sigma_t, alpha_s, sigma_s) and the variance of x_s given x_t and x0 (Ho 2020, eq. 7, any two times)."""
    alpha_t, sigma_t = process.schedule.alpha_sigma(t)
    alpha_s, sigma_s = process.schedule.alpha_sigma(s)
    ratio = sigma_s / sigma_t
    variance = ratio**2 * (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2)
    return (alpha_t, sigma_t, alpha_s, sigma_s), jnp.maximum(variance, 0.0)


def slope(process: Process, p: Prediction, t: Array) -> Array:
    """dx/dt of the probability-flow ODE: alpha' x0 + sigma' eps (Karras 2022, eq. 4; Lipman 2023)."""
    at = process.coefficients(t)
    return expand(at.d_alpha, p.x0) * p.x0 + expand(at.d_sigma, p.x0) * p.eps
