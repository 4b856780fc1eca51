"""CLIP (Radford 2021): images and texts as vectors of one space."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.layers import zeros
from diffusion.nets.vit import Dense, StackShape, Vit, VitShape, blocks, layer_norm
from diffusion.types import Array


@dataclass(frozen=True)
class TextShape:
    """The text tower.

    Attributes:
      stack: its blocks.
      vocabulary: number of tokens; the last one ends a text.
      length: of the longest text, in tokens.
    """

    stack: StackShape
    vocabulary: int = 49_408
    length: int = 77


@dataclass(frozen=True)
class ClipShape:
    """Both towers, and d of the space they share."""

    image: VitShape
    text: TextShape
    features: int


class Clip(nn.Module):
    """Both towers; ``image`` and ``text`` are methods for ``apply``. Their vectors are not normalised."""

    shape: ClipShape

    def setup(self) -> None:
        self.image_tower = Vit(self.shape.image)
        self.text_tower = Text(self.shape.text)
        self.image_projection = Dense(self.shape.features, use_bias=False)
        self.text_projection = Dense(self.shape.features, use_bias=False)

    def __call__(self, x: Array, ids: Array) -> tuple[Array, Array]:
        return self.image(x), self.text(ids)

    def image(self, x: Array) -> Array:
        """x f32[b h w 3], normalised -> f32[b d]."""
        return self.image_projection(self.image_tower(x))

    def text(self, ids: Array) -> Array:
        """ids i32[b l], l at most ``length`` -> f32[b d]."""
        return self.text_projection(self.text_tower(ids))


class Text(nn.Module):
    """Tokens to the one that ends the text, which alone has seen all others."""

    shape: TextShape

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """i32[b l] -> f32[b d]. What follows the first token that ends a text changes nothing."""
        s, d, l = self.shape, self.shape.stack.width, ids.shape[1]
        tokens = self.param("tokens", zeros, (s.vocabulary, d))[ids]
        x = tokens + self.param("positions", zeros, (s.length, d))[None, :l]
        x = blocks(s.stack, x, jnp.tril(jnp.ones((l, l), bool)))
        end = ids.argmax(axis=-1)  # the first of the highest: the end has the highest id of all
        return layer_norm(s.stack.eps, "norm")(jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0])
