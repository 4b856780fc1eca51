"""What several processes must know of each other around a save. With one process all of it is nothing."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

LIMIT_S = 600  # for which one process waits for the slowest to write its part


def any_process(flag: bool) -> bool:
    """Whether it is so on any process; each of them asks, in the same order."""
    return bool(np.any(_of_all(flag)))


def all_processes(flag: bool) -> bool:
    """Whether it is so on every process; each of them asks, in the same order."""
    return bool(np.all(_of_all(flag)))


def first_says(ask: Callable[[], bool]) -> bool:
    """Process 0's answer, on every process: a look at a shared folder may differ from host to host."""
    return all_processes(jax.process_index() != 0 or ask())


def _of_all(flag: bool) -> np.ndarray:
    if jax.process_count() == 1:
        return np.asarray([flag])
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.asarray(flag, np.int32))


class Meeting:
    """The barriers of background saves, for Orbax: who failed tells the others instead of leaving them to wait.

    Orbax's own barrier lets the healthy processes wait out the whole time limit for one that failed, and takes
    the same name again when the same step is saved again.
    """

    STAGES = 2  # of one save: all have written; process 0 has renamed

    def __init__(self) -> None:
        self._save = self._stage = 0

    def begin(self) -> None:
        """Another save begins, on every process."""
        self._save, self._stage = self._save + 1, 0
        if jax.process_count() > 1 and jax.process_index() == 0:
            _store().key_value_delete(self._name(self._save - 2))

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Wait for all. Raises OSError when one has failed, JaxRuntimeError when the time is over."""
        stage, ends = self._stage, time.monotonic() + timeout_ms / 1000
        self._stage += 1
        self._say(stage, "here")
        for process in range(jax.process_count()):
            left = max(1, int(1000 * (ends - time.monotonic())))
            if _store().blocking_key_value_get(f"{self._name(self._save)}{stage}/{process}", left) != "here":
                raise OSError(f"process {process} could not write its part")

    def fail(self) -> None:
        """This process will not come to the stages that are left."""
        if jax.process_count() > 1:
            for stage in range(self._stage, self.STAGES):
                self._say(stage, "failed")
            self._stage = self.STAGES

    def _say(self, stage: int, word: str) -> None:
        _store().key_value_set(f"{self._name(self._save)}{stage}/{jax.process_index()}", word)

    def _name(self, save: int) -> str:
        return f"diffusion/save/{save}/"


def _store() -> Any:
    """The processes' common key-value store; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client
