"""Layers that backbones share. Compute runs in ``dtype``; parameters, norms and softmax in float32.

Kernels and embeddings declare the standard deviation of their initial values; ``model.make_net`` fills them from one
normal draw. Initialisers that draw for themselves cost XLA 8.6 s of compilation for a small U-Net, one draw 0.4 s.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion.types import Array

zeros = nn.initializers.zeros_init()


def fan_in(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The deviation 1 / sqrt(fan in) of a kernel [... in out] (LeCun 1998)."""
    return jnp.full(shape, 1.0 / math.sqrt(math.prod(shape[:-1])), dtype)


Dense = partial(nn.Dense, kernel_init=fan_in)
Conv = partial(nn.Conv, kernel_init=fan_in)


def noise_embedding(c_noise: Array, d: int, max_period: float = 10_000.0) -> Array:
    """ADM's [cos, sin] with exponents i / half (Dhariwal & Nichol 2021). f32[b] -> f32[b d]; d is even."""
    half = d // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half) / half)
    angles = c_noise.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def ddpmpp_embedding(c_noise: Array, d: int, max_period: float = 10_000.0) -> Array:
    """DDPM++'s [sin, cos] with exponents i / (half - 1) (Ho 2020, Song 2021). f32[b] -> f32[b d]; d is even, 4 or more.

    The positional embedding of Karras 2022 is this one, too.
    """
    half = d // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half) / (half - 1))
    angles = c_noise.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


EMBEDDINGS = {"adm": noise_embedding, "ddpmpp": ddpmpp_embedding}


def dropout(x: Array, keys: Array | None, rate: float, layer: int) -> Array:
    """Dropout keyed per example: row i is the same whatever else is in the batch.

    Args:
      x: [b ...].
      keys: one typed key per example, [b]; None switches dropout off.
      rate: share of values set to 0, in [0, 1).
      layer: tells apart the layers that share ``keys``.
    """
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, layer), 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalisation as one affine per channel, x * a + b, optionally adaptive.

    The two moments are taken over h and w and combined over groups on the small [b c], which XLA
    reduces faster on a CPU than a view by groups.
    """

    groups: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """x [b h w c], scale and shift [b c] or None -> [b h w c], in x's dtype."""
        b, _, _, c = x.shape
        weight = self.param("scale", nn.initializers.ones_init(), (c,))
        bias = self.param("bias", zeros, (c,))
        # moments around a value near the mean: E[x^2] - E[x]^2 cancels where |mean| >> sd
        x32 = x.astype(jnp.float32)
        centre = jax.lax.stop_gradient(self._over_groups(x32[:, 0, 0, :], c))
        centred = x32 - centre[:, None, None, :]
        mean = self._over_groups(centred.mean((1, 2)), c)
        second = self._over_groups(jnp.square(centred).mean((1, 2)), c)
        rstd = jax.lax.rsqrt(jnp.maximum(second - jnp.square(mean), 0.0) + self.eps)
        a, offset = rstd * weight[None, :], bias[None, :]
        if scale is not None:
            a, offset = a * (1.0 + scale), offset * (1.0 + scale)
        if shift is not None:
            offset = offset + shift
        out = centred * a[:, None, None, :] + (offset - mean * a)[:, None, None, :]
        return out.astype(x.dtype)

    def _over_groups(self, x: Array, c: int) -> Array:
        grouped = x.reshape(x.shape[0], self.groups, c // self.groups).mean(-1)
        return jnp.repeat(grouped, c // self.groups, axis=-1)
