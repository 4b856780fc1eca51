"""Conditioners: one condition of the batch to the ports of a backbone, with a learned null.

Every one has ``encode(value, c_noise) -> value``, the part that a sampler may do once, and takes either in its
``(value, null bool[b], c_noise) -> Ports``.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.checks import at_least, one_of
from diffusion.nets.layers import Dense
from diffusion.nets.patches import unpatched
from diffusion.types import Array, EncodedSet, ImageSet, Ports

AUGMENT = "augment"  # the name of the numbers of `diffusion.augment` in a Cond
SET = "set"  # the name of an ImageSet in a Cond
INJECT = {  # to the ports that a set goes to
    "film": ("vec",),
    "lag": ("seq",),
    "both": ("vec", "seq"),
    "grid": ("grid",),
    "all": ("vec", "seq", "grid"),
}
OF_PLACES = ("mean_patch", "sum_patch")  # pools whose tokens are the image's places, in rows


class Label(nn.Module):
    """Class labels to the ``vec`` port; row k of the table is the null.

    Attributes:
      classes, d: k and the width of a vector.
      trained: classes whose rows are trained; the others become the null. None is all.
    """

    classes: int
    d: int
    trained: tuple[int, ...] | None = None
    timed = False

    @nn.compact
    def __call__(self, label: Array, null: Array, c_noise: Array | None = None) -> Ports:
        """label i32[b] in [0, k), or negative for no class; null bool[b] -> Ports(vec=[b d])."""
        table = nn.Embed(self.classes + 1, self.d, embedding_init=nn.initializers.ones_init(), name="table")
        return Ports(vec=table(jnp.where(null | ~self._known(label), self.classes, label)))

    def encode(self, label: Array, c_noise: Array | None = None) -> Array:
        """What a sampler may compute once: of a label, nothing."""
        return label

    def _known(self, label: Array) -> Array:
        return label >= 0 if self.trained is None else jnp.isin(label, jnp.asarray(self.trained, label.dtype))


def label(classes: int, trained: Sequence[int] | None = None, *, d: int = 128) -> Label:
    """A learned vector of width d per class, and one for the null.

    Args:
      trained: classes that training meets, each in [0, k); any other has an untrained row, so it gets the null's.

    Raises:
      ValueError: a width below 1, a class that there is not.
    """
    if d < 1:
        raise ValueError(f"d is {d}; it must be positive")
    unknown = [k for k in trained or () if not 0 <= k < classes]
    if unknown:
        raise ValueError(f"trained holds {unknown[0]}; the classes are 0 to {classes - 1}")
    return Label(classes, d, None if trained is None else tuple(map(int, trained)))


class SetCondition(nn.Module):
    """A set of images to ports. See ``set_condition``.

    Attributes:
      encoder: of ``set_encoders.SET_ENCODERS``.
      context: of ``contexts.CONTEXTS``, for tokens of width d.
      inject: a row of INJECT.
      d: width of the tokens.
      channels: of the ``grid`` port.
    """

    encoder: nn.Module
    context: nn.Module
    inject: str
    d: int
    channels: int

    def setup(self) -> None:
        self.null = nn.Embed(1, self.d, embedding_init=nn.initializers.ones_init())
        if "grid" in INJECT[self.inject]:
            self.map = Dense(self.channels * self.encoder.place**2)

    @property
    def timed(self) -> bool:
        """Whether the set must be encoded anew for every noise level."""
        return self.encoder.timed

    def __call__(self, value: ImageSet | EncodedSet, null: Array, c_noise: Array | None = None) -> Ports:
        """A set of each of b rows, null bool[b], c_noise f32[b] -> Ports(vec=[b d], seq=[b l d], seq_valid=bool[b l]).

        Where the set is empty or ``null`` is True, the learned null is the only valid token, and that of every place.
        """
        if isinstance(value, ImageSet):
            # no member, no penalty: what a row does not use costs it nothing
            value = self.encode(replace(value, valid=value.valid & ~null[:, None]), c_noise)
        gone = (null | value.empty)[:, None]
        first = jnp.arange(value.tokens.shape[1])[None] == 0
        valid = jnp.where(gone, first, value.token_valid)
        token = self.null(jnp.zeros(1, jnp.int32))[None]
        tokens = jnp.where(gone[..., None], token, value.tokens)
        ports = {"vec": tokens_mean(tokens, valid), "seq": jnp.where(valid[..., None], tokens, 0.0)}
        if "grid" in INJECT[self.inject]:
            side = math.isqrt(tokens.shape[1])
            ports["grid"] = unpatched(self.map(tokens), side, side, self.encoder.place)
        chosen = {port: ports[port] for port in INJECT[self.inject]}
        return Ports(**chosen, seq_valid=valid if "seq" in chosen else None)

    def encode(self, value: ImageSet, c_noise: Array | None = None) -> EncodedSet:
        """The part that a sampler does once, or at every noise level where ``timed``.

        Raises:
          TypeError: images of integers.
          ValueError: a ``timed`` encoder without c_noise.
        """
        if not jnp.issubdtype(value.images.dtype, jnp.floating):
            raise TypeError(
                f"the images of a set are {value.images.dtype}; a net takes floats in its codec's units, pixels in "
                "[-1, 1]: encode them as the targets are"
            )
        if self.timed and c_noise is None:
            raise ValueError("c_noise is None; this encoder of sets reads the noise level")
        tokens, valid = self.encoder(value.images, value.valid, c_noise)
        tokens = jnp.where(valid[..., None], self.context(tokens, valid, value.keys), 0.0)
        return EncodedSet(tokens, valid, ~value.valid.any(1))


def tokens_mean(tokens: Array, valid: Array) -> Array:
    """Mean over the valid ones of tokens [b l d], of which there is one at least: [b d]."""
    return jnp.where(valid[..., None], tokens, 0.0).sum(1) / valid.sum(1, keepdims=True)


def set_condition(encoder: nn.Module, context: nn.Module, *, inject: str = "film", channels: int = 16) -> SetCondition:
    """A set of images through an encoder and a context.

    Args:
      encoder: whose ``d`` is the width of its tokens.
      context: for tokens of that width.
      inject: film scales and shifts what norms answer by the tokens' mean, lag is cross-attention to the tokens (FSDM,
        Giannone 2022), both is both; grid lays what the set holds at each place beside the noisy image, as channels;
        all is all three.
      channels: of the grid.

    Raises:
      ValueError: an unknown inject, or one with a grid and an encoder whose tokens are of no places.
    """
    one_of(INJECT, inject=inject)
    at_least(1, channels=channels)
    if "grid" in INJECT[inject] and encoder.pool not in OF_PLACES:
        raise ValueError(f"inject is {inject!r}, which needs tokens of places: take an encoder's pool mean_patch")
    return SetCondition(encoder, context, inject, encoder.d, channels)


class AugmentLabel(nn.Module):
    """The numbers of an augmentation to the ``vec`` port, without a bias: zeros change nothing (Karras 2022, F.2).

    It has no null and is never dropped: nothing was done to the images that a net draws, with guidance or without.
    """

    numbers: int
    d: int = 128

    @nn.compact
    def __call__(self, label: Array, ports: Ports) -> Ports:
        """label f32[b numbers], ports of the other conditions -> ports; a vec that is there keeps its width."""
        d = self.d if ports.vec is None else ports.vec.shape[-1]
        vec = Dense(d, use_bias=False, name="map")(label)
        return replace(ports, vec=vec if ports.vec is None else ports.vec + vec)


def merge(ports: list[Ports]) -> Ports:
    """Several conditions at the same ports: vectors are added, tokens and channels appended."""
    vec = [p.vec for p in ports if p.vec is not None]
    seq = [p for p in ports if p.seq is not None]
    grid = [p.grid for p in ports if p.grid is not None]
    valid = [jnp.ones(p.seq.shape[:2], bool) if p.seq_valid is None else p.seq_valid for p in seq]
    return Ports(
        vec=sum(vec[1:], vec[0]) if vec else None,
        seq=jnp.concatenate([p.seq for p in seq], axis=1) if seq else None,
        seq_valid=jnp.concatenate(valid, axis=1) if seq else None,
        grid=jnp.concatenate(grid, axis=-1) if grid else None,
    )


CONDITIONS = {"label": label}
