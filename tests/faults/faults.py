"""The ways a run is made to fail, as a table: each row fires from a thread of the run's own process."""

import os
import signal
from collections.abc import Callable

from diffusion import train
from diffusion.data.loader import Loader
from diffusion.feature_chunks import FeatureChunks
from diffusion.writers import MultiWriter


def _signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _exception(owner: type | object, name: str) -> Callable[[], None]:
    """The next call of ``owner.name`` raises, once."""

    def fire() -> None:
        inner = getattr(owner, name)

        def raising(*args, **keywords):
            setattr(owner, name, inner)
            raise RuntimeError("a fault on purpose")

        setattr(owner, name, raising)

    return fire


FAULTS = {
    "SIGKILL": _signal(signal.SIGKILL),
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGINT": _signal(signal.SIGINT),
    "SIGUSR1": _signal(signal.SIGUSR1),
    "_exit": lambda: os._exit(9),
    "exception in data": _exception(Loader, "_load"),
    "exception in a writer": _exception(MultiWriter, "write"),
    "exception in an evaluation": _exception(FeatureChunks, "add"),
    "exception in the loop": _exception(train.Loop, "_dispatch"),
}
# The exit status of each where it meets the run in the middle of its work; 0 where the run was about to end.
STATUS = {"SIGKILL": -9, "SIGTERM": 75, "SIGINT": 75, "SIGUSR1": 75, "_exit": 9}
EXCEPTION = 1
FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1")


def status(fault: str) -> int:
    return STATUS.get(fault, EXCEPTION)
