"""The downward half of a U-Net for each image of a set, averaged over the set (FSDM, Giannone 2022)."""

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.checks import at_least, one_of
from diffusion.nets.layers import Conv
from diffusion.nets.set_encoders.pools import of_valid, pooled
from diffusion.nets.unet_blocks import BlockStyle, ResBlock, check_levels
from diffusion.types import Array

POOLS = ("mean", "mean_patch")


class HalfUNet(nn.Module):
    """A stem, residual blocks with a halving between levels, the last map as tokens. See ``unet`` for the fields."""

    style: BlockStyle
    channels: int
    mults: tuple[int, ...]
    blocks: int
    d: int
    pool: str
    timed = False

    @property
    def place(self) -> int:
        """Side in pixels of what a token of a place stands for."""
        return 2 ** (len(self.mults) - 1)

    @nn.compact
    def __call__(self, images: Array, valid: Array, c_noise: Array | None = None) -> tuple[Array, Array]:
        """images f32[b n h w c], valid bool[b n] -> (tokens f32[b l d], bool[b l])."""
        b, n, h, w, c = images.shape
        x = of_valid(images, valid).reshape(b * n, h, w, c)
        x = Conv(self.channels, (3, 3), name="in")(x)
        for level, mult in enumerate(self.mults):
            width = self.channels * mult
            for i in range(self.blocks):
                x = ResBlock(width, self.style, 0, name=f"level{level}_{i}")(x, None, None)
            if level + 1 < len(self.mults):
                x = ResBlock(width, self.style, 0, "down", name=f"level{level}_half")(x, None, None)
        x = nn.silu(self.style.norm(x, "out_norm"))
        x = Conv(self.d, (1, 1), name="out")(x)
        return pooled(self.pool, None, x.reshape(b, n, -1, self.d), valid)


def unet(
    size: int,
    *,
    channels: int = 64,
    mults: tuple[int, ...] = (1, 2, 4),
    blocks: int = 2,
    groups: int = 8,
    d: int = 256,
    pool: str = "mean",
) -> HalfUNet:
    """Half a U-Net.

    Args:
      size: side of the square images.
      channels: width of the first level; level i has channels * mults[i].
      blocks: residual blocks of a level; each level but the last ends in one more, which halves the image.
      groups: of every group norm.
      d: features of a token.
      pool: mean over the set and all places, one token; mean_patch over the set alone, a token for each place.

    Raises:
      ValueError: sizes that do not divide, an unknown pool.
    """
    at_least(1, channels=channels, blocks=blocks, groups=groups, d=d)
    check_levels(size, mults, ())
    if channels % groups:
        raise ValueError(f"channels is {channels}; it must be divisible by groups ({groups})")
    one_of(POOLS, pool=pool)
    style = BlockStyle(
        dtype=jnp.float32, heads=1, head_width=0, groups=groups, group_width=0, norm_eps=1e-5, dropout=0.0,
        adaptive=False, resample_filter=(1.0, 1.0), project_skip=False, skip_scale=1.0
    )  # fmt: skip
    return HalfUNet(style, channels, tuple(mults), blocks, d, pool)
