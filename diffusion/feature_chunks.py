"""What networks said of an evaluation's images, batch by batch on disk, so that an interrupted one goes on."""

import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from diffusion.agreement import all_processes
from diffusion.manifest import json_sha256

PLACES = "places"
Answers = dict[str, np.ndarray]  # "network/output" -> [n …], a row for each image


class FeatureChunks:
    """The batches that are done, in memory and under ``folder``, where a killed process leaves them for the next.

    Args:
      folder: of all evaluations; each has a folder of its own inside.
      about: plain JSON of everything that decides the answers. What was made under other words is not read.

    Attributes:
      folder: of this evaluation alone.
    """

    def __init__(self, folder: Path, about: object):
        self.folder = folder / f"evaluation-{json_sha256(about)[:16]}"
        self._done: dict[int, Answers] = {}
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            chunk = _read(path)
            if chunk is not None:
                self._done[int(path.stem)] = chunk

    def has(self, places: np.ndarray) -> bool:
        """Whether this batch is done; one answer for all processes, so all of them ask."""
        found = self._done.get(int(places[0]))
        return all_processes(found is not None and np.array_equal(found[PLACES], places))

    def add(self, places: np.ndarray, answers: Mapping[str, np.ndarray]) -> None:
        """A batch is done; process 0 writes it, whole or not at all."""
        chunk = {PLACES: places, **answers}
        self._done[int(places[0])] = chunk
        if jax.process_index() != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{os.getpid()}.npz"
        with open(partial, "wb") as file:
            np.savez(file, **chunk)
        os.replace(partial, self.folder / f"{int(places[0]):08d}.npz")

    def all(self) -> tuple[np.ndarray, Answers]:
        """(places, answers) of everything, batch after batch."""
        chunks = [self._done[start] for start in sorted(self._done)]
        found = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        return found.pop(PLACES), found


def clear(folder: Path) -> None:
    """An evaluation is done: nothing of it needs to stay in its ``folder``."""
    if jax.process_index() == 0 and folder.exists():
        shutil.rmtree(folder)


def _read(path: Path) -> Answers | None:
    """A chunk, or None where the file is damaged: its images are then drawn again. zip checks every byte's CRC."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files} if PLACES in file.files else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
