"""Functions Denoiser -> Denoiser: guidance and thresholds. They compose in any order that makes sense to their user.

A function that changes x0 takes eps from alpha * x0 + sigma * eps = x_t again, so every sampler sees one line.
"""

from collections.abc import Callable

import jax.numpy as jnp

from diffusion.process import Process, expand
from diffusion.types import Array, Denoiser, Prediction


def cfg(denoise: Denoiser, null: Denoiser, scale: float | Array) -> Denoiser:
    """Classifier-free guidance: u + w (c - u) (Ho & Salimans 2022). w = 1 is the condition alone, w = 0 the null.

    Args:
      denoise, null: with the condition, and with its learned null.
      scale: w, [] or [b].
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        c, u = denoise(x_t, t), null(x_t, t)
        w = expand(jnp.asarray(scale, jnp.float32), x_t)
        return Prediction(u.x0 + w * (c.x0 - u.x0), u.eps + w * (c.eps - u.eps), c.extra)

    return guided


def no_threshold(process: Process) -> Callable[[Denoiser], Denoiser]:
    """x0 as the net answers it: for latents."""
    return lambda denoise: denoise


def clip(process: Process, *, limit: float = 1.0) -> Callable[[Denoiser], Denoiser]:
    """x0 clipped to [-limit, limit] (Ho 2020): for pixels."""
    if not limit > 0:
        raise ValueError(f"limit is {limit}; it must be positive")
    return lambda denoise: _with_x0(process, denoise, lambda x0: jnp.clip(x0, -limit, limit))


def dynamic(process: Process, *, quantile: float = 0.995, maximum: float = 3.0) -> Callable[[Denoiser], Denoiser]:
    """Saharia 2022, section 2.3: s = clip(quantile of an image's |x0|, 1, maximum), x0 = clip(x0, -s, s) / s.

    It replaces the fixed clip; behind one it would do nothing. ``maximum`` must exceed 1, where it would be the clip.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile is {quantile}; it must lie in (0, 1]")
    if not maximum > 1:
        raise ValueError(f"maximum is {maximum}; it must exceed 1 (at 1 this is the fixed clip: take threshold=clip)")

    def shrink(x0: Array) -> Array:
        size = jnp.quantile(jnp.abs(x0), quantile, axis=tuple(range(1, x0.ndim)), keepdims=True)
        size = jnp.clip(size, 1.0, maximum)
        return jnp.clip(x0, -size, size) / size

    return lambda denoise: _with_x0(process, denoise, shrink)


def _with_x0(process: Process, denoise: Denoiser, change: Callable[[Array], Array]) -> Denoiser:
    def changed(x_t: Array, t: Array) -> Prediction:
        p = denoise(x_t, t)
        alpha, sigma = process.schedule.alpha_sigma(jnp.asarray(t, jnp.float32))
        x0 = change(p.x0)
        return Prediction(x0, (x_t - expand(alpha, x_t) * x0) / expand(sigma, x_t), p.extra)

    return changed


THRESHOLDS = {"none": no_threshold, "clip": clip, "dynamic": dynamic}
