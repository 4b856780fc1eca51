"""A U-Net with adaptive group norm (Dhariwal & Nichol 2021) and the three ports."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.attention import Attention
from diffusion.nets.layers import Conv, Dense, GroupNorm, dropout, noise_embedding, zeros
from diffusion.types import Array, Ports


class ResBlock(nn.Module):
    """norm, silu, conv, adaptive norm from the embedding, silu, dropout, conv, added to the input."""

    channels: int
    groups: int
    dropout: float
    layer: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, emb: Array, keys: Array | None) -> Array:
        """x [b h w c], emb [b d], keys [b] or None -> [b h w channels]."""
        conv = lambda name, **kw: Conv(self.channels, (3, 3), dtype=self.dtype, name=name, **kw)  # noqa: E731
        h = conv("conv1")(nn.silu(GroupNorm(self.groups, name="norm1")(x)))
        scale_shift = Dense(2 * self.channels, dtype=jnp.float32, kernel_init=zeros, name="emb")(emb)
        h = GroupNorm(self.groups, name="norm2")(h, *jnp.split(scale_shift, 2, axis=-1))
        h = conv("conv2", kernel_init=zeros)(dropout(nn.silu(h), keys, self.dropout, self.layer))
        if x.shape[-1] != self.channels:
            x = Conv(self.channels, (1, 1), dtype=self.dtype, name="skip")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, then cross-attention to the ``seq`` port where there is one."""

    heads: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, ports: Ports) -> Array:
        """x [b h w c] -> [b h w c]."""
        b, h, w, c = x.shape
        tokens = GroupNorm(self.groups, name="norm")(x).reshape(b, h * w, c)
        x = x + Attention(self.heads, self.dtype, name="self")(tokens).reshape(b, h, w, c)
        if ports.seq is not None:
            tokens = GroupNorm(self.groups, name="cross_norm")(x).reshape(b, h * w, c)
            cross = Attention(self.heads, self.dtype, name="cross")(tokens, ports.seq, ports.seq_valid)
            x = x + cross.reshape(b, h, w, c)
        return x


class UNet(nn.Module):
    """Down, middle and up with a skip from every block. See ``unet`` for the fields."""

    out_channels: int
    dtype: Any
    channels: int
    mults: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    heads: int
    groups: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, ports: Ports, keys: Array | None = None) -> Array:
        """x [b h w c] (c_in applied), c_noise f32[b], keys [b] or None -> f32[b h w out_channels].

        h and w must be divisible by 2 ** (levels - 1).
        """
        emb = self._embed(c_noise, ports)
        if ports.grid is not None:
            x = jnp.concatenate([x, ports.grid.astype(x.dtype)], axis=-1)
        layers = iter(range(1_000))

        def block(x: Array, level: int, name: str, attend: bool) -> Array:
            width = self.channels * self.mults[level]
            x = ResBlock(width, self.groups, self.dropout, next(layers), self.dtype, name=name)(x, emb, keys)
            if attend:
                x = AttentionBlock(self.heads, self.groups, self.dtype, name=f"{name}_attention")(x, ports)
            return x

        x = Conv(self.channels, (3, 3), dtype=self.dtype, name="in")(x)
        skips = [x]
        for level in range(len(self.mults)):
            for i in range(self.blocks):
                x = block(x, level, f"down{level}_{i}", level in self.attention)
                skips.append(x)
            if level + 1 < len(self.mults):
                x = Conv(x.shape[-1], (3, 3), strides=2, dtype=self.dtype, name=f"down{level}_half")(x)
                skips.append(x)

        last = len(self.mults) - 1
        x = block(x, last, "middle0", attend=bool(self.attention) or ports.seq is not None)
        x = block(x, last, "middle1", attend=False)

        for level in reversed(range(len(self.mults))):
            for i in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = block(x, level, f"up{level}_{i}", level in self.attention)
            if level > 0:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = Conv(x.shape[-1], (3, 3), dtype=self.dtype, name=f"up{level}_double")(x)

        x = nn.silu(GroupNorm(self.groups, name="out_norm")(x)).astype(jnp.float32)
        return Conv(self.out_channels, (3, 3), kernel_init=zeros, name="out")(x)

    def _embed(self, c_noise: Array, ports: Ports) -> Array:
        d = 4 * self.channels
        emb = Dense(d, name="noise1")(noise_embedding(c_noise, self.channels))
        emb = Dense(d, name="noise2")(nn.silu(emb))
        if ports.vec is not None:
            emb = emb + Dense(d, name="vec")(ports.vec)
        return nn.silu(emb)


def unet(
    size: int,
    out_channels: int,
    dtype: Any,
    *,
    channels: int = 32,
    mults: tuple[int, ...] = (1, 2),
    blocks: int = 1,
    attention: tuple[int, ...] = (1,),
    heads: int = 4,
    groups: int = 8,
    dropout: float = 0.0,
) -> UNet:
    """A U-Net for square images of ``size`` pixels (or latents).

    Args:
      channels: width of the first level; level i has channels * mults[i].
      blocks: residual blocks on the way down, per level; one more on the way up.
      attention: levels with attention (0 is full resolution). The middle has it too, unless this is empty.
      dropout: share of activations dropped in residual blocks, [0, 1).

    Raises:
      ValueError: sizes that do not divide, levels that do not exist.
    """
    if not mults or any(m < 1 for m in mults):
        raise ValueError(f"mults is {mults}; it must hold a positive width factor for each level")
    if size % 2 ** (len(mults) - 1):
        raise ValueError(
            f"mults has {len(mults)} levels: the image size must be divisible by {2 ** (len(mults) - 1)}; it is {size}"
        )
    if min(channels, heads, groups, blocks) < 1:
        raise ValueError(
            f"channels {channels}, heads {heads}, groups {groups}, blocks {blocks}: each must be 1 or more"
        )
    if channels % (2 * groups) or channels % heads:
        raise ValueError(
            f"channels is {channels}; it must be divisible by heads ({heads}) and by 2 * groups ({2 * groups})"
        )
    if any(level not in range(len(mults)) for level in attention):
        raise ValueError(f"attention is {attention}; the levels are {tuple(range(len(mults)))}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in [0, 1)")
    return UNet(out_channels, dtype, channels, tuple(mults), blocks, tuple(attention), heads, groups, dropout)
