"""Pillow's bicubic resize inside a jitted function, for networks whose published features were made with it.

Pillow weighs the source pixels whose centres lie within the kernel's reach of the target's centre, the kernel being
stretched by the reduction against aliasing; weights of pixels that are not there go to the others.
"""

import math

import jax.numpy as jnp
import numpy as np

from diffusion.types import Array

BITS = 22  # of Pillow's fixed-point weights for 8-bit images
REACH = 2  # of the bicubic kernel, in pixels of the coarser image


def resized_uint8(images: Array, size: tuple[int, int]) -> Array:
    """u8[b h w c] -> u8[b h' w' c] for size (h', w'): as Pillow resizes images, to the last bit.

    It goes across, then down, and keeps 8 bits after each, as every Pillow before 13, with which published features
    were made. Pillow 13 goes down first where the height shrinks more than the width, which moves such images.

    Raises:
      TypeError: images that are not uint8.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"resized_uint8 takes uint8 images; got {images.dtype}")
    for axis, m in ((2, size[1]), (1, size[0])):
        if images.shape[axis] != m:
            images = _fixed_point(images, axis, m)
    return images


def bicubic(n: int, m: int) -> np.ndarray:
    """The weights f64[m n] by which n pixels become m."""
    first, weights = _taps(n, m)
    dense = np.zeros((m, n + weights.shape[1]))
    np.put_along_axis(dense, first[:, None] + np.arange(weights.shape[1]), weights, axis=1)
    return dense[:, :n]


def _fixed_point(x: Array, axis: int, m: int) -> Array:
    n = x.shape[axis]
    first, weights = _taps(n, m)
    fixed = (np.sign(weights) * np.floor(np.abs(weights) * 2**BITS + 0.5)).astype(np.int32)
    along = [1] * x.ndim
    along[axis] = m
    total = jnp.int32(1 << (BITS - 1))  # a half
    for k in range(fixed.shape[1]):
        pixels = jnp.take(x, np.minimum(first + k, n - 1), axis=axis).astype(jnp.int32)
        total = total + pixels * fixed[:, k].reshape(along)
    return jnp.clip(total >> BITS, 0, 255).astype(jnp.uint8)


def _taps(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """(i[m] the first pixel that counts, f64[m k] weights from there on, which sum to 1)."""
    stretch = max(n / m, 1.0)
    reach = REACH * stretch
    centres = (np.arange(m) + 0.5) * n / m
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    end = np.minimum((centres + reach + 0.5).astype(int), n)
    pixels = first[:, None] + np.arange(2 * math.ceil(reach) + 1)
    weights = _keys((pixels - centres[:, None] + 0.5) / stretch) * (pixels < end[:, None])
    return first, weights / weights.sum(axis=1, keepdims=True)


def _keys(x: np.ndarray) -> np.ndarray:
    """Cubic convolution, eq. 15 of Keys 1981."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
