"""Sums and means over the valid members of a set, and what of an encoder's tokens is handed on."""

import jax.numpy as jnp

from diffusion.types import Array


def of_valid(x: Array, valid: Array) -> Array:
    """x [b n ...] with 0 where valid bool[b n] is False, whatever stands there, in float32."""
    mask = valid.reshape(*valid.shape, *[1] * (x.ndim - 2))
    return jnp.where(mask, x, 0.0).astype(jnp.float32)


def set_mean(x: Array, valid: Array) -> Array:
    """The mean of x [b n ...] over the valid members of each row, [b ...]; 0 where there is none."""
    members = jnp.maximum(valid.sum(1), 1)
    total = of_valid(x, valid).sum(1)
    return total / members.reshape(-1, *[1] * (total.ndim - 1))


def pooled(pool: str, first: Array | None, patches: Array, valid: Array) -> tuple[Array, Array]:
    """Tokens of all members to the tokens of the set.

    Args:
      pool: a row of ``POOLS``.
      first: the class token [b d], None where an encoder has none.
      patches: [b n p d], p tokens of each of n members.
      valid: bool[b n], which members there are.

    Returns:
      ([b l d], bool[b l]); no token of an empty set is valid.
    """
    tokens = POOLS[pool](first, patches, valid)
    if pool == "all":
        return tokens, jnp.repeat(valid, patches.shape[2], axis=1)
    return tokens, jnp.broadcast_to(valid.any(1)[:, None], tokens.shape[:2])


def _all(first: Array | None, patches: Array, valid: Array) -> Array:
    b, n, p, d = patches.shape
    return of_valid(patches, valid).reshape(b, n * p, d)


POOLS = {
    "cls": lambda first, patches, valid: first[:, None],
    "mean": lambda first, patches, valid: set_mean(patches, valid).mean(1, keepdims=True),
    "sum": lambda first, patches, valid: of_valid(patches, valid).sum((1, 2))[:, None],
    "mean_patch": lambda first, patches, valid: set_mean(patches, valid),  # the same patch of every member
    "sum_patch": lambda first, patches, valid: of_valid(patches, valid).sum(1),
    "all": _all,
}
