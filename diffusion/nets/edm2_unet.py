"""The magnitude-preserving U-Net of Karras 2024 (EDM2, figure 21) with the three ports."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets import unet_blocks
from diffusion.nets.layers import dropout, zeros
from diffusion.nets.magnitude_preserving import MPAttention, MPConv, fourier, mp_cat, mp_silu, mp_sum, normalise
from diffusion.nets.remat import REMATS, run
from diffusion.nets.resampling import resample
from diffusion.types import Array, Ports

BRANCH = 0.3  # share of a residual branch and of attention in their sums
VEC = 0.5  # share of the vec port in the embedding
CLIP = 256.0  # activations end here, for half precision


class MPBlock(nn.Module):
    """A residual block, then attention where ``attend`` says so.

    On the way down the skip's convolution and a pixel norm come before the branch, on the way up the skip's convolution
    comes after it and there is no norm.
    """

    channels: int
    up: bool
    attend: bool
    head_width: int
    dropout: float
    layer: int
    dtype: Any
    direction: str = "keep"

    @nn.compact
    def __call__(self, x: Array, emb: Array, ports: Ports, keys: Array | None) -> Array:
        """x [b h w c], emb [b d], keys [b] or None -> [b h' w' channels]."""
        conv = lambda side, name: MPConv(self.channels, side, self.dtype, name=name)  # noqa: E731
        x = resample(x, (1.0, 1.0), self.direction)
        project = conv(1, "skip") if x.shape[-1] != self.channels else lambda x: x
        if not self.up:
            x = normalise(project(x), (-1,))
        h = conv(3, "conv1")(mp_silu(x))
        gain = self.param("emb_gain", zeros, ())
        scale = MPConv(self.channels, 0, name="emb")(emb, gain) + 1.0
        h = mp_silu(h * scale[:, None, None, :].astype(h.dtype))
        h = conv(3, "conv2")(dropout(h, keys, self.dropout, self.layer))
        x = mp_sum(project(x) if self.up else x, h, BRANCH)
        if self.attend:
            x = self._attention(x, ports)
        return jnp.clip(x, -CLIP, CLIP)

    def _attention(self, x: Array, ports: Ports) -> Array:
        b, h, w, c = x.shape
        attention = lambda name: MPAttention(c // self.head_width, self.dtype, name=name)  # noqa: E731
        tokens = x.reshape(b, h * w, c)
        tokens = mp_sum(tokens, attention("self")(tokens), BRANCH)
        if ports.seq is not None:
            tokens = mp_sum(tokens, attention("cross")(tokens, ports.seq, ports.seq_valid), BRANCH)
        return tokens.reshape(b, h, w, c)


class EDM2UNet(nn.Module):
    """Down, middle and up with a skip from every block. See ``edm2`` for the fields."""

    out_channels: int
    dtype: Any
    channels: int
    mults: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    head_width: int
    dropout: float
    remat: str

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, ports: Ports, keys: Array | None = None) -> Array:
        """x [b h w c] (c_in applied), c_noise f32[b], keys [b] or None -> f32[b h w out_channels].

        h and w must be divisible by 2 ** (levels - 1).
        """
        emb, layers = self._embed(c_noise, ports), iter(range(1_000))

        def block(x: Array, level: int, name: str, up: bool, attend: bool = False, direction: str = "keep") -> Array:
            width = self.channels * self.mults[level]
            attributes = (up, attend, self.head_width, self.dropout, next(layers), self.dtype, direction)
            return run(MPBlock(width, *attributes, name=name), self.remat, x, emb, ports, keys)

        ones = jnp.ones_like(x[..., :1])  # in place of biases
        grid = [] if ports.grid is None else [ports.grid.astype(x.dtype)]
        x = jnp.concatenate([x, *grid, ones], axis=-1)
        x = MPConv(self.channels * self.mults[0], 3, self.dtype, name="in")(x)
        skips, last = [x], len(self.mults) - 1
        for level in range(len(self.mults)):
            for i in range(self.blocks):
                x = block(x, level, f"down{level}_{i}", False, level in self.attention)
                skips.append(x)
            if level < last:
                x = block(x, level, f"down{level}_half", False, direction="down")
                skips.append(x)

        x = block(x, last, "middle0", True, attend=True)
        x = block(x, last, "middle1", True)

        for level in reversed(range(len(self.mults))):
            for i in range(self.blocks + 1):
                x = block(mp_cat(x, skips.pop()), level, f"up{level}_{i}", True, level in self.attention)
            if level > 0:
                x = block(x, level, f"up{level}_double", True, direction="up")

        gain = self.param("out_gain", zeros, ())
        return MPConv(self.out_channels, 3, name="out")(x, gain)

    def _embed(self, c_noise: Array, ports: Ports) -> Array:
        d = self.channels * max(self.mults)
        emb = MPConv(d, 0, name="noise")(fourier(c_noise, self.channels * self.mults[0]))
        if ports.vec is not None:
            emb = mp_sum(emb, MPConv(d, 0, name="vec")(normalise(ports.vec, (-1,))), VEC)
        return mp_silu(emb)


def edm2(
    size: int,
    out_channels: int,
    dtype: Any,
    *,
    channels: int = 32,
    mults: tuple[int, ...] = (1, 2),
    blocks: int = 1,
    attention: tuple[int, ...] = (1,),
    head_width: int = 16,
    dropout: float = 0.0,
    remat: str = "none",
) -> EDM2UNet:
    """A magnitude-preserving U-Net for square images of ``size`` pixels (or latents).

    Its kernels are normalised where they are used but not in the parameters: ``magnitude_preserving`` says what
    follows for the learning rate. Made for the edm schedule and target, whose c_noise is of order 1, and for Adam
    without weight decay at rates near 1e-2. The ``vec`` port counts by its direction alone.

    Args:
      channels: width of the first level; level i has channels * mults[i].
      blocks: residual blocks on the way down, per level; one more on the way up.
      attention: levels with attention (0 is full resolution); the middle always has it.
      head_width: channels per head.
      dropout: share of activations dropped in residual blocks, [0, 1).
      remat: what the backward pass computes again: none, blocks (their whole inside: the least memory, about a third
        more work), dots (all but what convolutions and dense layers answer: norms, activations, attention).

    Raises:
      ValueError: sizes that do not divide, levels that do not exist, unknown names.
    """
    unet_blocks.check_levels(size, mults, attention)
    if min(channels, blocks, head_width) < 1:
        raise ValueError(f"channels {channels}, blocks {blocks}, head_width {head_width}: each must be 1 or more")
    if channels % head_width:
        raise ValueError(f"channels is {channels}; it must be divisible by head_width ({head_width})")
    unet_blocks.check_dropout(dropout)
    unet_blocks.check_choice("remat", remat, tuple(REMATS))
    return EDM2UNet(
        out_channels, dtype, channels, tuple(mults), blocks, tuple(attention), head_width, dropout, remat
    )  # fmt: skip
