"""A transformer over the patches of all images of a set together (FSDM's ViT, Giannone 2022)."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.attention import Attention
from diffusion.nets.checks import at_least, divides_the_image, one_of
from diffusion.nets.layers import Dense, fan_in, noise_embedding
from diffusion.nets.patches import patched
from diffusion.nets.set_encoders.blocks import Blocks, class_token, learned, transformed
from diffusion.nets.set_encoders.pools import POOLS, of_valid, pooled
from diffusion.types import Array

FREQUENCIES = 256  # features of the noise embedding before its layer


class SetViT(nn.Module):
    """A class token, a time token if wished, and the patches of every member, in one sequence. See ``vit``."""

    shape: Blocks
    patch: int
    pool: str
    time_token: bool

    @property
    def d(self) -> int:
        return self.shape.width

    @property
    def place(self) -> int:
        """Side in pixels of what a token of a place stands for."""
        return self.patch

    @property
    def timed(self) -> bool:
        return self.time_token

    @nn.compact
    def __call__(self, images: Array, valid: Array, c_noise: Array | None = None) -> tuple[Array, Array]:
        """images f32[b n h w c], valid bool[b n], c_noise f32[b] where ``timed`` -> (tokens f32[b l d], bool[b l])."""
        b, n = valid.shape
        x = patched(of_valid(images, valid).reshape(b * n, *images.shape[2:]), self.patch)
        p = x.shape[1]
        # the place within the image alone: a number of the member would make the order of the set matter
        x = Dense(self.d, name="patches")(x) + learned(p, self.d, "positions")[None]
        tokens = [class_token(b, self.d)]
        if self.time_token:
            tokens.append(Dense(self.d, name="time")(noise_embedding(c_noise, FREQUENCIES))[:, None])
        before = len(tokens)
        tokens = jnp.concatenate([*tokens, x.reshape(b, n * p, self.d)], axis=1)
        seen = jnp.concatenate([jnp.ones((b, before), bool), jnp.repeat(valid, p, axis=1)], axis=1)
        tokens = transformed(self.shape, tokens, None, seen)
        return pooled(self.pool, tokens[:, 0], tokens[:, before:].reshape(b, n, p, self.d), valid)


def vit(
    size: int,
    *,
    patch: int = 8,
    width: int = 256,
    depth: int = 6,
    heads: int = 12,
    head_width: int = 64,
    mlp: int = 256,
    pool: str = "mean_patch",
    time_token: bool = False,
) -> SetViT:
    """A transformer that sees all members of a set at once.

    Args:
      size: side of the square images.
      patch: side of the squares of pixels that become tokens; it divides the size.
      width: features of a token.
      depth: blocks.
      heads: of attention, with ``head_width`` features each; heads * head_width need not be the width.
      mlp: features of the MLP's hidden layer.
      pool: cls (the class token), mean or sum over all patches of all members, mean_patch or sum_patch over the same
        patch of all members, all (every patch of every member).
      time_token: a token of the noise level stands among the others; no pool counts it.

    Raises:
      ValueError: a patch that does not divide the size, an unknown pool, sizes below 1.
    """
    divides_the_image(size, patch=patch)
    at_least(1, width=width, depth=depth, heads=heads, head_width=head_width, mlp=mlp)
    one_of(POOLS, pool=pool)
    attention = partial(Attention, heads, out_init=fan_in, head_width=head_width)
    return SetViT(Blocks(attention, width, depth, mlp), patch, pool, time_token)
