"""Where randomness comes from: one stream per purpose, then step, slot or (class, index). Never a device or a host."""

import jax

from diffusion.types import Array

STREAMS = ("init", "train", "validate", "evaluate", "sample", "grid", "usefulness")


def stream(seed: int, purpose: str) -> Array:
    """The typed key of a purpose; streams of one seed never meet."""
    return of_purpose(jax.random.key(seed), purpose)


def of_purpose(key: Array, purpose: str) -> Array:
    """The key of a purpose from the run's key."""
    return jax.random.fold_in(key, STREAMS.index(purpose))


def per_slot(key: Array, slot: Array) -> Array:
    """Typed keys [b], one per slot i32[b]."""
    return jax.vmap(lambda s: jax.random.fold_in(key, s))(slot)


def per_image(key: Array, label: Array, index: Array) -> Array:
    """Typed keys [b] of the images (class, index), both i32[b]."""
    return jax.vmap(lambda c, i: jax.random.fold_in(jax.random.fold_in(key, c), i))(label, index)
