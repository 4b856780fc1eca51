"""How the terms of a batch's rows are added: all at once, in parts, or in an order that no number of devices changes.

A term is ``(shared, rows) -> (sums, per_row)``: ``rows`` is a tree of arrays [b ...], ``sums`` a tree to be added over
rows, ``per_row`` a tree of arrays [b ...] in the order of the rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

Term = Callable[[Any, Any], tuple[Any, Any]]


def in_parts(term: Term, shared: Any, rows: Any, *, parts: int) -> tuple[Any, Any]:
    """Terms added over interleaved micro-batches, so that each device keeps its own rows."""
    if parts == 1:
        return term(shared, rows)

    def part(a: jax.Array) -> jax.Array:
        return a.reshape(a.shape[0] // parts, parts, *a.shape[1:]).swapaxes(0, 1)

    def back(a: jax.Array) -> jax.Array:
        return a.swapaxes(0, 1).reshape(-1, *a.shape[2:])

    def add(total: Any, rows: Any) -> tuple[Any, Any]:
        sums, per_row = term(shared, rows)
        return jax.tree.map(jnp.add, total, sums), per_row

    parted = jax.tree.map(part, rows)
    shapes, _ = jax.eval_shape(term, shared, jax.tree.map(lambda a: a[0], parted))
    total, per_row = jax.lax.scan(add, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), parted)
    return total, jax.tree.map(back, per_row)


def strict(term: Term, shared: Any, rows: Any, *, slices: int, mesh: Mesh) -> tuple[Any, Any]:
    """Terms of ``slices`` equal slices, added along one fixed binary tree.

    A device takes its slices one after the other through the same compiled loop, adds neighbours pairwise, and then
    the devices exchange and add along a butterfly; since x + y == y + x, all hold the same bits. The tree is that of
    the slices alone, so the sums are bit-identical on 2, 4, 8, … devices. With one slice a device there would be no
    loop, and other code; unrolling the loop changes the bits too. Slow on a CPU, where the same work took several
    times longer inside a loop than outside (benchmarks/strict.py). A device holds the sums of all its slices at once.

    Args:
      slices: a power of two that divides the rows, and at least twice the devices of the mesh, which it divides.
      mesh: all along "data".
    """
    devices = mesh.size
    own = slices // devices

    def on_device(shared: Any, rows: Any) -> tuple[Any, Any]:
        sliced = jax.tree.map(lambda a: a.reshape(own, a.shape[0] // own, *a.shape[1:]), rows)
        sums, per_row = jax.lax.map(lambda part: term(shared, part), sliced)
        total = jax.tree.map(lambda a: butterfly(pairwise(a), devices), sums)
        return total, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), per_row)

    whole, over = PartitionSpec(), PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(whole, over),
        out_specs=(whole, over),
        check_vma=False,  # it cannot see that a butterfly leaves the same sums everywhere
    )(shared, rows)


def pairwise(a: jax.Array) -> jax.Array:
    """The sum over the first axis, whose length is a power of two, neighbour with neighbour."""
    while a.shape[0] > 1:
        a = a[0::2] + a[1::2]
    return a[0]


def butterfly(a: jax.Array, devices: int) -> jax.Array:
    """The sum over the axis "data" of a power of two devices: neighbours first, then pairs of pairs."""
    for distance in (2**i for i in range(devices.bit_length() - 1)):
        a = a + jax.lax.ppermute(a, "data", [(i, i ^ distance) for i in range(devices)])
    return a
