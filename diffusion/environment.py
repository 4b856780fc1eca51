"""The machine and the versions a result was made with."""

import os
import platform
import sys
from importlib import metadata

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def environment() -> dict[str, str | int | dict[str, str]]:
    """Versions, devices, processes and CPU affinity, as plain JSON.

    The affinity stands there because on a single device the CPU's thread count changes bits.
    """
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cpus": affinity,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
