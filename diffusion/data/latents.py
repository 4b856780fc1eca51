"""Latents that were encoded before: a folder with ``latents.npy``, perhaps ``labels.npy`` and ``classes.txt``."""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data.records import Dataset, Record, existing_root, opener
from diffusion.data.split import check_fraction, split_sizes, stratified
from diffusion.errors import DataError

CHUNK = 4096  # latents that are read at a time for the fingerprint


@dataclass(frozen=True, eq=False)
class LatentRecords:
    """Rows of an array on disk, which is mapped and never read as a whole.

    Attributes:
      values: f16 or f32[n h w c], of the whole file.
      rows: i64[m], those of this split.
      labels: i32[m], -1 where there are none.
    """

    values: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    labelled: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Record:
        latent = np.asarray(self.values[self.rows[i]], np.float32)
        if not np.isfinite(latent).all():
            raise DataError(f"{self.name(i)} holds a value that is not finite")
        return Record(latent, int(self.labels[i]))

    def name(self, i: int) -> str:
        return f"latents.npy, row {self.rows[i]}"

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.values.dtype.str} {self.values.shape[1:]}".encode())
        for chunk in self._chunks():
            digest.update(np.ascontiguousarray(self.values[chunk]))
        digest.update(np.ascontiguousarray(self.labels, "<i4"))
        return digest.hexdigest()

    def _chunks(self) -> Iterator[np.ndarray]:
        return (self.rows[start : start + CHUNK] for start in range(0, len(self.rows), CHUNK))


def latents(root: str, seed: int, *, test_fraction: float = 0.02) -> Dataset:
    """Latents [h w c] as float16 or float32 in one file, split per class by ``seed``. ``root`` is the folder.

    Args:
      test_fraction: share of every class that is held out for the validation loss, in (0, 1).

    Raises:
      ConfigError: no such folder. DataError: a file is missing or not of this form.
    """
    check_fraction("data.latents.test_fraction", test_fraction)
    folder = existing_root(root, "folder with latents.npy")
    values = _mapped(folder / "latents.npy")
    if values.dtype not in (np.float16, np.float32) or values.ndim != 4 or 0 in values.shape:
        raise DataError(
            f"{folder / 'latents.npy'}: is {values.dtype}{list(values.shape)}; float16 or float32 [n h w c] is required"
        )
    labelled = (folder / "labels.npy").exists()
    labels = _labels(folder / "labels.npy", len(values)) if labelled else np.full(len(values), -1, np.int32)

    def split(name: str) -> LatentRecords:
        kept = stratified(labels, test_fraction, seed)[name]
        return LatentRecords(values, kept, labels[kept], labelled)

    return Dataset(
        name=folder.name,
        classes=_classes(folder / "classes.txt", int(labels.max()) + 1),
        sizes=split_sizes(labels, test_fraction, str(folder)),
        image_shape=values.shape[1:],
        open=opener({name: functools.partial(split, name) for name in ("train", "test")}),
        latent=True,
    )


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable .npy file of plain numbers ({error})") from error


def _labels(path: Path, n: int) -> np.ndarray:
    labels = _mapped(path)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: is {labels.dtype}{list(labels.shape)}; integers [{n}], one a latent, are required")
    if labels.min() < 0 or len(np.unique(labels)) != labels.max() + 1:
        raise DataError(f"{path}: labels must be 0..k-1 with every class present")
    return labels.astype(np.int32)


def _classes(path: Path, count: int) -> tuple[str, ...]:
    """Names by line; the labels' numbers where there is no file."""
    if not path.exists():
        return tuple(str(k) for k in range(count))
    names = tuple(path.read_text(encoding="utf-8").splitlines())
    if len(names) != count or len(set(names)) != count:
        raise DataError(f"{path}: {count} classes are labelled, {len(set(names))} different names are given by line")
    return names
