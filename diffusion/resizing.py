"""Images resized as Pillow does it: antialiased, one axis after the other, with constant weights.

Pillow weighs the source pixels whose centres lie within the kernel's support around the target's centre, the kernel
being stretched by the reduction; weights of pixels that are not there go to the others. It keeps 8-bit images 8 bits
after each axis, which is what published features were made with, and float images ("F") float.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.types import Array

BITS = 22  # of Pillow's fixed-point weights for 8-bit images


def resized(images: Array, size: tuple[int, int], kernel: str = "bicubic") -> Array:
    """Images [b h w c] -> f32[b h' w' c] for size (h', w'), not rounded: as Pillow's mode "F", channel by channel.

    Not clipped either: bicubic overshoots at edges. ``kernel`` is a row of ``KERNELS``.
    """
    x = images.astype(jnp.float32)
    for axis in (2, 1):
        weights = jnp.asarray(matrix(x.shape[axis], size[axis - 1], kernel), jnp.float32)
        x = jnp.moveaxis(jnp.tensordot(x, weights, (axis, 1), precision=jax.lax.Precision.HIGHEST), -1, axis)
    return x


def resized_uint8(images: Array, size: tuple[int, int], kernel: str = "bicubic") -> Array:
    """u8[b h w c] -> u8[b h' w' c] for size (h', w'): as Pillow resizes images, to the last bit.

    Raises:
      TypeError: images that are not uint8.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"resized_uint8 takes uint8 images; got {images.dtype}")
    x = images
    for axis in (2, 1):
        if x.shape[axis] != size[axis - 1]:
            x = _fixed_point(x, axis, size[axis - 1], kernel)
    return x


def matrix(n: int, m: int, kernel: str) -> np.ndarray:
    """The weights f64[m n] by which n pixels become m."""
    first, weights = _taps(n, m, kernel)
    dense = np.zeros((m, n + weights.shape[1]))
    np.put_along_axis(dense, first[:, None] + np.arange(weights.shape[1]), weights, axis=1)
    return dense[:, :n]


def _fixed_point(x: Array, axis: int, m: int, kernel: str) -> Array:
    n = x.shape[axis]
    first, weights = _taps(n, m, kernel)
    fixed = (np.sign(weights) * np.floor(np.abs(weights) * 2**BITS + 0.5)).astype(np.int32)
    along = [1] * x.ndim
    along[axis] = m
    total = jnp.int32(1 << (BITS - 1))  # a half
    for k in range(fixed.shape[1]):
        pixels = jnp.take(x, np.minimum(first + k, n - 1), axis=axis).astype(jnp.int32)
        total = total + pixels * fixed[:, k].reshape(along)
    return jnp.clip(total >> BITS, 0, 255).astype(jnp.uint8)


def _taps(n: int, m: int, kernel: str) -> tuple[np.ndarray, np.ndarray]:
    """(i[m] the first pixel that counts, f64[m k] weights from there on, which sum to 1)."""
    function, support = KERNELS[kernel]
    stretch = max(n / m, 1.0)
    reach = support * stretch
    centres = (np.arange(m) + 0.5) * n / m
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    end = np.minimum((centres + reach + 0.5).astype(int), n)
    pixels = first[:, None] + np.arange(2 * math.ceil(reach) + 1)
    weights = function((pixels - centres[:, None] + 0.5) / stretch) * (pixels < end[:, None])
    return first, weights / weights.sum(axis=1, keepdims=True)


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _bicubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys 1981, eq. 4 with a = -1/2."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


# a kernel and how far it reaches
KERNELS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}
