"""Functions Denoiser -> Denoiser: guidance and thresholds. They compose in any order that makes sense to their user.

A function that changes x0 takes eps from alpha * x0 + sigma * eps = x_t again, so every sampler sees one line. A third
variable of the path, ``extra["K"]``, is part of that line and is guided with x0 and eps.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from diffusion.process import Process, expand
from diffusion.types import Array, Denoiser, Prediction

# (guided, conditional, x_t, t) -> Prediction: what becomes of a guided answer, the condition's own at hand
Correction = Callable[[Prediction, Prediction, Array, Array], Prediction]


def cfg(denoise: Denoiser, null: Denoiser, scale: float | Array, *corrections: Correction) -> Denoiser:
    """Guidance: u + w (c - u). w = 1 is the condition alone, w = 0 the null.

    Args:
      denoise, null: with the condition, and with its learned null (Ho & Salimans 2022); or the net, and a weaker one
        that is given the same (autoguidance, Karras 2024).
      scale: w, [] or [b].
      corrections: applied in their order.
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        c, u = denoise(x_t, t), null(x_t, t)
        w = expand(jnp.asarray(scale, jnp.float32), x_t)
        return _corrected(corrections, _led(u, [(c, w)]), c, x_t, t)

    return guided


def compose(
    denoise: Denoiser, null: Denoiser, terms: Sequence[tuple[Denoiser, float]], *corrections: Correction
) -> Denoiser:
    """Conditions with a scale each: u + sum of w_i (c_i - u) (Liu 2022, eq. 11).

    Args:
      denoise: with every condition; called where there are corrections.
      null: u, with none of those that have a term.
      terms: (c_i, w_i), c_i with the i-th alone; at least one.
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        u = null(x_t, t)
        answers = [(c(x_t, t), w) for c, w in terms]
        found = _led(u, answers)
        return _corrected(corrections, found, denoise(x_t, t), x_t, t) if corrections else found

    return guided


def interval(process: Process, low: float, high: float) -> Correction:
    """Guidance where sigma / alpha lies in (low, high] alone (Kynkaanniemi 2024); a high of 0 is no upper end."""
    if not (low >= 0 and (high == 0 or high > low)):
        raise ValueError(f"interval is ({low}, {high}); it must be 0 <= low < high, or (low, 0) for no upper end")

    def correct(guided: Prediction, conditional: Prediction, x_t: Array, t: Array) -> Prediction:
        alpha, sigma = process.schedule.alpha_sigma(jnp.asarray(t, jnp.float32))
        inside = sigma > low * alpha
        inside = expand(inside & (sigma <= high * alpha) if high else inside, x_t)
        return jax.tree.map(lambda led, own: jnp.where(inside, led, own), guided, conditional)

    return correct


def rescale(process: Process, *, phi: float = 0.7) -> Correction:
    """x0 brought back to the deviation of the condition's own, by the share phi (Lin 2023, eq. 15 and 16).

    The deviation is over all axes of an image, n - 1 in its denominator. It is taken of x0, whatever the target.
    """
    if not 0 <= phi <= 1:
        raise ValueError(f"rescale is {phi}; it must lie in [0, 1]")

    def correct(guided: Prediction, conditional: Prediction, x_t: Array, t: Array) -> Prediction:
        axes = tuple(range(1, x_t.ndim))
        given, wanted = (jnp.std(p.x0, axis=axes, ddof=1, keepdims=True) for p in (guided, conditional))
        x0 = guided.x0 * (phi * wanted / given + 1.0 - phi)
        return _on_the_line(process, x0, x_t, t, guided.extra)

    return correct


def known_pixels(process: Process, known: Array, mask: Array) -> Callable[[Denoiser], Denoiser]:
    """Inpainting: x0 is ``known`` [b h w c] where ``mask`` bool[b h w 1] is True, whatever the net answers there."""
    return lambda denoise: _with_x0(process, denoise, lambda x0: jnp.where(mask, known, x0))


def spherical(a: Array, b: Array, share: Array) -> Array:
    """From noise a to noise b [b h w c] along the sphere, by ``share`` [b] of the way (Song 2021, appendix D.5)."""
    axes = tuple(range(1, a.ndim))
    lengths = jnp.linalg.norm(a.reshape(len(a), -1), axis=1) * jnp.linalg.norm(b.reshape(len(b), -1), axis=1)
    angle = expand(jnp.arccos(jnp.clip(jnp.sum(a * b, axis=axes) / lengths, -1.0, 1.0)), a)
    share, apart = expand(share, a), angle > 1e-3
    safe = jnp.where(apart, angle, 1.0)
    ways = jnp.sin((1.0 - share) * safe) / jnp.sin(safe), jnp.sin(share * safe) / jnp.sin(safe)
    of_a, of_b = (jnp.where(apart, way, straight) for way, straight in zip(ways, (1.0 - share, share), strict=True))
    return of_a * a + of_b * b


def _led(u: Prediction, terms: Sequence[tuple[Prediction, float | Array]]) -> Prediction:
    """u + sum of w (c - u) of all variables of the path; what else a net answers is the first c's."""

    def led(of: Callable[[Prediction], Array]) -> Array:
        return of(u) + sum(w * (of(c) - of(u)) for c, w in terms)

    extra = terms[0][0].extra
    if "K" in extra:
        extra = extra | {"K": led(lambda p: p.extra["K"])}
    return Prediction(led(lambda p: p.x0), led(lambda p: p.eps), extra)


def _corrected(
    corrections: Sequence[Correction], guided: Prediction, conditional: Prediction, x_t: Array, t: Array
) -> Prediction:
    for correct in corrections:
        guided = correct(guided, conditional, x_t, t)
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
        return _on_the_line(process, change(p.x0), x_t, t, p.extra)

    return changed


def _on_the_line(process: Process, x0: Array, x_t: Array, t: Array, extra: dict[str, Array]) -> Prediction:
    return Prediction(x0, process.noise(x0, x_t, t, extra.get("K")), extra)


THRESHOLDS = {"none": no_threshold, "clip": clip, "dynamic": dynamic}
