"""One dict of metrics to every destination, so that a tracker that is on or off changes nothing else."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.destinations import WRITERS, Metrics, Rows, Run, Writer


@dataclass(frozen=True)
class MultiWriter:
    """Hands everything to each of ``writers``, in order; metrics once made plain numbers."""

    writers: Sequence[Writer]
    wandb_id: str | None = None

    def write(self, step: int, metrics: Metrics) -> None:
        """``metrics`` of ``step``; values are host scalars, None where one could not be computed."""
        plain = {name: _plain(value) for name, value in metrics.items()}
        for writer in self.writers:
            writer.write(int(step), plain)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, u8[h w 1|3]."""
        for writer in self.writers:
            writer.image(int(step), name, image)

    def table(self, step: int, name: str, rows: Rows) -> None:
        """A table, as a list of dicts with the same keys."""
        for writer in self.writers:
            writer.table(int(step), name, rows)

    def hparams(self, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """The resolved config, and the facts of the data and the model."""
        for writer in self.writers:
            writer.hparams(config, facts)

    def flush(self) -> None:
        """Call it before each save: the checkpoint's ``state()`` then speaks of bytes that are on disk."""
        for writer in self.writers:
            writer.flush()

    def close(self) -> None:
        """Flush and end."""
        for writer in self.writers:
            writer.close()

    def state(self) -> dict[str, Any]:
        """``{"offset": int | None, "wandb_id": str | None}``: what ``make_writers`` needs to go on."""
        offsets = [writer.offset() for writer in self.writers]
        return {"offset": next((n for n in offsets if n is not None), None), "wandb_id": self.wandb_id}


def make_writers(
    workdir: str | Path,
    *,
    wandb: bool = False,
    tensorboard: bool = True,
    wandb_project: str = "diffusion",
    wandb_id: str | None = None,
    offset: int | None = None,
    name: str = "",
) -> MultiWriter:
    """The writers of a run: console and JSONL always, TensorBoard and W&B when asked; none but in process 0.

    ``offset`` and ``wandb_id`` come from the ``state()`` in the checkpoint (see ``Run``).
    """
    if jax.process_index() != 0:
        return MultiWriter([])
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if wandb and wandb_id is None:
        wandb_id = secrets.token_hex(4)
    run = Run(workdir, name or workdir.name, wandb_project, wandb_id, offset)
    chosen = {"console": True, "jsonl": True, "tensorboard": tensorboard, "wandb": wandb}
    return MultiWriter([WRITERS[row](run) for row, on in chosen.items() if on], wandb_id)


def _plain(value: Any) -> float | int | None:
    if value is None:
        return None
    return int(value) if isinstance(value, Integral) else float(value)
