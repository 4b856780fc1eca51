"""One answer for all processes; each of them must ask, in the same order."""

import jax
import numpy as np


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process."""
    return bool(np.any(_of_all(flag)))


def all_processes(flag: bool) -> bool:
    """Whether the flag is set on every process."""
    return bool(np.all(_of_all(flag)))


def _of_all(flag: bool) -> np.ndarray:
    if jax.process_count() == 1:
        return np.asarray([flag])
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.asarray(flag, np.int32))
