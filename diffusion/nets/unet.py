"""A U-Net with adaptive group norm (Dhariwal & Nichol 2021) and the three ports; ``backbones`` has published ones."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets import unet_blocks
from diffusion.nets.layers import EMBEDDINGS, Conv, Dense, doubled_convolution, zeros
from diffusion.nets.remat import REMATS, run
from diffusion.nets.resampling import check_taps
from diffusion.nets.unet_blocks import AttentionBlock, BlockStyle, ResBlock
from diffusion.types import Array, Ports


class UNet(nn.Module):
    """Down, middle and up with a skip from every block. See ``unet`` for the fields."""

    out_channels: int
    style: BlockStyle
    channels: int
    mults: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    up_attention: str
    middle: str
    resample: str
    embedding: str
    emb_mult: int
    vec: str
    remat: str

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, ports: Ports, keys: Array | None = None) -> Array:
        """x [b h w c] (c_in applied), c_noise f32[b], keys [b] or None -> f32[b h w out_channels].

        h and w must be divisible by 2 ** (levels - 1).
        """
        emb = self._embed(c_noise, ports)
        if ports.grid is not None:
            x = jnp.concatenate([x, ports.grid.astype(x.dtype)], axis=-1)
        layers, dtype = iter(range(1_000)), self.style.dtype

        def block(x: Array, level: int, name: str, attend: bool, direction: str = "keep") -> Array:
            width = self.channels * self.mults[level]
            residual = ResBlock(width, self.style, next(layers), direction, name=name)
            x = run(residual, self.remat, x, emb, keys)
            if attend:
                x = run(AttentionBlock(self.style, name=f"{name}_attention"), self.remat, x, ports)
            return x

        x = Conv(self.channels, (3, 3), dtype=dtype, name="in")(x)
        skips = [x]
        for level in range(len(self.mults)):
            for i in range(self.blocks):
                x = block(x, level, f"down{level}_{i}", level in self.attention)
                skips.append(x)
            if level + 1 < len(self.mults):
                name = f"down{level}_half"
                if self.resample == "block":
                    x = block(x, level, name, False, "down")
                else:
                    x = Conv(x.shape[-1], (3, 3), strides=2, dtype=dtype, name=name)(x)
                skips.append(x)

        last = len(self.mults) - 1
        attend = {"auto": bool(self.attention), "attention": True, "plain": False}[self.middle]
        x = block(x, last, "middle0", attend or ports.seq is not None)
        x = block(x, last, "middle1", False)

        for level in reversed(range(len(self.mults))):
            for i in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                attend = level in self.attention and (self.up_attention == "all" or i == self.blocks)
                x = block(x, level, f"up{level}_{i}", attend)
            if level > 0:
                name = f"up{level}_double"
                if self.resample == "block":
                    x = block(x, level, name, False, "up")
                else:
                    double = partial(Conv, conv_general_dilated=doubled_convolution)
                    x = double(x.shape[-1], (3, 3), dtype=dtype, name=name)(x)

        x = self.style.norm(x, "out_norm", silu=True).astype(jnp.float32)
        return Conv(self.out_channels, (3, 3), kernel_init=zeros, name="out")(x)

    def _embed(self, c_noise: Array, ports: Ports) -> Array:
        d = self.emb_mult * self.channels
        emb = EMBEDDINGS[self.embedding](c_noise, self.channels)
        if ports.vec is not None and self.vec == "before":
            emb = emb + Dense(self.channels, name="vec")(ports.vec)
        emb = Dense(d, name="noise1")(emb)
        emb = Dense(d, name="noise2")(nn.silu(emb))
        if ports.vec is not None and self.vec == "after":
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
    head_width: int = 0,
    group_width: int = 0,
    norm_eps: float = 1e-5,
    up_attention: str = "all",
    middle: str = "auto",
    resample: str = "conv",
    resample_filter: tuple[float, ...] = (1.0, 1.0),
    project_skip: bool = False,
    skip_scale: float = 1.0,
    adaptive: bool = True,
    embedding: str = "adm",
    emb_mult: int = 4,
    vec: str = "after",
    remat: str = "none",
) -> UNet:
    """A U-Net for square images of ``size`` pixels (or latents).

    Args:
      channels: width of the first level; level i has channels * mults[i].
      blocks: residual blocks on the way down, per level; one more on the way up.
      attention: levels with attention (0 is full resolution).
      heads: of attention, everywhere.
      groups: of every group norm.
      dropout: share of activations dropped in residual blocks, [0, 1).
      head_width: channels per head instead of ``heads`` (ADM: 64); 0 takes ``heads``.
      group_width: least channels per group: fewer than ``groups`` groups where there are too few (EDM: 4); 0 never.
      norm_eps: added to the variance by every norm (ADM 1e-5, DDPM++ 1e-6).
      up_attention: on the way up after "all" blocks of such a level, or the "last" alone (DDPM++).
      middle: of its two blocks, the first has "attention", none has ("plain"; but to a ``seq`` port), or as "auto"
        says: attention where any level has it.
      resample: half and double by a "conv" between levels, or in a residual "block" (ADM, DDPM++).
      resample_filter: of such blocks: 1, 1 averages and repeats; 1, 3, 3, 1 is smoother (NCSN++).
      project_skip: such blocks have a 1 x 1 convolution on the way around too (DDPM++).
      skip_scale: factor on every sum of a branch and its input: 1, or sqrt(1/2) (DDPM++).
      adaptive: the embedding scales and shifts (ADM), or is added alone (DDPM++).
      embedding: of the noise: "adm" or "ddpmpp" (``layers.EMBEDDINGS``).
      emb_mult: width of the embedding over channels.
      vec: joins the noise "after" the embedding's two layers (ADM) or "before" them (DDPM++ of Karras 2022).
      remat: what the backward pass computes again: none, blocks (their whole inside: the least memory, about a third
        more work), dots (all but what convolutions and dense layers answer: norms, activations, attention).

    Raises:
      ValueError: sizes that do not divide, levels that do not exist, unknown names.
    """
    unet_blocks.check_levels(size, mults, attention)
    if min(channels, heads, groups, blocks, emb_mult) < 1 or min(head_width, group_width) < 0:
        raise ValueError(
            f"channels {channels}, heads {heads}, groups {groups}, emb_mult {emb_mult}, blocks {blocks}: each must be "
            f"1 or more; head_width {head_width}, group_width {group_width}: each 0 or more"
        )
    _check_widths(channels, heads, groups, head_width, group_width, embedding)
    unet_blocks.check_dropout(dropout)
    if not (norm_eps > 0 and 0 < skip_scale <= 1):
        raise ValueError(f"norm_eps is {norm_eps}, skip_scale {skip_scale}; needed are a positive one, one in (0, 1]")
    check_taps("resample_filter", resample_filter)
    for field, value, known in (
        ("up_attention", up_attention, ("all", "last")),
        ("middle", middle, ("auto", "attention", "plain")),
        ("resample", resample, ("conv", "block")),
        ("vec", vec, ("after", "before")),
        ("remat", remat, tuple(REMATS)),
    ):
        unet_blocks.check_choice(field, value, known)
    style = BlockStyle(
        dtype, heads, head_width, groups, group_width, norm_eps, dropout, adaptive, tuple(resample_filter),
        project_skip, skip_scale
    )  # fmt: skip
    return UNet(
        out_channels, style, channels, tuple(mults), blocks, tuple(attention), up_attention, middle, resample,
        embedding, emb_mult, vec, remat
    )  # fmt: skip


def _check_widths(channels: int, heads: int, groups: int, head_width: int, group_width: int, embedding: str) -> None:
    unet_blocks.check_choice("embedding", embedding, tuple(EMBEDDINGS))
    if channels % 2 or (embedding == "ddpmpp" and channels < 4):
        raise ValueError(f"channels is {channels}; the noise embedding needs an even number, ddpmpp 4 or more")
    if not head_width and channels % heads or not group_width and channels % (2 * groups):
        raise ValueError(
            f"channels is {channels}; it must be divisible by heads ({heads}) and by 2 * groups ({2 * groups})"
        )
    if head_width and channels % head_width:
        raise ValueError(f"channels is {channels}; it must be divisible by head_width ({head_width})")
