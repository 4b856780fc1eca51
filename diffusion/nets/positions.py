"""Where a token stands in its image: fixed features that are added, or rotations of queries and keys."""

import math

import jax.numpy as jnp

from diffusion.types import Array

PERIOD = 10_000.0


def sincos(h: int, w: int, d: int) -> Array:
    """Features of h * w tokens in rows, f32[h*w d]; d is divisible by 4.

    The first half of d is of the column and the second of the row, each sines and then cosines (MAE, He 2021; DiT).
    """
    columns, rows = _angles(h, w, d // 4)
    return jnp.concatenate([f(angles) for angles in (columns, rows) for f in (jnp.sin, jnp.cos)], axis=-1)


def rotary(h: int, w: int, e: int, before: int = 0) -> tuple[Array, Array]:
    """(cosines, sines) of the angles by which pairs of the e features of a head turn, f32[before + h*w e/2] each.

    The first quarter of e pairs turns with the row, the second with the column (axial RoPE: Su 2021, Heo 2024);
    e is divisible by 4. Tokens ``before`` the image have no place and do not turn.
    """
    columns, rows = _angles(h, w, e // 4)
    angles = jnp.concatenate([rows, columns], axis=-1)
    angles = jnp.concatenate([jnp.zeros((before, e // 2)), angles])
    return jnp.cos(angles), jnp.sin(angles)


def turned(x: Array, rotations: tuple[Array, Array]) -> Array:
    """x [b l n e] with feature i and i + e/2 of each head turned as one plane, in x's dtype."""
    cos, sin = (a[None, :, None, :] for a in rotations)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def _angles(h: int, w: int, n: int) -> tuple[Array, Array]:
    """Angles of the columns and of the rows, f32[h*w n] each, at frequencies PERIOD ** (-i / n)."""
    frequencies = jnp.exp(-math.log(PERIOD) * jnp.arange(n) / n)
    rows, columns = jnp.divmod(jnp.arange(h * w), w)
    return columns[:, None] * frequencies[None, :], rows[:, None] * frequencies[None, :]
