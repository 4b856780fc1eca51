"""A tree of arrays seen as ``{path: leaf}``, and an exact integer fingerprint of each leaf."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def by_path(tree: Any) -> dict[str, Any]:
    """``{"params/conv/kernel": leaf}`` in the tree's own order."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


def rebuild(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """The tree with each leaf replaced by the one at its path."""
    return jax.tree.unflatten(jax.tree.structure(tree), [leaves[path] for path in by_path(tree)])


def host(leaf: Any) -> np.ndarray:
    """The whole leaf on this host; a collective when other processes hold parts of it."""
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    if leaf.is_fully_addressable:
        return np.asarray(leaf)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def fingerprints(tree: Any) -> dict[str, int]:
    """One exact 32-bit fingerprint per leaf: any single changed word changes it, on any topology alike.

    Each word of 32 bits (narrower types are widened) is mixed with its position and the results are added
    modulo 2**32, so the order of the additions, and hence the sharding, does not matter. Computed in jit on
    the devices; on CPU hosts NumPy computes the same integers without a compilation per shape.
    """
    leaves = by_path(tree)
    sums = {path: _host_sum(leaf) if _on_this_host(leaf) else _device_sum(leaf) for path, leaf in leaves.items()}
    return {path: int(host(value)) for path, value in sums.items()}


def _on_this_host(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    cpu = all(device.platform == "cpu" for device in leaf.sharding.device_set)
    return cpu and (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _host_sum(leaf: Any) -> np.ndarray:
    value = host(leaf)
    size = value.dtype.itemsize
    words = np.ascontiguousarray(value).reshape(-1).view(f"u{min(size, 4)}").astype(np.uint32)
    return _sum(np, words.reshape(value.shape if size <= 4 else (*value.shape, size // 4)))


@jax.jit
def _device_sum(leaf: Array) -> Array:
    if leaf.dtype == jnp.bool_:
        return _sum(jnp, leaf.astype(jnp.uint32))
    narrow = jnp.dtype(f"u{min(leaf.dtype.itemsize, 4)}")
    return _sum(jnp, jax.lax.bitcast_convert_type(leaf, narrow).astype(jnp.uint32))


def _sum(xp: Any, words: Any) -> Any:
    """u32 words of any shape -> u32[]; ``xp`` is numpy or jax.numpy."""
    words = xp.atleast_1d(words)
    position = xp.zeros(words.shape, xp.uint32)
    for axis, size in enumerate(words.shape):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        index = xp.arange(size, dtype=xp.uint32) * np.uint32(stride)
        position = position + index.reshape([size if a == axis else 1 for a in range(words.ndim)])
    return xp.sum(_mix(words + position * np.uint32(0x9E3779B9)), dtype=xp.uint32)


def _mix(h: Any) -> Any:
    """A bijection of u32 in which every bit moves about half of the others (MurmurHash3's fmix32)."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))
