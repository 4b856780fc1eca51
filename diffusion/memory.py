"""The most memory that was held so far, as the system and the devices tell."""

import resource
import sys
from collections.abc import Sequence
from typing import Any

import jax

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which ru_maxrss counts


def host_peak() -> int:
    """Bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def device_peak(devices: Sequence[Any]) -> int | None:
    """Bytes of the fullest device; None where they do not tell (CPU). Waits for no computation."""
    told = [device.memory_stats() or {} for device in devices]
    return max((stats["peak_bytes_in_use"] for stats in told if "peak_bytes_in_use" in stats), default=None)


def peaks() -> dict[str, int]:
    """To be logged; the device's is absent where it is not told."""
    device = device_peak(jax.local_devices())
    return {"perf/host_memory_peak": host_peak()} | ({} if device is None else {"perf/device_memory_peak": device})
