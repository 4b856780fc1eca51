"""Norms over features, without weights, in float32."""

import jax
import jax.numpy as jnp

from diffusion.types import Array


def layer_norm(x: Array, eps: float = 1e-6) -> Array:
    """x [... d] with mean 0 and variance 1 over d (Ba 2016), in x's dtype."""
    centred = x.astype(jnp.float32)
    centred = centred - centred.mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)).astype(x.dtype)


def rms_norm(x: Array, eps: float = 1e-6) -> Array:
    """x [... d] with mean square 1 over d (Zhang & Sennrich 2019), in x's dtype."""
    x32 = x.astype(jnp.float32)
    return (x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + eps)).astype(x.dtype)


NORMS = {"layer": layer_norm, "rms": rms_norm}
