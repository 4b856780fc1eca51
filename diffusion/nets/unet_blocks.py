"""What U-Nets are made of: residual blocks with adaptive group norm, and attention over an image's pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.attention import Attention
from diffusion.nets.layers import Conv, Dense, GroupNorm, dropout, zeros
from diffusion.nets.resampling import resample
from diffusion.types import Array, Ports


@dataclass(frozen=True)
class BlockStyle:
    """What all blocks of one U-Net have in common; ``unet`` says what the fields mean."""

    dtype: Any
    heads: int
    head_width: int
    groups: int
    group_width: int
    norm_eps: float
    dropout: float
    adaptive: bool
    resample_filter: tuple[float, ...]
    project_skip: bool
    skip_scale: float

    def norm(self, x: Array, name: str, *scale_shift: Array, silu: bool = False) -> Array:
        """Group normalisation of x [b h w c] as a layer ``name`` of the module that calls, and SiLU after it."""
        return GroupNorm(self.groups_of(x.shape[-1]), self.norm_eps, silu, name=name)(x, *scale_shift)

    def groups_of(self, c: int) -> int:
        """``groups``, or the most up to it that divide c into groups of ``group_width`` channels or more."""
        if not self.group_width:
            return self.groups
        return next(n for n in range(max(min(self.groups, c // self.group_width), 1), 0, -1) if c % n == 0)

    def heads_of(self, c: int) -> int:
        return c // self.head_width if self.head_width else self.heads

    def add(self, x: Array, branch: Array) -> Array:
        """A residual branch to its input."""
        return x + branch if self.skip_scale == 1 else (x + branch) * self.skip_scale


class ResBlock(nn.Module):
    """norm, silu, conv, norm with the embedding, silu, dropout, conv, added to the input.

    The embedding, if there is one, scales and shifts what the second norm answers (ADM), or is added before that
    norm (DDPM++). An image is halved or doubled before the first convolution and on the way around it.
    """

    channels: int
    style: BlockStyle
    layer: int
    direction: str = "keep"

    @nn.compact
    def __call__(self, x: Array, emb: Array | None, keys: Array | None) -> Array:
        """x [b h w c], emb [b d] or None, keys [b] or None -> [b h' w' channels]."""
        s = self.style
        conv = lambda side, name, **kw: Conv(self.channels, (side, side), dtype=s.dtype, name=name, **kw)  # noqa: E731
        h, x = (resample(a, s.resample_filter, self.direction) for a in (s.norm(x, "norm1", silu=True), x))
        h = conv(3, "conv1")(h)
        h = self._conditioned(h, emb)
        h = conv(3, "conv2", kernel_init=zeros)(dropout(h, keys, s.dropout, self.layer))
        if x.shape[-1] != self.channels or (s.project_skip and self.direction != "keep"):
            x = conv(1, "skip")(x)
        return s.add(x, h)

    def _conditioned(self, h: Array, emb: Array | None) -> Array:
        if emb is None:
            return self.style.norm(h, "norm2", silu=True)
        project = lambda d: Dense(d, dtype=jnp.float32, kernel_init=zeros, name="emb")(emb)  # noqa: E731
        if self.style.adaptive:
            return self.style.norm(h, "norm2", *jnp.split(project(2 * self.channels), 2, axis=-1), silu=True)
        return self.style.norm(h + project(self.channels)[:, None, None, :].astype(h.dtype), "norm2", silu=True)


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, then cross-attention to the ``seq`` port where there is one."""

    style: BlockStyle

    @nn.compact
    def __call__(self, x: Array, ports: Ports) -> Array:
        """x [b h w c] -> [b h w c]."""
        b, h, w, c = x.shape
        s, heads = self.style, self.style.heads_of(c)
        tokens = s.norm(x, "norm").reshape(b, h * w, c)
        x = s.add(x, Attention(heads, s.dtype, name="self")(tokens).reshape(b, h, w, c))
        if ports.seq is not None:
            tokens = s.norm(x, "cross_norm").reshape(b, h * w, c)
            cross = Attention(heads, s.dtype, name="cross")(tokens, ports.seq, ports.seq_valid)
            x = s.add(x, cross.reshape(b, h, w, c))
        return x


def check_levels(size: int, mults: Sequence[int], attention: Sequence[int]) -> None:
    """Raises ValueError for widths, a size or levels of attention of which no U-Net can be made."""
    if not mults or any(m < 1 for m in mults):
        raise ValueError(f"mults is {mults}; it must hold a positive width factor for each level")
    if size % 2 ** (len(mults) - 1):
        raise ValueError(
            f"mults has {len(mults)} levels: the image size must be divisible by {2 ** (len(mults) - 1)}; it is {size}"
        )
    if any(level not in range(len(mults)) for level in attention):
        raise ValueError(f"attention is {attention}; the levels are {tuple(range(len(mults)))}")


def check_choice(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{field} is {value!r}; it must be one of: {', '.join(known)}")


def check_dropout(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"dropout is {rate}; it must lie in [0, 1)")
