"""Attention over tokens, to themselves or to a context. Softmax runs in float32."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.layers import Dense, zeros
from diffusion.types import Array


class Attention(nn.Module):
    """Multi-head attention of x's tokens to themselves, or to ``context``.

    Keys have no bias: its gradient is zero, and Adam would blow its rounding noise up.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, context_valid: Array | None = None) -> Array:
        """x [b l d], context [b m e] with its bool[b m], -> [b l d], zero at initialisation.

        Tokens that are not valid change nothing, whatever they hold; where none is, the answer is the output's bias.
        """
        b, l, d = x.shape
        source = x if context is None else context.astype(x.dtype)
        if context_valid is not None:
            # at the input: a weight of 0 would still let NaN through, and no valid token leaves equal weights
            source = jnp.where(context_valid[..., None], source, 0.0)
        project = lambda name: Dense(d, use_bias=False, dtype=self.dtype, name=name)  # noqa: E731
        q, k, v = (self._split(project(n)(s)) for n, s in (("query", x), ("key", source), ("value", source)))
        logits = jnp.einsum("bld,bmd->blm", q, k).astype(jnp.float32) / math.sqrt(d // self.heads)
        if context_valid is not None:
            mask = jnp.repeat(context_valid, self.heads, axis=0)[:, None, :]
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        out = jnp.einsum("blm,bmd->bld", jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)
        out = out.reshape(b, self.heads, l, d // self.heads).swapaxes(1, 2).reshape(b, l, d)
        return Dense(d, dtype=self.dtype, kernel_init=zeros, name="out")(out)

    def _split(self, x: Array) -> Array:
        b, l, d = x.shape
        return x.reshape(b, l, self.heads, d // self.heads).swapaxes(1, 2).reshape(b * self.heads, l, d // self.heads)
