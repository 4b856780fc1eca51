"""The folder of checkpoints: its names, and the renames by which a step comes, goes or is set aside.

``12`` is a step whose save was completed; ``12.orbax-checkpoint-tmp`` one that is being saved;
``12.replaced`` stands until another 12 is there; ``12.deleting`` is on its way out; ``12.corrupt`` was found damaged.
"""

import errno
import itertools
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import jax

from diffusion.agreement import first_says
from diffusion.cluster import barrier
from diffusion.errors import NoValidCheckpoint

UNFINISHED = ".orbax-checkpoint-tmp"


class StepFolder:
    """Every process calls every method; process 0 renames and deletes.

    Args:
      path: on a file system that all processes share and that renames atomically.
    """

    def __init__(self, path: Path):
        self.path = path

    def steps(self) -> list[int]:
        """The steps whose save was completed, ascending; empty without a folder."""
        if not self.path.is_dir():
            return []
        return sorted(int(path.name) for path in self.path.iterdir() if path.name.isdecimal() and path.is_dir())

    def holds(self, step: int) -> bool:
        """Whether a step is there; every process gets the same answer."""
        return first_says((self.path / str(step)).is_dir)

    def unfinished(self, step: int) -> Path:
        """The folder in which a step is being saved."""
        return next(self.path.glob(f"{step}{UNFINISHED}*"))

    def refuse_if_set_aside(self) -> None:
        """Raises NoValidCheckpoint where damaged steps are all there is."""
        aside = sorted(path.name for path in self.path.glob("*.corrupt*"))
        if aside:
            raise NoValidCheckpoint(f"{self.path}: only damaged checkpoints are left: {', '.join(aside)}")

    def set_aside(self, step: int) -> str:
        """Rename a damaged step; returns its new name."""
        names = itertools.chain([f"{step}.corrupt"], (f"{step}.corrupt-{n}" for n in itertools.count(2)))
        name = next(name for name in names if not (self.path / name).exists())
        self.move(str(step), name)
        return name

    def replace(self, step: int) -> None:
        """Make room for another save of a step, which stays on disk until that is there."""
        self.move(f"{step}", f"{step}.replaced")

    def bring_back_replaced(self) -> None:
        """A step whose replacement broke off before it was whole stands again."""
        for path in sorted(self.path.glob("*.replaced")):
            if not path.with_suffix("").exists():
                self.move(path.name, path.stem)

    def retire(self, steps: Iterable[int]) -> None:
        """Out of the list at once; `sweep` deletes them."""
        if jax.process_index() == 0:
            for step in steps:
                (self.path / str(step)).rename(self.path / f"{step}.deleting")

    def sweep(self) -> None:
        """Delete what a broken save or deletion left behind. No save may be under way."""
        _join_writers()
        barrier("before the sweep")
        if jax.process_index() == 0:
            for pattern in ("*.deleting", f"*{UNFINISHED}*", "*.replaced"):
                for path in self.path.glob(pattern):
                    if path.suffix != ".replaced" or path.with_suffix("").exists():
                        _delete(path)
        barrier("after the sweep")

    def move(self, old: str, new: str) -> None:
        barrier(f"before moving {old}")
        if jax.process_index() == 0:
            (self.path / old).rename(self.path / new)
        barrier(f"moved {old}")


def _join_writers() -> None:
    """Wait for the threads of a failed save: Orbax reports the first failure while others still write.

    Theirs is a ``join`` that raises what the thread met, which is known by then.
    """
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            threading.Thread.join(thread)


def _delete(path: Path) -> None:
    """Delete a folder. TensorStore's own threads may still write, out of our sight, what belongs to a failed save."""
    for _ in range(100):
        try:
            shutil.rmtree(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
        if UNFINISHED in path.name:
            time.sleep(0.05)
        if not path.exists():
            return
    shutil.rmtree(path)
