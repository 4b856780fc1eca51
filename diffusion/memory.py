"""The most memory that was held so far, and how much there is, as the system and the devices tell."""

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

MEMINFO = Path("/proc/meminfo")  # of Linux
CGROUP = Path("/sys/fs/cgroup")  # of a container
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which ru_maxrss counts


def host_peak() -> int:
    """Bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def device_peak(devices: Sequence[Any]) -> int | None:
    """Bytes of the fullest device; None where they do not tell (CPU). Waits for no computation."""
    told = [device.memory_stats() or {} for device in devices]
    return max((stats["peak_bytes_in_use"] for stats in told if "peak_bytes_in_use" in stats), default=None)


def room(devices: Sequence[Any]) -> int:
    """Bytes that the smallest of these devices holds; of CPUs its share of what the host has left."""
    told = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in stats for stats in told):
        return min(stats["bytes_limit"] for stats in told)
    return host_room() // len(devices)


def host_room() -> int:
    """Bytes that this process can have more of, within its control group's limit where it has one."""
    if not MEMINFO.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    said = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    free = [int(said["MemAvailable"].split()[0]) * 1024]
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        free.append(int(most) - int(used.read_text()))
    return max(min(free), 0)


def peaks() -> dict[str, int]:
    """To be logged; the device's is absent where it is not told."""
    device = device_peak(jax.local_devices())
    return {"perf/host_memory_peak": host_peak()} | ({} if device is None else {"perf/device_memory_peak": device})
