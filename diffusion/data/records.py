"""What every source hands over: a ``Dataset`` whose splits are random-access ``Records``."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from diffusion.data.headers import Headers
from diffusion.data.listing import Listing
from diffusion.errors import ConfigError

LeaveOut = Callable[[int, str, str], None]  # (number of a record that cannot be read, its name, why)


@dataclass(frozen=True)
class Record:
    """One example.

    Attributes:
      image: u8[h w c] in [0, 255] at its native size, c is 1 (grey) or 3 (RGB); f32[h w c] where it is a latent, f16 or
        f32[v h w c] variants where it was encoded before (`encodings`).
      label: class index, -1 when unlabelled.
      cond: other conditions by name, as they were encoded before.
    """

    image: np.ndarray
    label: int
    cond: Mapping[str, np.ndarray] = field(default_factory=dict)


class Records(Protocol):
    """One split. ``records[i]`` may be called from many threads and raises DataError if it cannot be read.

    Attributes:
      labelled: whether every record has a class.
      labels: i32[n], all -1 when unlabelled; may read the whole split once.
      fingerprint: sha256 (hex) of what the split holds; may read the whole split once.
    """

    labelled: bool

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Record: ...

    def name(self, i: int) -> str:
        """Where record ``i`` comes from, for people: its file, or the set's name and its number."""
        ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Dataset:
    """What is known of a set before any pixel is read.

    Attributes:
      name: for logs and reports.
      classes: class names in the order of the labels, () when unlabelled.
      sizes: number of records of each split, always "train" and "test"; of some sets "val" too.
      image_shape: (h, w, c) shared by all records, None when it is not known to be.
      open: split name -> Records, the same object on every call; ConfigError on an unknown split.
      labels_known: labels are had without reading the records.
      latent: records hold what a codec made, f32 and unbounded, in place of u8 images.
      class_splits: disjoint parts of the labels by name ("train", "val", "test"), where the set is published so;
        {} where it is not. Records are split apart from that: a class has some in "train" and some in "test".
      seen, unseen: labels that are trained on and labels that are kept for testing, () where all are trained on. With
        them there are the splits "train_seen", "test_seen" and "test_unseen", and "val_seen" and "val_unseen" where
        there is "val" (`class_split.restricted`).
      listing: of a set of files, tells which is in which split; reads every file once.
      headers: of a set of files, tells of what sizes and modes they are; reads some headers.
    """

    name: str
    classes: tuple[str, ...]
    sizes: Mapping[str, int]
    image_shape: tuple[int, int, int] | None
    open: Callable[[str], Records]
    latent: bool = False
    class_splits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seen: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    listing: Callable[[], Listing] | None = None
    headers: Callable[[], Headers] | None = None
    labels_known: bool = True

    @property
    def train_split(self) -> str:
        """The split that is trained on; all others are open to evaluation."""
        return "train_seen" if self.seen else "train"

    @property
    def validation_splits(self) -> dict[str, str]:
        """{"": the split of the validation loss, "_out": that of classes never trained on, where there are such}.

        Where there is "val", nothing that the loss decides has seen "test".
        """
        split = "val" if "val" in self.sizes else "test"
        return {"": f"{split}_seen", "_out": f"{split}_unseen"} if self.seen else {"": split}


@dataclass(frozen=True, eq=False)
class ArrayRecords:
    """Records held in memory: images u8[n h w c], labels i32[n]."""

    images: np.ndarray
    labels: np.ndarray
    labelled: bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Record:
        return Record(self.images[i], int(self.labels[i]))

    def name(self, i: int) -> str:
        return f"record {i}"

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images))
        digest.update(np.ascontiguousarray(self.labels, "<i4"))
        return digest.hexdigest()


def opener(splits: Mapping[str, Callable[[], Records]]) -> Callable[[str], Records]:
    """``Dataset.open``: makes a split on first use and keeps it."""

    @functools.cache
    def open_split(split: str) -> Records:
        if split not in splits:
            raise ConfigError("data.source", f"no split {split!r}; there are: {', '.join(sorted(splits))}")
        return splits[split]()

    return open_split


def existing_root(root: str, kind: str) -> Path:
    """``data.root`` with ~ expanded; ConfigError when it is empty or there is no such ``kind``."""
    if not root:
        raise ConfigError("data.root", f"is empty; give the path of the {kind}")
    path = Path(root).expanduser()
    if not path.exists():
        raise ConfigError("data.root", f"{path} does not exist; give the path of the {kind}")
    return path
