"""Exponential moving averages of the weights, always float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Decay = Callable[[Array], Array]


def init(params: Any) -> Any:
    """float32 copies of the params, in buffers of their own so that both can be donated."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)


def update(ema: Any, params: Any, decay: Array) -> Any:
    """decay * ema + (1 - decay) * params, written so that decay = 1 changes no bit."""
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p.astype(jnp.float32) - e), ema, params)


def decay_at(decay: Array, updates: Array, every: int) -> Array:
    """The decay of one update when the average moves on every k-th update only.

    Args:
      decay: f32[], the decay per update.
      updates: i32[], successful updates, this one included.
      every: k >= 1.

    Returns:
      f32[]: decay**k where k divides ``updates``, else 1.
    """
    if every < 1:
        raise ValueError(f"every: {every} is not at least 1")
    return jnp.where(updates % every == 0, decay**every, 1.0)


def constant(*, decay: float = 0.9999, warmup: bool = True) -> Decay:
    """n -> min(decay, (1 + n) / (10 + n)) with warm-up, else n -> decay; n updates came before this one.

    The warm-up is the one of TensorFlow's ExponentialMovingAverage (``num_updates``).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay: {decay} is not in [0, 1)")

    def at(n: Array) -> Array:
        n = jnp.asarray(n, jnp.float32)
        return jnp.minimum(decay, (1.0 + n) / (10.0 + n)) if warmup else jnp.full((), decay, jnp.float32)

    return at


EMAS = {"constant": constant}
