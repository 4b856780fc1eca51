"""Some of another split's records."""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from diffusion.data.records import Record, Records


@dataclass(frozen=True, eq=False)
class Subset:
    """The records ``kept`` (i64[m], numbers in ``records``) of ``records``, in that order."""

    records: Records
    kept: np.ndarray

    @property
    def labelled(self) -> bool:
        return self.records.labelled

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, i: int) -> Record:
        return self.records[int(self.kept[i])]

    def name(self, i: int) -> str:
        return self.records.name(int(self.kept[i]))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return self.records.labels[self.kept]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the whole split's fingerprint and of the numbers kept."""
        digest = hashlib.sha256(self.records.fingerprint.encode())
        digest.update(np.ascontiguousarray(self.kept, "<i8"))
        return digest.hexdigest()
