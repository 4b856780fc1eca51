"""The nouns that every room shares, and the letters of the shapes.

b batch, h w c image, n set size, l tokens, d features, k classes. Images are NHWC everywhere.
A time ``t`` is 0 on clean data and grows with the noise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageSet:
    """For each row a few images of one class, in no order: what few-shot generation is conditioned on.

    Attributes:
      images: [b n h w c]; in a Batch as the target is, u8 in [0, 255] or latents; for a net what a codec made of them.
      valid: bool[b n], False on places that hold no member; what stands there changes nothing.
      keys: [b] typed keys of a context that is drawn at random; None where it is to be its most probable value.
    """

    images: Array
    valid: Array
    keys: Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EncodedSet:
    """What a net made of an ``ImageSet``: read once, it serves every step of a sampler.

    Attributes:
      tokens: f32[b l d], 0 where they are not valid.
      token_valid: bool[b l]; some token of a row is valid unless its set is empty.
      empty: bool[b], True where the set had no member.
    """

    tokens: Array
    token_valid: Array
    empty: Array


Cond = Mapping[str, Array | ImageSet | EncodedSet]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Examples at the door of the step.

    Attributes:
      x: [b h w c], uint8 images in [0, 255] or float arrays that a codec made.
      cond: one value per condition, [b ...] each (``{"label": i32[b], "set": ImageSet}``).
      id: i32[b], the example's index in its split.
      valid: bool[b], False on rows that only fill the compiled shape.
    """

    x: Array
    cond: Cond
    id: Array
    valid: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ports:
    """What conditions hand to a backbone; each port is optional.

    Attributes:
      vec: [b d], for adaptive norms.
      seq: [b l d], tokens for cross-attention.
      seq_valid: bool[b l], False on tokens that only fill the shape.
      grid: [b h w c], extra input channels at the image's resolution.
    """

    vec: Array | None = None
    seq: Array | None = None
    seq_valid: Array | None = None
    grid: Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prediction:
    """A net's answer in the common coin: alpha * x0 + sigma * eps == x_t.

    Attributes:
      x0: [b h w c], the clean image.
      eps: [b h w c], the unit noise.
      extra: whatever else the net predicts: ``variance_share``, or a path's third variable ``K``, which then is
        a term of that sum.
    """

    x0: Array
    eps: Array
    extra: dict[str, Array] = field(default_factory=dict)


Denoiser = Callable[[Array, Array], Prediction]  # (x_t [b h w c], t []) -> Prediction
Frozen = Any  # weights that are used and never trained; an argument of every step, never a closure
Params = Any  # a plain dict of arrays
