"""Layers that keep the size of what goes through them: unit variance in, unit variance out (Karras 2024, EDM2).

None has a bias. A kernel is normalised wherever it is used, gradient included (eq. 47 there), so that its own size
never reaches the output: every gradient stands at a right angle to the kernel, which therefore grows, and the same
update turns it less and less. Karras 2024 also writes the normalised kernel back before every step (eq. 66, "forced");
this is not done here: a layer's effective learning rate is the rate over the size of its kernel and falls as that
grows. Take an optimiser without weight decay, which would shrink kernels and so raise that rate.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffusion.types import Array

GOLDEN = (math.sqrt(5) - 1) / 2


def normalise(x: Array, axes: Sequence[int], eps: float = 1e-4) -> Array:
    """x over its root mean square along ``axes``, in x's dtype; eq. 47's eps is added to that. Zeros stay zeros."""
    # the root's gradient is infinite at 0, and 0 times that NaN
    square = jnp.maximum(jnp.square(x.astype(jnp.float32)).mean(axes, keepdims=True), 1e-30)
    return (x / (eps + jnp.sqrt(square))).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """silu over its root mean square under N(0, 1) (Karras 2024, eq. 81)."""
    return nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """(1 - t) a + t b for independent a, b (Karras 2024, eq. 88)."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(a: Array, b: Array, t: float = 0.5) -> Array:
    """[... c], [... d] -> [... c + d]: b contributes t to what follows, whatever c and d (Karras 2024, eq. 103)."""
    c, d = a.shape[-1], b.shape[-1]
    scale = math.sqrt((c + d) / ((1 - t) ** 2 + t**2))
    return jnp.concatenate([a * (scale * (1 - t) / math.sqrt(c)), b * (scale * t / math.sqrt(d))], axis=-1)


def fourier(c_noise: Array, d: int) -> Array:
    """sqrt(2) cos(2 pi (f c_noise + p)), f as from N(0, 1), p from [0, 1) (Karras 2024, eq. 75). f32[b] -> f32[b d].

    f are the quantiles of N(0, 1) and p the multiples of the golden ratio, modulo 1: evenly spread where the paper
    draws, and the same in every run. Made for c_noise of order 1, as the ln(sigma) / 4 of the edm schedule is.
    """
    f = np.array([NormalDist().inv_cdf((i + 0.5) / d) for i in range(d)], np.float32)
    p = np.array([(i + 1) * GOLDEN % 1 for i in range(d)], np.float32)
    turns = c_noise.astype(jnp.float32)[:, None] * f[None, :] + p[None, :]
    return math.sqrt(2) * jnp.cos(2 * math.pi * turns)


class MPConv(nn.Module):
    """A convolution of stride 1 whose filters have unit size, times ``gain`` (Karras 2024, eq. 47). See the file.

    Attributes:
      features: channels of the answer.
      side: of the square kernel; 0 for a dense layer over the last axis.
    """

    features: int
    side: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        """x [b h w c] or [... c] -> [b h w features] or [... features], in ``dtype``."""
        window = (self.side, self.side) if self.side else ()
        kernel = self.param("kernel", nn.initializers.ones_init(), (*window, x.shape[-1], self.features))
        fan_in = kernel.size // self.features
        weight = normalise(kernel, range(kernel.ndim - 1)) * (gain / math.sqrt(fan_in))
        x, weight = x.astype(self.dtype), weight.astype(self.dtype)
        if not self.side:
            return x @ weight
        return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class MPAttention(nn.Module):
    """Cosine attention of x's tokens to themselves or to a context: every head's query, key and value have unit size.

    Logits are sqrt(width of a head) times the cosine (Karras 2024, fig. 21). Softmax runs in float32. The context is
    normalised token by token.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, context_valid: Array | None = None) -> Array:
        """x [b l d], context [b m e] with its bool[b m], -> [b l d].

        Tokens that are not valid change nothing, whatever they hold; where none is, the answer is 0.
        """
        b, l, d = x.shape
        source = x if context is None else context.astype(x.dtype)
        if context_valid is not None:
            source = jnp.where(context_valid[..., None], source, 0.0)
        if context is not None:
            source = normalise(source, (-1,))

        def head(name: str, tokens: Array) -> Array:
            parts = MPConv(d, 0, self.dtype, name=name)(tokens).reshape(b, -1, self.heads, d // self.heads)
            return normalise(parts, (-1,))

        q, k, v = head("query", x), head("key", source), head("value", source)
        logits = jnp.einsum("blnd,bmnd->bnlm", q, k).astype(jnp.float32) / math.sqrt(d // self.heads)
        if context_valid is not None:
            logits = jnp.where(context_valid[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
        out = jnp.einsum("bnlm,bmnd->blnd", jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)
        return MPConv(d, 0, self.dtype, name="out")(out.reshape(b, l, d))
