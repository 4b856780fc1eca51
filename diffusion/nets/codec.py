"""Between uint8 images and what the net sees: pixels, or latents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.nets.random_conv import RandomConv
from diffusion.types import Array, Frozen

Shape = tuple[int, int, int]  # (h, w, c)


def _as_encoded(encoded: Array, keys: Array | None) -> Array:
    return encoded


@dataclass(frozen=True)
class Codec:
    """Encoder and decoder with their frozen weights as an argument.

    An encoder that answers a distribution is two functions: ``encode``, which costs and is a function of the image
    alone, so that its answer can be kept (`diffusion.data.encodings`), and ``draw``, which is cheap and takes a key.

    Attributes:
      encode: (frozen, u8[b h w c] in [0, 255]) -> f32[b h' w' e]: what can be kept of an image.
      decode: (frozen, f32[b h' w' c']) -> u8[b h w c].
      shape: (h, w, c) of an image -> (h', w', c').
      frozen: weights, or None.
      bounded: values lie in [-1, 1], so that clipping x0 makes sense.
      latent: it is given latents in place of images, and what it decodes is a preview.
      draw: (encoded f32[b h' w' e], keys [b] or None) -> f32[b h' w' c'], what the net works on: a draw for each key,
        the most probable value without keys. By default what is encoded, as it is.
      about: plain JSON of what decides the encoder beside its weights; empty where nothing is worth keeping.
    """

    encode: Callable[[Frozen, Array], Array]
    decode: Callable[[Frozen, Array], Array]
    shape: Callable[[Shape], Shape]
    frozen: Any
    bounded: bool
    latent: bool = False
    draw: Callable[[Array, Array | None], Array] = _as_encoded
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)  # so that a codec can be the key of a cache

    def encoded(self, frozen: Frozen, x: Array) -> Array:
        """f32[b h' w' e] of images u8[b h w c], or of floats that were encoded before; latents are images to a codec of
        latents.

        What is worth keeping is whole before anything uses it: compiled into one loop with that, it might be rounded
        otherwise than where it was kept.
        """
        kept = jnp.issubdtype(x.dtype, jnp.floating) and not self.latent
        found = x.astype(jnp.float32) if kept else self.encode(frozen, x)
        return jax.lax.optimization_barrier(found) if self.about else found

    def net_units(self, frozen: Frozen, x: Array, keys: Array | None = None) -> Array:
        """f32[b h' w' c'], what the net works on, of images or of what was encoded before; ``keys`` as of ``draw``."""
        return self.draw(self.encoded(frozen, x), keys)


def from_uint8(images: Array) -> Array:
    """u8 in [0, 255] -> f32 in [-1, 1]. Arrays that are floats already pass as they are."""
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: Array) -> Array:
    """f32 in [-1, 1] -> u8 in [0, 255]: clipped, rounded half up. The one conversion for files and extractors."""
    return jnp.floor(jnp.clip(images * 127.5 + 127.5, 0.0, 255.0) + 0.5).astype(jnp.uint8)


def pixels(image: Shape | None = None) -> Codec:
    """The identity: the net works on pixels in [-1, 1], of images of any shape."""
    return Codec(
        encode=lambda frozen, images: from_uint8(images),
        decode=lambda frozen, x: to_uint8(x),
        shape=lambda shape: shape,
        frozen=None,
        bounded=True,
    )


def latents(image: Shape | None = None, *, scale: float = 0.18215, shift: float = 0.0) -> Codec:
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


def random_conv(
    image: Shape,
    *,
    factor: int = 2,
    channels: int = 4,
    width: int = 32,
    depth: int = 2,
    scale: float = 1.0,
    deviation: float = 0.0,
    seed: int = 0,
) -> Codec:
    """Latents by convolutions of random weights: for tests, and to show what a codec goes through. It learned nothing.

    An image of [h w c] becomes [h/factor w/factor channels] by orthonormal patches and couplings that ``decode`` takes
    back: exactly where channels is c factor^2, else without the patches' least smooth directions (`RandomConv`).

    Args:
      factor: by which the sides shrink.
      channels: of a latent, even, from c to c factor^2.
      width: hidden channels of a coupling, which with ``depth`` decides what the encoder costs.
      depth: number of couplings.
      scale: factor on the latents, whose mean square is otherwise about that of the pixels.
      deviation: above 0 the encoder answers a normal distribution of each number, with deviations about this one.
      seed: of the weights, which are the same on every machine.
    """
    fields = dict(factor=factor, channels=channels, width=width, depth=depth, scale=scale, deviation=deviation)
    net = RandomConv(image=tuple(image), **fields)
    return Codec(
        encode=lambda frozen, images: net.encode(frozen, from_uint8(images)),
        decode=lambda frozen, x: to_uint8(net.decode(frozen, x)),
        shape=lambda shape: net.shape,
        frozen=net.weights(seed),
        bounded=False,
        draw=net.draw if deviation else _as_encoded,
        about={"codec": "random_conv", **fields},
    )


# A row: (shape of the images, *, its own config fields) -> Codec.
CODECS = {"pixels": pixels, "latents": latents, "random_conv": random_conv}
