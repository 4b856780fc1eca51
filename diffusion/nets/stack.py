"""Many equal blocks, one after the other: as a loop or as one scanned block."""

from collections import OrderedDict
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.remat import remembering
from diffusion.nets.seen import Found, report, seen_inside
from diffusion.types import Array


def stacked(
    make: Callable[..., nn.Module],
    x: Array,
    call: Callable[[nn.Module, Array, Array], Array],
    *,
    layers: range,
    name: str,
    remat: str,
    scan: bool,
) -> Array:
    """x through the blocks ``layers``; to be called in a compact method.

    Args:
      make: name -> a block.
      call: (block, x, i32[] its number) -> x, of the same shape and dtype.
      name: of the weights: ``name`` with a leading axis of layers if scanned, or else ``name``0, ``name``1, …
      remat: a row of ``remat.REMATS``.
      scan: compile one block, whatever the depth. The function of the weights is the same.
    """
    body = remembering(seen_inside(call), remat, looped=scan)
    if not scan:
        for i in layers:
            x, found = body(make(name=f"{name}{i}"), x, jnp.int32(i))
            report(found)
        return x
    if not layers:
        return x
    scanned = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=len(layers))
    block = make(name=name)
    x, found = scanned(block, x, jnp.arange(layers.start, layers.stop, dtype=jnp.int32))
    report(_by_layer(found, "/".join(block.path), layers))
    return x


def _by_layer(found: Found, path: str, layers: range) -> Found:
    """{path/mlp: bool[n]} as {path[0]/mlp: bool[]}, …, in the order in which layers ran."""
    return OrderedDict(
        (f"{path}[{i}]{name.removeprefix(path)}", finite[i - layers.start])
        for i in layers
        for name, finite in found.items()
    )
