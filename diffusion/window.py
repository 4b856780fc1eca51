"""Training metrics between two log steps: summed on the device, read on the host only when they are old."""

from collections import deque
from typing import Any

import jax
import numpy as np

from diffusion.steps import Metrics, Sums

Values = dict[str, float | None]


class Window:
    """Collects the metrics of every step and gives them back per log step.

    Args:
      every: steps per window, counted from 0 of the whole run; 0 keeps one open.
      saved: what ``open_sums`` gave when the run was saved within a window.
    """

    def __init__(self, every: int, saved: dict[str, list[float]] | None = None):
        self._every = every
        self._sums: Sums | None = _as_device_sums(saved) if saved else None
        self._closed: deque[tuple[int, Sums, Any]] = deque()

    def add(self, step: int, metrics: Metrics) -> None:
        """Metrics of the step that made the run ``step`` steps long. Reads nothing."""
        self._sums = metrics.sums if self._sums is None else _add(self._sums, metrics.sums)
        if self._every and step % self._every == 0:
            self._closed.append((step, self._sums, metrics.last))
            self._sums = None

    def take(self, done: int) -> list[tuple[int, Values]]:
        """(step, {name: value}) of the windows that end at or before ``done``, each once."""
        taken = []
        while self._closed and self._closed[0][0] <= done:
            step, sums, last = self._closed.popleft()
            sums, last = jax.device_get((sums, last))
            taken.append((step, divide(sums) | {name: float(value) for name, value in last.items()}))
        return taken

    def open_sums(self) -> dict[str, list[float]] | None:
        """The unfinished window as plain JSON; float32 survives it exactly."""
        if self._sums is None:
            return None
        return {name: [float(a) for a in pair] for name, pair in jax.device_get(self._sums).items()}


def divide(sums: Sums) -> Values:
    """{name: sum / count} on the host, None where nothing was counted."""
    return {name: float(total) / float(count) if float(count) else None for name, (total, count) in sums.items()}


@jax.jit
def _add(a: Sums, b: Sums) -> Sums:
    return jax.tree.map(lambda x, y: x + y, a, b)


def _as_device_sums(saved: dict[str, list[float]]) -> Sums:
    return {name: tuple(jax.device_put(np.float32(v)) for v in pair) for name, pair in saved.items()}
