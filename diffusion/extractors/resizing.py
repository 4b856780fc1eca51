"""Separable resizes as matrices [n_out n_in], so that they run on the device as the reference programs run them."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.extractors import pillow


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
    return pillow.bicubic(n_in, n_out).astype(np.float32)


def _between(at: np.ndarray, n_in: int) -> np.ndarray:
    low = at.astype(int)
    share = at - low.astype(np.float32)
    matrix = np.zeros((len(at), n_in), np.float32)
    np.add.at(matrix, (np.arange(len(at)), low), 1 - share)
    np.add.at(matrix, (np.arange(len(at)), np.minimum(low + 1, n_in - 1)), share)
    return matrix
