"""Between uint8 images and what the net sees: pixels, later latents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from diffusion.types import Array, Frozen


@dataclass(frozen=True)
class Codec:
    """Encoder and decoder with their frozen weights as an argument.

    Attributes:
      encode: (frozen, u8[b h w c] in [0, 255]) -> f32[b h' w' c'].
      decode: (frozen, f32[b h' w' c']) -> u8[b h w c].
      shape: (h, w, c) of an image -> (h', w', c').
      frozen: weights, or None.
      bounded: values lie in [-1, 1], so that clipping x0 makes sense.
      latent: it is given latents in place of images, and what it decodes is a preview.
    """

    encode: Callable[[Frozen, Array], Array]
    decode: Callable[[Frozen, Array], Array]
    shape: Callable[[tuple[int, int, int]], tuple[int, int, int]]
    frozen: Any
    bounded: bool
    latent: bool = False


def from_uint8(images: Array) -> Array:
    """u8 in [0, 255] -> f32 in [-1, 1]. Arrays that are floats already pass as they are."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: Array) -> Array:
    """f32 in [-1, 1] -> u8 in [0, 255]: clipped, rounded half up. The one conversion for files and extractors."""
    return jnp.floor(jnp.clip(images * 127.5 + 127.5, 0.0, 255.0) + 0.5).astype(jnp.uint8)


def pixels() -> Codec:
    """The identity: the net works on pixels in [-1, 1]."""
    return Codec(
        encode=lambda frozen, images: from_uint8(images),
        decode=lambda frozen, x: to_uint8(x),
        shape=lambda shape: shape,
        frozen=None,
        bounded=True,
    )


def latents(*, scale: float = 0.18215, shift: float = 0.0) -> Codec:
    """Latents that were encoded before: the net works on (latent - shift) * scale (Rombach 2022, section G).

    There is no decoder: ``decode`` answers a preview, not an image. Its colours are the first three channels (the first
    one alone where there are fewer), where 3 standard deviations of the net's units fill the range.

    Args:
      scale: 1 / standard deviation of the latents; .18215 is that of Stable Diffusion's autoencoder.
      shift: their mean.
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be positive")

    return Codec(
        encode=lambda frozen, latents: (latents.astype(jnp.float32) - shift) * scale,
        decode=lambda frozen, x: to_uint8(x[..., : 3 if x.shape[-1] >= 3 else 1] / 3.0),
        shape=lambda shape: shape,
        frozen=None,
        bounded=False,
        latent=True,
    )


CODECS = {"pixels": pixels, "latents": latents}
