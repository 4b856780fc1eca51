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

IMPLEMENTATIONS = ("auto", "einsum", "xla", "cudnn")


class Attention(nn.Module):
    """Multi-head attention of x's tokens to themselves, or to ``context``.

    Keys have no bias: its gradient is zero, and Adam would blow its rounding noise up.

    Attributes:
      qk_norm: queries and keys have mean square 1 over a head's features, times a learned scale (Esser 2024).
      implementation: one of ``IMPLEMENTATIONS``; see ``attend``.
      out_init: of the last kernel. At 0 no gradient passes what a gate at 0 multiplies: there take ``fan_in``.
      head_width: features of a head; 0 shares the d of the tokens among the heads.
    """

    heads: int
    dtype: Any = jnp.float32
    qk_norm: bool = False
    implementation: str = "auto"
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
        out = attend(q, k, v, context_valid, self.implementation)
        return Dense(d, dtype=self.dtype, kernel_init=self.out_init, name="out")(out.reshape(b, l, inner))

    def _split(self, x: Array) -> Array:
        b, l, d = x.shape
        return x.reshape(b, l, self.heads, d // self.heads)

    def _normalised(self, x: Array, name: str) -> Array:
        scale = self.param(name, nn.initializers.ones_init(), (x.shape[-1],))
        return (rms_norm(x.astype(jnp.float32)) * scale[None, None, None, :]).astype(x.dtype)


@jax.custom_vjp
def written_out(q: Array, k: Array, v: Array, valid: Array | None) -> Array:
    """Queries [b l n e], keys and values [b m n e] with their bool[b m] -> [b l n e].

    One matrix product per image and head. What is divided by the softmax's sum is the answer, not the larger matrix of
    weights, forward and backward, and the backward pass takes each row's sum of p * dp from the answer (Dao 2022,
    appendix B.2) instead of from that matrix.
    """
    return _written_out_forward(q, k, v, valid)[0]


@jax.jit  # Python runs once a shape
def _written_out_forward(q: Array, k: Array, v: Array, valid: Array | None) -> tuple[Array, Any]:
    heads, width = q.shape[2:]
    q, k, v = (_heads_first(a) for a in (q / math.sqrt(width), k, v))
    mask = None if valid is None else jnp.repeat(valid, heads, axis=0)[:, None, :]
    logits = jnp.einsum("gle,gme->glm", q, k, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    total = weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = jnp.einsum("glm,gme->gle", weights, v, preferred_element_type=jnp.float32) / total
    return _heads_third(out.astype(v.dtype), heads), (q, k, v, mask, weights, total, out)


@jax.jit
def _written_out_backward(saved: Any, given: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, mask, weights, total, out = saved
    heads, width = given.shape[2:]
    slope = _heads_first(given).astype(jnp.float32) / total
    of_row = (slope * out).sum(-1, keepdims=True)
    slope = slope.astype(v.dtype)
    to_v = jnp.einsum("glm,gle->gme", weights, slope)
    to_weights = jnp.einsum("gle,gme->glm", slope, v, preferred_element_type=jnp.float32)
    to_logits = (weights * (to_weights - of_row)).astype(q.dtype)
    if mask is not None:
        to_logits = jnp.where(mask, to_logits, 0.0)  # where no token is valid all have a weight
    to_q = jnp.einsum("glm,gme->gle", to_logits, k) / math.sqrt(width)
    to_k = jnp.einsum("glm,gle->gme", to_logits, q)
    return *(_heads_third(a, heads) for a in (to_q, to_k, to_v)), None


written_out.defvjp(_written_out_forward, _written_out_backward)


def _heads_first(x: Array) -> Array:
    """[b l n e] -> [(b n) l e]."""
    b, l, n, e = x.shape
    return x.swapaxes(1, 2).reshape(b * n, l, e)


def _heads_third(x: Array, n: int) -> Array:
    """[(b n) l e] -> [b l n e]."""
    g, l, e = x.shape
    return x.reshape(g // n, n, l, e).swapaxes(1, 2)


def attend(q: Array, k: Array, v: Array, valid: Array | None, implementation: str = "auto") -> Array:
    """Queries [b l n e], keys and values [b m n e] with their bool[b m] -> [b l n e].

    Args:
      implementation: "einsum" (`written_out`); "xla" or "cudnn" of ``jax.nn.dot_product_attention``, of which cudnn
        needs an NVIDIA GPU, half precision and heads of at most 128 features, a multiple of 8, and takes masks of an
        even number of tokens alone; "auto" takes what is best here.
    """
    if implementation == "auto":
        implementation = best_implementation(q.dtype, q.shape[-1], valid is not None, platform())
    if implementation == "einsum":
        return written_out(q, k, v, valid)
    mask = None if valid is None else valid[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)


def best_implementation(dtype: Any, width: int, masked: bool, where: str) -> str:
    """cuDNN's flash attention where it can be (it has not been run on a GPU yet), else what is fastest ``where``."""
    half = dtype in (jnp.bfloat16, jnp.float16)
    if where == "cuda" and half and width <= 128 and width % 8 == 0 and not masked:
        return "cudnn"
    return "einsum" if where == "cpu" else "xla"


def platform() -> str:
    """ "cuda", or JAX's name of any other backend."""
    return "cuda" if "cuda" in jax.extend.backend.get_backend().platform_version else jax.default_backend()
