"""Many equal blocks, one after the other: as a loop or as one scanned block."""

from collections import OrderedDict
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.remat import remembering
from diffusion.nets.seen import Found, report, seen_inside
from diffusion.types import Array

MOST_UNROLLED = 12  # layers


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
    scanned = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        length=len(layers),
        unroll=_unrolled(layers, remat),
    )
    block = make(name=name)
    x, found = scanned(block, x, jnp.arange(layers.start, layers.stop, dtype=jnp.int32))
    report(_by_layer(found, "/".join(block.path), layers))
    return x


def _unrolled(layers: range, remat: str) -> int:
    """How many blocks stand in the body of the compiled loop.

    All of them on a CPU, where a step of the DiT of docs/performance.md took 0.9 of the time and compiled in 1.1; but
    what remat forgets XLA's CPU compiler forgets inside a loop alone, and of deep stacks the compilation takes long.
    """
    whole = jax.default_backend() == "cpu" and remat == "none" and len(layers) <= MOST_UNROLLED
    return len(layers) if whole else 1


def _by_layer(found: Found, path: str, layers: range) -> Found:
    """{path/mlp: bool[n]} as {path[0]/mlp: bool[]}, …, in the order in which layers ran."""
    return OrderedDict(
        (f"{path}[{i}]{name.removeprefix(path)}", finite[i - layers.start])
        for i in layers
        for name, finite in found.items()
    )
