"""Separable resizes as matrices [n_out n_in], so that they run on the device as the reference programs run them."""

import jax
import jax.numpy as jnp
import numpy as np


def resized(x: jax.Array, down: np.ndarray, across: np.ndarray) -> jax.Array:
    """f32[b h w c] -> f32[b H W c] by matrices [H h] and [W w]; across first, as Pillow does."""
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("bhwc,Ww->bhWc", x, jnp.asarray(across), precision=exact)
    return jnp.einsum("bhwc,Hh->bHwc", x, jnp.asarray(down), precision=exact)


def tf1_bilinear(n_in: int, n_out: int) -> np.ndarray:
    """TensorFlow 1's ``resize_bilinear(align_corners=False)``: output i reads i * n_in / n_out, in float32."""
    at = np.arange(n_out, dtype=np.float32) * np.float32(n_in / n_out)
    return _between(at, n_in)


def half_pixel_bilinear(n_in: int, n_out: int) -> np.ndarray:
    """Torch's ``interpolate(mode="bilinear", align_corners=False)``: output i reads (i + .5) * n_in / n_out - .5."""
    at = (np.arange(n_out, dtype=np.float32) + np.float32(0.5)) * np.float32(n_in / n_out) - np.float32(0.5)
    return _between(np.maximum(at, 0), n_in)


def pil_bicubic(n_in: int, n_out: int) -> np.ndarray:
    """Pillow's BICUBIC (Keys 1981 with a = -1/2): where it shrinks, the kernel is widened against aliasing."""
    scale = n_in / n_out
    wide = max(scale, 1.0)
    centre = (np.arange(n_out) + 0.5) * scale
    # Pillow cuts the kernel to whole pixels and to the image, then makes the weights sum to 1
    first = np.maximum((centre - 2 * wide + 0.5).astype(int), 0)
    last = np.minimum((centre + 2 * wide + 0.5).astype(int), n_in)
    pixel = np.arange(n_in)
    weights = _keys((pixel + 0.5 - centre[:, None]) / wide)
    weights *= (pixel >= first[:, None]) & (pixel < last[:, None])
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _between(at: np.ndarray, n_in: int) -> np.ndarray:
    low = at.astype(int)
    share = at - low.astype(np.float32)
    matrix = np.zeros((len(at), n_in), np.float32)
    np.add.at(matrix, (np.arange(len(at)), low), 1 - share)
    np.add.at(matrix, (np.arange(len(at)), np.minimum(low + 1, n_in - 1)), share)
    return matrix


def _keys(x: np.ndarray) -> np.ndarray:
    """Cubic convolution, eq. 15 of Keys 1981."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
