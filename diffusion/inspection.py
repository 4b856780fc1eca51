"""Where a bad step went wrong: the first layer whose output is not finite, or else the first gradient."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion.batch_losses import Diffusion, batch_losses
from diffusion.leaves import by_path
from diffusion.mesh import over_rows, replicated
from diffusion.nets.seen import all_finite, with_layers
from diffusion.state import TrainState
from diffusion.steps import Given, Optimiser, Rows, gradient_of, layout, reduction_of, terms
from diffusion.types import Array, Batch, Cond, Frozen, Params

Found = Mapping[str, Any]


def make_inspection_step(
    diffusion: Diffusion, optimiser: Optimiser, mesh: Mesh, state: TrainState | None = None
) -> Callable[[TrainState, Frozen, Batch], Found]:
    """(state, frozen, batch) -> what is finite in the train step at ``state.step``; same draws, nothing changed.

    After that step was skipped the state differs in its counters alone: hand it over with the old ``step``.

    Args:
      state: as in `make_train_step`.

    Returns:
      input: bool[], what the net is given.
      layers: bool[] by path, in the order in which the layers finished.
      loss: bool[].
      gradients: bool[] by path, those of the layers that finished last first: the way of the backward pass.
    """

    def mean_loss(params: Params, given: Given, rows: Rows) -> tuple[Array, tuple[Found, None]]:
        (frozen, key, n_valid, density), (part, slot) = given, rows
        found: dict[str, Any] = {}

        def encode(params: Params, cond: Cond, c_noise: Array) -> Any:
            found["input"] = all_finite((cond, c_noise))
            answer, found["layers"] = with_layers(diffusion.net.encode, params, cond, c_noise)
            return answer

        def apply(params: Params, x: Array, *inputs: Any) -> Array:
            found["input"] &= all_finite(x)
            answer, layers = with_layers(diffusion.net.apply, params, x, *inputs)
            found["layers"] |= layers
            return answer

        seen = replace(diffusion, net=replace(diffusion.net, encode=encode, apply=apply))
        losses, _ = batch_losses(seen, params, frozen, part, key, slot, n_valid, drop=True, density=density)
        losses = losses.loss
        total = jnp.sum(jnp.where(part.valid, losses, 0.0))
        found["loss"] = jnp.isfinite(total)
        bad = jax.tree.map(lambda finite: 1 - finite.astype(jnp.int32), found)  # parts of a batch add up
        return total / n_valid, (bad, None)

    reduced, gradient = reduction_of(optimiser, mesh), gradient_of(mean_loss, mesh)

    def inspection_step(state: TrainState, frozen: Frozen, batch: Batch) -> Found:
        (grads, bad), _ = reduced(gradient, *terms(state, frozen, batch))
        found = jax.tree.map(lambda count: count == 0, bad)
        order = {path: place for place, path in enumerate(found["layers"])}
        of_layers = _by_layer(by_path(grads), order)
        backward = sorted(of_layers.items(), key=lambda item: -order.get(item[0].rpartition("/")[0], -1))
        return found | {"gradients": OrderedDict((path, all_finite(grad)) for path, grad in backward)}

    rows, whole = over_rows(mesh), replicated(mesh)
    return jax.jit(inspection_step, in_shardings=(layout(mesh, state), whole, rows), out_shardings=whole)


def _by_layer(grads: Mapping[str, Array], layers: Iterable[str]) -> dict[str, Array]:
    """Gradients of stacked weights apart: ``blocks/mlp/kernel`` [n ...] as ``blocks[0]/mlp/kernel`` [...], …"""
    stacks: dict[str, list[str]] = {}
    for layer in layers:
        if "[" in layer:
            stacks.setdefault(re.sub(r"\[\d+\]", "", layer), []).append(layer)
    apart = {}
    for path, grad in grads.items():
        layer, _, weight = path.rpartition("/")
        stack = stacks.get(layer)
        apart |= {f"{name}/{weight}": grad[i] for i, name in enumerate(stack)} if stack else {path: grad}
    return apart


def first_nonfinite(found: Found) -> str:
    """One sentence about what ``make_inspection_step`` found, read on the host."""
    found = jax.device_get(found)
    layer = next((path for path, finite in found["layers"].items() if not finite), None)
    gradient = next((path for path, finite in found["gradients"].items() if not finite), None)
    if not found["input"]:
        return "the net's input is not finite: look at the images of this batch"
    if layer is not None:
        return f"the output of {layer or 'the net'} is the first that is not finite"
    if not found["loss"]:
        return "every layer is finite; the loss is not"
    if gradient is not None:
        return f"every layer is finite; the gradient of {gradient} is not"
    return "everything is finite: the loss was skipped for its size alone, or the fault does not repeat"
