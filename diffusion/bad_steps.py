"""Steps that were skipped: which examples they held, listed in the workdir's ``bad_steps.jsonl``."""

import json
import math
import os
from pathlib import Path

import jax
import numpy as np

from diffusion.data.loader import Loader
from diffusion.progress import say
from diffusion.steps import Suspect

SHOWN = 8  # ids on the console; the file has them all


class BadSteps:
    """One line a bad step: ``{"step", "why", "loss", "grad_norm", "of", "ids"}``.

    ``why`` is loss, gradient or max_loss. ``ids`` are of the examples whose own loss was not finite (``of`` is
    "examples"), or where none was, of the whole batch. Lines beyond the step a run resumes from are cut off, as in
    ``metrics.jsonl``. Every process may call it; process 0 writes.
    """

    def __init__(self, workdir: Path, source: Loader, began: int):
        self._path, self._source = workdir / "bad_steps.jsonl", source
        if jax.process_index() == 0 and self._path.exists():
            self._cut(began)

    def report(self, step: int, suspect: Suspect) -> None:
        """The step that made the run ``step`` steps long was bad; reads it from the devices."""
        suspect = jax.device_get(suspect)
        if jax.process_index() != 0:
            return
        ids = self._source.ids(step - 1)
        rows = suspect.rows[: len(ids)]
        own = bool(rows.any())
        entry = {
            "step": step,
            "why": _why(suspect),
            "loss": _plain(suspect.loss),
            "grad_norm": _plain(suspect.grad_norm),
            "of": "examples" if own else "batch",
            "ids": (ids[rows] if own else ids).tolist(),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
        shown = ", ".join(map(str, entry["ids"][:SHOWN])) + (", …" if len(entry["ids"]) > SHOWN else "")
        say(f"step {step} changed nothing: {_SAID[entry['why']]}; training examples {shown} ({self._path.name})")

    def _cut(self, began: int) -> None:
        lines = [line for line in self._path.read_text().splitlines() if _step(line) <= began]
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        partial.write_text("".join(f"{line}\n" for line in lines))
        os.replace(partial, self._path)


_SAID = {
    "loss": "its loss is not finite",
    "gradient": "its gradient is not finite",
    "max_loss": "its loss is above train.max_loss",
}


def _why(suspect: Suspect) -> str:
    if not np.isfinite(suspect.loss):
        return "loss"
    return "max_loss" if np.isfinite(suspect.grad_norm) else "gradient"


def _plain(value: np.ndarray) -> float | None:
    return float(value) if math.isfinite(value) else None


def _step(line: str) -> float:
    """Of a line; beyond every step where a killed process left half of it."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf
