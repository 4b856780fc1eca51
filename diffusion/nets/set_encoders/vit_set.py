"""A transformer over patches in which the images of a set are stacked (FSDM's sViT), here in no order."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.checks import at_least, divides_the_image, one_of
from diffusion.nets.layers import Dense
from diffusion.nets.patches import patched
from diffusion.nets.set_encoders.blocks import EPS, Blocks, class_token, learned, transformed
from diffusion.nets.set_encoders.locality import LocalityAttention, with_shifts
from diffusion.nets.set_encoders.pools import of_valid, pooled, set_mean
from diffusion.nets.vit import layer_norm
from diffusion.types import Array

POOLS = ("cls", "mean", "sum", "mean_patch")


class StackedSetViT(nn.Module):
    """Shifted patches of each image, their mean and deviation over the set, attention over places. See ``vit_set``."""

    shape: Blocks
    patch: int
    pool: str
    timed = False

    @property
    def d(self) -> int:
        return self.shape.width

    @property
    def place(self) -> int:
        """Side in pixels of what a token of a place stands for."""
        return self.patch

    @nn.compact
    def __call__(self, images: Array, valid: Array, c_noise: Array | None = None) -> tuple[Array, Array]:
        """images f32[b n h w c], valid bool[b n] -> (tokens f32[b l d], bool[b l])."""
        b, n = valid.shape
        x = of_valid(images, valid).reshape(b * n, *images.shape[2:])
        x = patched(with_shifts(x, self.patch // 2), self.patch)
        x = Dense(self.d, name="patches")(layer_norm(EPS, "patch_norm")(x))
        p = x.shape[1]
        x = Dense(self.d, name="stack")(over_the_set(x.reshape(b, n, p, self.d), valid))
        x = x + learned(p, self.d, "positions")[None]
        tokens = transformed(self.shape, jnp.concatenate([class_token(b, self.d), x], axis=1))
        return pooled(self.pool, tokens[:, 0], tokens[:, None, 1:], valid.any(1, keepdims=True))


def over_the_set(x: Array, valid: Array) -> Array:
    """x [b n p d] -> mean and standard deviation over the valid members, f32[b p 2*d]."""
    mean = set_mean(x, valid)
    variance = set_mean(jnp.square(x - mean[:, None]), valid)
    # the root has no slope at 0, where sets of one member and empty ones are
    return jnp.concatenate([mean, jnp.sqrt(variance + EPS)], axis=-1)


def vit_set(
    size: int,
    *,
    patch: int = 8,
    width: int = 256,
    depth: int = 6,
    heads: int = 12,
    head_width: int = 64,
    mlp: int = 256,
    pool: str = "mean_patch",
) -> StackedSetViT:
    """A transformer that sees a set as one image of statistics.

    Args:
      size: side of the square images.
      patch: side of the squares of pixels that become tokens; it divides the size. Images are shifted by half of it.
      width: features of a token.
      depth: blocks.
      heads: of attention, with ``head_width`` features each; heads * head_width need not be the width.
      mlp: features of the MLP's hidden layer.
      pool: cls (the class token), mean or sum over the patches, mean_patch (every patch).

    Raises:
      ValueError: a patch that does not divide the size or cannot be halved, an unknown pool, sizes below 1.
    """
    divides_the_image(size, patch=patch)
    at_least(2, patch=patch)
    at_least(1, width=width, depth=depth, heads=heads, head_width=head_width, mlp=mlp)
    one_of(POOLS, pool=pool)
    return StackedSetViT(Blocks(partial(LocalityAttention, heads, head_width), width, depth, mlp), patch, pool)
