"""What published networks want of an image before they see it."""

from collections.abc import Sequence

import jax.numpy as jnp

from diffusion.extractors.extractor import check_images
from diffusion.types import Array


def three_channels(images: Array) -> Array:
    """u8[b h w 1 or 3] -> u8[b h w 3]; grey is repeated.

    Raises:
      TypeError: not uint8 [b h w c], or another number of channels.
    """
    check_images(images)
    if images.shape[3] not in (1, 3):
        raise TypeError(f"this extractor takes images of 1 or 3 channels; got {images.shape[3]}")
    return jnp.broadcast_to(images, (*images.shape[:3], 3))


def normalised(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """u8[b h w c] -> f32: (x / 255 - mean) / std, channel by channel."""
    scaled = images.astype(jnp.float32) / 255
    mean, std = (jnp.array(numbers, jnp.float32)[None, None, None] for numbers in (mean, std))
    return (scaled - mean) / std
