"""Attention over tokens, to themselves or to a context. Softmax runs in float32."""

import math
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.layers import Dense, zeros
from diffusion.nets.norms import rms_norm
from diffusion.nets.positions import turned
from diffusion.types import Array

IMPLEMENTATIONS = ("auto", "xla", "cudnn")  # of jax.nn.dot_product_attention


class Attention(nn.Module):
    """Multi-head attention of x's tokens to themselves, or to ``context``.

    Keys have no bias: its gradient is zero, and Adam would blow its rounding noise up.

    Attributes:
      qk_norm: queries and keys have mean square 1 over a head's features, times a learned scale (Esser 2024).
      implementation: "einsum" is written out here; the others are those of ``fused``.
      out_init: of the last kernel. At 0 no gradient passes what a gate at 0 multiplies: there take ``fan_in``.
      head_width: features of a head; 0 shares the d of the tokens among the heads.
    """

    heads: int
    dtype: Any = jnp.float32
    qk_norm: bool = False
    implementation: str = "einsum"
    out_init: Any = zeros
    head_width: int = 0

    @nn.compact
    def __call__(
        self,
        x: Array,
        context: Array | None = None,
        context_valid: Array | None = None,
        rotations: tuple[Array, Array] | None = None,
    ) -> Array:
        """x [b l d], context [b m e] with its bool[b m], -> [b l d]; zero at initialisation with the default.

        Tokens that are not valid change nothing, whatever they hold; where none is, the answer is the output's bias.
        Without a context ``context_valid`` is of x's own tokens. ``positions.rotary`` makes the rotations.
        """
        b, l, d = x.shape
        source = x if context is None else context.astype(x.dtype)
        if context_valid is not None:
            # at the input: a weight of 0 would still let NaN through, and no valid token leaves equal weights
            source = jnp.where(context_valid[..., None], source, 0.0)
        inner = self.heads * self.head_width or d
        project = lambda name: Dense(inner, use_bias=False, dtype=self.dtype, name=name)  # noqa: E731
        q, k, v = (self._split(project(n)(s)) for n, s in (("query", x), ("key", source), ("value", source)))
        if self.qk_norm:
            q, k = (self._normalised(a, name) for name, a in (("query_norm", q), ("key_norm", k)))
        if rotations is not None:
            q, k = turned(q, rotations), turned(k, rotations)
        if self.implementation == "einsum":
            out = written_out(q, k, v, context_valid)
        else:
            out = fused(q, k, v, context_valid, self.implementation)
        return Dense(d, dtype=self.dtype, kernel_init=self.out_init, name="out")(out.reshape(b, l, inner))

    def _split(self, x: Array) -> Array:
        b, l, d = x.shape
        return x.reshape(b, l, self.heads, d // self.heads)

    def _normalised(self, x: Array, name: str) -> Array:
        scale = self.param(name, nn.initializers.ones_init(), (x.shape[-1],))
        return (rms_norm(x.astype(jnp.float32)) * scale[None, None, None, :]).astype(x.dtype)


def written_out(q: Array, k: Array, v: Array, valid: Array | None) -> Array:
    """Queries [b l n e], keys and values [b m n e] with their bool[b m] -> [b l n e]."""
    b, l, heads, e = q.shape
    q, k, v = (a.swapaxes(1, 2).reshape(b * heads, a.shape[1], e) for a in (q, k, v))
    logits = jnp.einsum("bld,bmd->blm", q, k).astype(jnp.float32) / math.sqrt(e)
    if valid is not None:
        mask = jnp.repeat(valid, heads, axis=0)[:, None, :]
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    out = jnp.einsum("blm,bmd->bld", jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)
    return out.reshape(b, heads, l, e).swapaxes(1, 2)


def fused(q: Array, k: Array, v: Array, valid: Array | None, implementation: str = "auto") -> Array:
    """The same by ``jax.nn.dot_product_attention``.

    Args:
      implementation: "xla"; "cudnn", which needs an NVIDIA GPU, half precision and heads of at most 128 features, a
        multiple of 8, and takes masks of an even number of tokens alone; "auto" chooses it where all that holds and
        there is no mask. It has not been run on a GPU yet.
    """
    if implementation == "auto":
        half, e = q.dtype in (jnp.bfloat16, jnp.float16), q.shape[-1]
        implementation = "cudnn" if half and e <= 128 and e % 8 == 0 and valid is None and on_cuda() else "xla"
    mask = None if valid is None else valid[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)


def on_cuda() -> bool:
    return "cuda" in jax.extend.backend.get_backend().platform_version
