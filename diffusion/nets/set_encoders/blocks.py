"""The transformer that set encoders of patches share: a class token, pre-norm blocks, a last norm."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.layers import Dense
from diffusion.nets.stack import stacked
from diffusion.nets.vit import layer_norm
from diffusion.types import Array

EPS = 1e-6
DECLARED = nn.initializers.constant(0.02)  # deviation of learned tokens and positions (BEiT, ViT codes)


@dataclass(frozen=True)
class Blocks:
    """Equal blocks.

    Attributes:
      attention: makes a layer of attention with the keyword ``name``.
      width, depth, mlp: features of a token, blocks, features of the MLP's hidden layer.
    """

    attention: Callable[..., nn.Module]
    width: int
    depth: int
    mlp: int


class Block(nn.Module):
    """Attention and an MLP, each after a norm and added to its input."""

    shape: Blocks

    @nn.compact
    def __call__(self, x: Array, *given: Array | None) -> Array:
        """x f32[b l d] and what attention is given beside it -> f32[b l d]."""
        s = self.shape
        x = x + s.attention(name="attention")(layer_norm(EPS, "norm1")(x), *given)
        h = nn.gelu(Dense(s.mlp, name="wide")(layer_norm(EPS, "norm2")(x)), approximate=False)
        return x + Dense(s.width, name="narrow")(h)


def transformed(shape: Blocks, x: Array, *given: Array | None) -> Array:
    """x f32[b l d] through all blocks and a last norm; to be called in a compact method."""
    make = lambda name: Block(shape, name=name)  # noqa: E731
    call = lambda block, x, layer: block(x, *given)  # noqa: E731
    x = stacked(make, x, call, layers=range(shape.depth), name="blocks", remat="none", scan=True)
    return layer_norm(EPS, "norm")(x)


def class_token(b: int, d: int) -> Array:
    """One learned token, f32[b 1 d]; to be called in a compact method."""
    return jnp.broadcast_to(learned(1, d, "class_token")[None], (b, 1, d))


def learned(p: int, d: int, name: str) -> Array:
    """A learned table f32[p d]; to be called in a compact method."""
    return nn.Embed(p, d, embedding_init=DECLARED, name=name)(jnp.arange(p))
