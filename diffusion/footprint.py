"""Bytes that training holds on one device: the state and, estimated, what a train step makes beside it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from diffusion import reduction
from diffusion.liveness import peak_bytes
from diffusion.mesh import sharded
from diffusion.nets.conditions import SET
from diffusion.program import CLASS_CONDITION, Program
from diffusion.steps import mean_loss_of
from diffusion.types import Batch, ImageSet, Params


def per_device(program: Program, params: Params) -> dict[str, int]:
    """Bytes that training holds on one device.

    Args:
      params: shapes.

    Returns:
      parameters, ema, optimiser, gradients: its share of each.
      copies: of weights and moments, which several loops of XLA's CPU compiler read and one overwrites; gradients and
        other arrays then lie where those were, so that, as measured, half the optimiser's share is left.
      gathered_at_most: of the weights that ``mesh.fsdp`` gathers, if all are there at once.
      activations_estimate: of all else within a train step, at its fullest moment.
      total_estimate: the sum.
    """
    average = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), params)
    platform = program.mesh.devices.flat[0].platform
    within = of_gradient(program, params, platform)
    weights, optimiser = _held(program, params), _held(program, jax.eval_shape(program.optimiser.tx.init, params))
    found = {
        "parameters": weights,
        "ema": len(program.optimiser.averages.decays) * _held(program, average),
        "optimiser": optimiser,
        "gradients": weights,
        "copies": optimiser // 2 if platform == "cpu" else 0,
        "gathered_at_most": _bytes(params) if program.mesh.shape["fsdp"] > 1 else 0,
        "activations_estimate": max(within - _bytes(params), 0),
    }
    return found | {"total_estimate": sum(found.values())}


def of_compiled(compiled: Any) -> int:
    """Bytes that a compiled step needs on one device, by the compiler's own account; what is donated counts once."""
    m = compiled.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


def of_gradient(program: Program, params: Params, platform: str) -> int:
    """Of all arrays between a device's rows and their gradient, that included, at the fullest moment.

    Args:
      params: shapes, or arrays.
      platform: of the device.
    """
    gradient = jax.grad(mean_loss_of(program.diffusion), has_aux=True)
    rows = program.rows // program.mesh.size

    def summed(shared: Any, rows: Any) -> Any:
        grads, (sums, per_row) = gradient(*shared, rows)
        return (grads, sums), per_row

    key, density = jax.eval_shape(lambda: (jax.random.key(0), program.diffusion.density.init()))
    count = jax.ShapeDtypeStruct((), jnp.int32)
    whole = (
        (params, (program.diffusion.codec.frozen, key, count, density)),
        (abstract_batch(program, rows), jax.ShapeDtypeStruct((rows,), jnp.int32)),
    )
    return peak_bytes(functools.partial(_reduced, program, summed), *whole, platform=platform)


def _reduced(program: Program, term: Any, shared: Any, rows: Any) -> Any:
    """As one device adds its parts."""
    o, parts = program.optimiser, program.parts // program.mesh.size
    if not o.strict:
        return reduction.in_parts(term, shared, rows, parts=parts)
    sliced = jax.tree.map(lambda a: a.reshape(parts, a.shape[0] // parts, *a.shape[1:]), rows)
    sums, per_row = jax.lax.map(lambda part: term(shared, part), sliced)
    return jax.tree.map(reduction.pairwise, sums), per_row


def abstract_batch(program: Program, rows: int) -> Batch:
    """A batch of so many rows, as shapes."""
    array, shape, codec = jax.ShapeDtypeStruct, program.transform.shape, program.diffusion.codec
    of_images = jnp.float32 if codec.latent else jnp.uint8
    x = array((rows, *shape), of_images)
    if program.loading.encodings is not None:
        x = jax.eval_shape(codec.encoded, codec.frozen, x)
    cond = {CLASS_CONDITION: array((rows,), jnp.int32)}
    if program.loading.sets:
        places = program.loading.sets.places
        cond[SET] = ImageSet(array((rows, places, *shape), of_images), array((rows, places), bool))
    return Batch(x, cond, array((rows,), jnp.int32), array((rows,), bool))


def _held(program: Program, tree: Any) -> int:
    """Bytes of it on one device."""

    def share(leaf: Any, lying: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(lying.shard_shape(leaf.shape), leaf.dtype)

    return _bytes(jax.tree.map(share, tree, sharded(program.mesh, tree)))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
