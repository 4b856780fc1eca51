"""Features of an evaluation, batch by batch on disk, so that one that was interrupted does not draw them again."""

import os
import shutil
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np

from diffusion.agreement import all_processes
from diffusion.manifest import json_sha256

Chunk = tuple[np.ndarray, np.ndarray, np.ndarray]  # places i[r], features f[r d], read classes i[r]


class FeatureChunks:
    """The batches that are done, in memory and under ``folder``, where a killed process leaves them for the next.

    Args:
      folder: of all evaluations; each has a folder of its own inside.
      about: plain JSON of everything that decides the features. What was made under other words is not read.
    """

    def __init__(self, folder: Path, about: object):
        self._folder = folder / f"evaluation-{json_sha256(about)[:16]}"
        self._done: dict[int, Chunk] = {}
        for path in sorted(self._folder.glob("[0-9]*.npz")):
            chunk = _read(path)
            if chunk is not None:
                self._done[int(path.stem)] = chunk

    def has(self, places: np.ndarray) -> bool:
        """Whether this batch is done; one answer for all processes, so all of them ask."""
        found = self._done.get(int(places[0]))
        return all_processes(found is not None and np.array_equal(found[0], places))

    def add(self, places: np.ndarray, features: np.ndarray, classes: np.ndarray) -> None:
        """A batch is done; process 0 writes it, whole or not at all."""
        self._done[int(places[0])] = (places, features, classes)
        if jax.process_index() != 0:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".{os.getpid()}.npz"
        np.savez(partial, places=places, features=features, classes=classes)
        os.replace(partial, self._folder / f"{int(places[0]):08d}.npz")

    def all(self) -> Chunk:
        """Everything, batch after batch."""
        chunks = [self._done[start] for start in sorted(self._done)]
        places, features, classes = (np.concatenate(part) for part in zip(*chunks, strict=True))
        return places, features, classes

    def clear(self) -> None:
        """The evaluation is done: nothing of it needs to stay on disk."""
        if jax.process_index() == 0 and self._folder.exists():
            shutil.rmtree(self._folder)


def _read(path: Path) -> Chunk | None:
    """A chunk, or None where the file is damaged: its images are then drawn again. zip checks every byte's CRC."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["places"], file["features"], file["classes"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
