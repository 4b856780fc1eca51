"""What a transformer for small data has instead of patches and attention as usual (Lee, Lee & Song 2021)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.layers import Dense, fan_in, zeros
from diffusion.types import Array


def with_shifts(x: Array, shift: int) -> Array:
    """x [b h w c] and x moved by ``shift`` pixels along each diagonal, [b h w 5*c]; 0 comes in from outside (3.1)."""
    _, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    ends = 0, 2 * shift
    moved = [padded[:, i : i + h, j : j + w] for i in ends for j in ends]
    return jnp.concatenate([x, *moved], axis=-1)


class LocalityAttention(nn.Module):
    """Self-attention in which no token sees itself, and each head learns how sharp its softmax is (3.2).

    With one token alone there is nothing else to see, and it sees itself.
    """

    heads: int
    head_width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x f32[b l d] -> f32[b l d]."""
        b, l, d = x.shape
        inner = self.heads * self.head_width
        project = lambda name: Dense(inner, use_bias=False, name=name)(x)  # noqa: E731
        q, k, v = (project(name).reshape(b, l, self.heads, self.head_width) for name in ("query", "key", "value"))
        # log of what multiplies the usual 1 / sqrt(head_width)
        sharpness = self.param("log_sharpness", zeros, (self.heads,))
        logits = jnp.einsum("blne,bmne->bnlm", q, k) / math.sqrt(self.head_width)
        logits = logits * jnp.exp(sharpness)[None, :, None, None]
        logits = jnp.where(jnp.eye(l, dtype=bool)[None, None], jnp.finfo(jnp.float32).min, logits)
        out = jnp.einsum("bnlm,bmne->blne", jax.nn.softmax(logits, axis=-1), v)
        return Dense(d, kernel_init=fan_in, name="out")(out.reshape(b, l, inner))
