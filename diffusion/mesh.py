"""Devices as a named mesh, and how arrays lie on it."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from diffusion.errors import ConfigError


def make_mesh(devices: int) -> Mesh:
    """A mesh with one axis, "data", over the first ``devices`` devices; 0 takes them all.

    Raises:
      ConfigError: more devices asked for than there are, or not all of several processes'.
    """
    there = jax.devices()
    if not 0 <= devices <= len(there):
        raise ConfigError("mesh.data", f"{devices} devices asked for; there are {len(there)} (0 takes them all)")
    count = devices or len(there)
    if jax.process_count() > 1:
        if count < len(there):
            processes = jax.process_count()
            raise ConfigError("mesh.data", f"{count} devices; {processes} processes take all {len(there)} (0 does)")
        return Mesh(np.array(by_process(there)), ("data",), axis_types=(AxisType.Auto,))
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=there[:count])


def by_process(devices: Sequence[Any]) -> list[Any]:
    """Process 0's devices, then process 1's: a process's rows are then one block of the batch, its own.

    `jax.make_mesh` puts a TPU's devices in the order of its wires instead.
    """
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def over_rows(mesh: Mesh) -> NamedSharding:
    """The first axis, the batch, over the mesh."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


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
