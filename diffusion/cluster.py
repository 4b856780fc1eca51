"""Several processes that run one program: how they find each other, wait for each other, and leave.

`join` comes before any device is used, `leave` last. A process that failed alone leaves at once: no collective can
succeed without it, so the others are better told by its end than kept waiting.
"""

import itertools
import json
import logging
import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusion import disk
from diffusion.errors import ConfigError, PeerError, UserError
from diffusion.launchers import LAUNCHERS
from diffusion.settings import Cluster

BARRIER_SECONDS = 600  # within which all processes must have come to the same point
LEAVING_SECONDS = 60  # for the others to leave with the same error
# words of the runtime's errors when another process is gone
PEER = ("gloo", "nccl", "connection", "heartbeat", "barrier", "coordination", "unavailable", "deadline_exceeded")

_met: Counter[str] = Counter()  # barriers passed, by name: a barrier's key may be used once


def join(settings: Cluster, env: Mapping[str, str] = os.environ) -> None:
    """Connect to the other processes of this run, if there are any. A single process does nothing.

    Standard output is process 0's from here on: every process computes the same and would say it again.

    Raises:
      ConfigError: the environment names several processes, but not how they meet.
      PeerError: the others cannot be met. Where they do not come within ``cluster.timeout`` the process ends here
        with one line and status 1: the runtime does not come back to raise anything.
    """
    if settings.coordinator:
        given = dict(
            coordinator_address=settings.coordinator,
            num_processes=settings.processes,
            process_id=settings.process,
            cluster_detection_method="deactivate",
        )
        if settings.processes == 1:
            return
    else:
        launcher, processes = detected(env) if settings.detect else ("", 1)
        if processes == 1:
            return
        given = {"num_processes": processes} if processes else {}
    if "jax_enable_preemption_service" in jax.config.values:  # signals are handled by the program; see signals.py
        jax.config.update("jax_enable_preemption_service", False)
    # JAX aborts the process where this time is over; the one clear line must come before
    limits = dict(initialization_timeout=2 * settings.timeout + 60, heartbeat_timeout_seconds=settings.heartbeat)
    over = threading.Timer(settings.timeout, _give_up, [_not_met(settings, given)])
    over.daemon = True
    over.start()
    try:
        jax.distributed.initialize(**given, **limits)
        barrier("all are here", settings.timeout)
        of_first(None)  # on CPUs the first collective waits 30 s for the others, compiling included; so have it now
    except ValueError as error:  # of the detection
        raise ConfigError("cluster", f"{launcher} started several processes, but {error} {_by_hand()}") from error
    except (RuntimeError, PeerError) as error:
        raise PeerError(f"{_not_met(settings, given)} ({_first_line(error)})") from error
    finally:
        over.cancel()
    if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the program ends)
        logging.getLogger("diffusion").setLevel(logging.WARNING)


def detected(env: Mapping[str, str]) -> tuple[str, int]:
    """(launcher, processes) as the environment says; 0 processes where only the launcher itself knows."""
    for name, processes in LAUNCHERS.items():
        found = processes(env)
        if found is not None:
            return name, found
    return "", 1


def barrier(name: str, timeout: float = BARRIER_SECONDS) -> None:
    """Return when every process has come here; at once on a single one.

    Args:
      name: what is waited for, in words; may be used again.
      timeout: seconds.

    Raises:
      PeerError: another process did not come in time, or is gone.
    """
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost

    _met[name] += 1
    try:
        multihost.get_barrier_sync_fn()(key=f"diffusion: {name} #{_met[name]}", timeout_ms=round(timeout * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise PeerError(f"{gone(error)}; waited up to {timeout:g} s at the barrier {name!r}") from error


def of_first(value: Any) -> Any:
    """Process 0's ``value``, plain JSON, on every process: what is decided by it is then decided alike.

    A collective. Floats come back to the bit.
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    return json.loads(multihost_utils.broadcast_one_to_all(np.resize(text, size)).tobytes())


def alike(error: BaseException) -> bool:
    """Whether all processes meet this error at the same point, so that they can still save and leave together."""
    return jax.process_count() == 1 or (isinstance(error, UserError) and error.status != 1)


def report(error: Exception) -> int:
    """Say an error on stderr, as one line where a person can act on it; its exit status."""
    if not isinstance(error, UserError) and _of_peer(error):
        error = PeerError(gone(error))
    error = disk.refused(error) or error
    if isinstance(error, UserError):
        print(f"main_jax.py: {error}", file=sys.stderr, flush=True)
        return error.status
    traceback.print_exception(error)
    return 1


def leave(status: int) -> int:
    """The status to exit with; on several processes this is the end.

    All leave together where they end alike. Status 1 is what a process may meet alone (bad data, a dead peer, an
    unexpected error): it is gone at once, without waiting for anybody, and the others end for the want of it.
    """
    if not jax.distributed.is_initialized():
        return status
    try:
        if status != 1:
            barrier("leaving", BARRIER_SECONDS if status == 0 else LEAVING_SECONDS)
            jax.distributed.shutdown()
            return status
    except (PeerError, jax.errors.JaxRuntimeError) as error:
        print(f"main_jax.py: left alone, status {status} stands: {_first_line(error)}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # JAX's own farewell at exit would wait for the dead


def gone(error: BaseException) -> str:
    return (
        f"another process of this run is gone ({_first_line(error)}); the last checkpoint is good: "
        "run the same command again"
    )


def _of_peer(error: BaseException) -> bool:
    if not isinstance(error, jax.errors.JaxRuntimeError) or jax.process_count() == 1:
        return False
    return any(word in str(error).lower() for word in PEER) and "resource_exhausted" not in str(error).lower()


def _first_line(error: BaseException) -> str:
    return next(itertools.chain(str(error).splitlines(), [type(error).__name__]))[:200]


def _not_met(settings: Cluster, given: Mapping[str, Any]) -> str:
    known = "process {process_id} of {num_processes} (coordinator {coordinator_address})"
    who = known.format(**given) if "process_id" in given else "this process"
    return (
        f"{who} waited for the others up to {settings.timeout} s (cluster.timeout) and did not meet them; check that "
        "all of them run, that each has a number of its own and all the same coordinator and count, and that the "
        "coordinator's port is free on process 0's machine and reachable from the others"
    )


def _give_up(said: str) -> None:
    print(f"main_jax.py: {said}", file=sys.stderr, flush=True)
    os._exit(1)


def _by_hand() -> str:
    return (
        "Give cluster.coordinator, cluster.processes and cluster.process, or cluster.detect=false to run this process "
        "on its own"
    )
