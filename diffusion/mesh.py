"""Devices as a named mesh, and how arrays lie on it."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffusion.errors import ConfigError

AXES = ("data", "fsdp")
SMALL = 1024  # numbers; to share fewer saves less than it costs


def make_mesh(data: int, fsdp: int = 1) -> Mesh:
    """A mesh of the first ``data * fsdp`` devices; ``data`` 0 takes them all.

    The batch lies over both axes. Along "data" the state is repeated, along "fsdp" it is shared out (`fsdp_spec`).

    Raises:
      ConfigError: more devices asked for than there are, or not all of several processes'; an ``fsdp`` that does not
        divide them.
    """
    there = jax.devices()
    if fsdp < 1:
        raise ConfigError("mesh.fsdp", f"is {fsdp}; 1 leaves the state whole on every device")
    if data == 0 and len(there) % fsdp:
        raise ConfigError("mesh.fsdp", f"{fsdp} does not divide the {len(there)} devices that mesh.data=0 takes")
    count = data * fsdp or len(there)
    if not 0 < count <= len(there):
        times = f" times mesh.fsdp={fsdp}" if fsdp > 1 else ""
        raise ConfigError("mesh.data", f"{data}{times} devices asked for; there are {len(there)} (0 takes them all)")
    types = (AxisType.Auto,) * len(AXES)
    if jax.process_count() > 1:
        if count < len(there):
            processes = jax.process_count()
            raise ConfigError("mesh.data", f"{count} devices; {processes} processes take all {len(there)} (0 does)")
        return Mesh(np.array(by_process(there)).reshape(-1, fsdp), AXES, axis_types=types)
    return jax.make_mesh((count // fsdp, fsdp), AXES, axis_types=types, devices=there[:count])


def by_process(devices: Sequence[Any]) -> list[Any]:
    """Process 0's devices, then process 1's: a process's rows are then one block of the batch, its own.

    `jax.make_mesh` puts a TPU's devices in the order of its wires instead.
    """
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def over_rows(mesh: Mesh) -> NamedSharding:
    """The first axis, the batch, over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def fsdp_spec(shape: Sequence[int], fsdp: int) -> PartitionSpec:
    """The largest axis that ``fsdp`` divides is shared out, the last one on a tie; small arrays stay whole."""
    fitting = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < SMALL or not fitting:
        return PartitionSpec()
    largest = max(fitting, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*[None] * largest, "fsdp")


def sharded(mesh: Mesh, tree: Any) -> Any:
    """Where each leaf of a state lies: by its shape alone, so an average or a moment lies as its weight does."""
    fsdp = mesh.shape["fsdp"]
    return jax.tree.map(lambda leaf: NamedSharding(mesh, fsdp_spec(leaf.shape, fsdp)), tree)


def on_mesh(mesh: Mesh, tree: Any) -> Any:
    """Shapes and types of the tree's leaves, and where each of them lies (`sharded`)."""
    lying = sharded(mesh, tree)
    return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), tree, lying)


def gathered(mesh: Mesh, params: Any) -> Any:
    """Inside a jitted step: shared weights, whole on every device for as long as they are used."""
    return params if mesh.shape["fsdp"] == 1 else jax.lax.with_sharding_constraint(params, replicated(mesh))


def scattered(mesh: Mesh, grads: Any) -> Any:
    """Inside a jitted step: gradients of gathered weights, added over devices, each part where its weight lies."""
    return grads if mesh.shape["fsdp"] == 1 else jax.lax.with_sharding_constraint(grads, sharded(mesh, grads))


def as_given(mesh: Mesh) -> NamedSharding | None:
    """How a step takes weights that it only reads: whole, or with ``mesh.fsdp`` as they lie."""
    return replicated(mesh) if mesh.shape["fsdp"] == 1 else None


def made(mesh: Mesh, make: Callable, *given: Any) -> Any:
    """``make(*given)``, compiled; each device keeps its part of a leaf that it drew whole.

    Drawn in parts, a number may have other bits on another mesh: one of 1,408 did with JAX 0.7.2 on a CPU.
    """

    def whole(*given: Any) -> Any:
        return gathered(mesh, make(*given))

    return jax.jit(whole, out_shardings=sharded(mesh, jax.eval_shape(make, *given)))(*given)


def padded_rows(batch_size: int, multiple: int) -> int:
    """The smallest multiple that holds the batch: the compiled shape."""
    return -(-batch_size // multiple) * multiple


def put_rows(mesh: Mesh, tree: Any) -> Any:
    """This process's rows of a global batch, onto the mesh."""
    sharding = over_rows(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), tree)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """The same values on every device."""
    return jax.device_put(tree, replicated(mesh))


def two_cpu_devices() -> None:
    """Give a CPU run two devices, unless somebody chose: XLA runs a convolution of one device on one thread.

    203 to 135 ms for a step of the digits recipe on two cores. Must run before JAX is first used; CPU only.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    chosen = "xla_force_host_platform_device_count" in flags or "JAX_NUM_CPU_DEVICES" in os.environ
    if not chosen and (os.cpu_count() or 1) > 1 and sys.platform != "darwin":
        jax.config.update("jax_num_cpu_devices", 2)
