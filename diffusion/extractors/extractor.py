"""A frozen network that turns images into what metrics compare, and what its makers are given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from diffusion.classifier_fit import Labelled
from diffusion.types import Array, Frozen


@dataclass(frozen=True)
class Given:
    """What the program hands over to a row of ``EXTRACTORS``.

    Attributes:
      dataset: its name, which stands in the name of a classifier trained on it.
      classes: k; 0 for an unlabelled set.
      train, test: read the splits as the diffusion model sees them (cropped, resized, not augmented).
      cache_dir: where weights that are made here are kept, under their fingerprint.
    """

    dataset: str
    classes: int
    train: Callable[[], Labelled]
    test: Callable[[], Labelled]
    cache_dir: Path


@dataclass(frozen=True, eq=False)
class Extractor:
    """A frozen network and its name.

    Attributes:
      name: kind, data set or preset, and the first 8 hex digits of the weights' sha256 ("cls-digits-1a2b3c4d").
      sha256: of the weights, hex.
      frozen: the weights, f32; always an argument of a jitted step, never a closure.
      extract: (frozen, u8[b h w c]) -> {"features": f32[b d], …}, pure, at full float32 precision; "classes" i32[b],
        the class it reads, and "logits" f32[b k] where the network has them; any other dtype raises TypeError.
      about: plain JSON of what decides the features beside the weights: tap, normalisation, resize, precision.
      accuracy: of "classes" on held-out images, in [0, 1], or None.
      tokenise: texts -> i32[n l], and ``text``: (frozen, i32[n l]) -> f32[n d] in the space of the features; None
        where the network reads no text.
      distance: (frozen, u8[n h w c], u8[n h w c]) -> f32[n], of a perceptual distance; None elsewhere.
    """

    name: str
    sha256: str
    frozen: Frozen
    extract: Callable[[Frozen, Array], dict[str, Array]]
    about: Mapping[str, Any] = field(default_factory=dict)
    accuracy: float | None = None
    tokenise: Callable[[Sequence[str]], Array] | None = None
    text: Callable[[Frozen, Array], Array] | None = None
    distance: Callable[[Frozen, Array, Array], Array] | None = None


def check_images(images: Array) -> None:
    """Raises TypeError unless images are uint8 [b h w c]."""
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise TypeError(
            f"extractors take uint8 [b h w c] in [0, 255]; got {images.dtype} {tuple(images.shape)}: "
            "pass decoded images through to_uint8"
        )
