"""A folder of class folders of image files."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data.hashes import sha256s
from diffusion.data.headers import Headers, look
from diffusion.data.images import SUFFIXES, decode
from diffusion.data.listing import Listing
from diffusion.data.records import Dataset, Record, existing_root, opener
from diffusion.data.splitting import Splitting
from diffusion.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class FileRecords:
    """Image files under ``root``, decoded when asked for; labels i32[n]."""

    root: Path
    files: tuple[Path, ...]
    labels: np.ndarray
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Record:
        path = self.files[i]
        return Record(decode(path, str(path)), int(self.labels[i]))

    def name(self, i: int) -> str:
        return str(self.files[i])

    @functools.cached_property
    def contents(self) -> dict[str, str]:
        """{path below ``root``, with slashes: sha256 of the file's bytes}, in order; each file is read once."""
        return dict(zip(paths_below(self.root, self.files), sha256s(self.files), strict=True))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the relative paths, in order, and of every file's bytes."""
        digest = hashlib.sha256()
        for path, content in self.contents.items():
            digest.update(f"{path}\0{content}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def folder(
    root: str,
    seed: int,
    *,
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    split: str = "",
    duplicates: str = "report",
) -> Dataset:
    """A folder of class folders; classes and files in sorted order.

    Where ``root`` holds ``train/`` and ``val/``, ``test/`` or both, these are the splits, each with the same class
    folders (one of the two alone is "test"); elsewhere every class is split by ``seed``, or as a file says. Images are
    the files directly in a class folder that end in png, jpg, jpeg, bmp or webp, in any case; hidden files and folders
    are skipped.

    Symlinks are followed, wherever they lead: whoever made the folder put them there, and on clusters sets are often
    folders of links. (Names that a metadata file gives are not trusted so: see ``paths.inside``.) A link that leads
    nowhere is an error.

    Args:
      val_fraction: share of every class for the validation loss, from 0; 0 makes no split "val", and the loss is on
        "test". A class of three images or more has one in each split, one of two none in "val".
      test_fraction: share of every class that is held out for testing, in (0, 1). Neither is read where ``train/`` is.
      split: a JSON file that says which file is in which split, as ``split.json`` of another run.
      duplicates: report, or raise: what the same bytes in two splits or in two classes are.
    Raises:
      ConfigError: no such folder. ValueError: begins with the field that cannot be. DataError: no classes, an empty
        class, too few images, or (when it is read) a broken image; the path is named.
    """
    how = Splitting(seed, val_fraction, test_fraction, split, duplicates)
    base = existing_root(root, "folder of class folders")
    if not base.is_dir():
        raise ConfigError("data.root", f"{base} is not a folder")
    if (base / "train").is_dir():
        return _from_split_folders(base, how)
    classes, files, labels = scan(base)
    if len(files) < 2:
        raise DataError(f"{base}: {len(files)} image in all; at least 2 are needed, to train and to test")
    parts = how.parts(paths_below(base, files), labels, classes, str(base))
    chosen = {name: (tuple(files[i] for i in kept), labels[kept]) for name, kept in parts.items()}
    return _dataset(base, classes, chosen, how, how.drawn)


def _from_split_folders(base: Path, how: Splitting) -> Dataset:
    held_out = [name for name in ("val", "test") if (base / name).is_dir()]
    if not held_out:
        raise DataError(f"{base}: train/ but no test/ or val/; set data.root to {base / 'train'} to split it")
    if how.split:
        raise ValueError(f"split: is {how.split}, but {base} holds train/ and is split already; give one of the two")
    scanned = {name: scan(base / name) for name in ("train", *held_out)}
    classes = scanned["train"][0]
    for name in held_out:
        if differing := set(classes) ^ set(scanned[name][0]):
            raise DataError(f"{base}: only one of train/ and {name}/ has the classes: {', '.join(sorted(differing))}")
    names = dict(zip(held_out, ("val", "test") if len(held_out) == 2 else ("test",), strict=True))
    chosen = {names.get(name, name): (files, labels) for name, (_, files, labels) in scanned.items()}
    return _dataset(base, classes, chosen, how, {"folders": ["train", *held_out]})


def _dataset(
    base: Path,
    classes: tuple[str, ...],
    chosen: dict[str, tuple[tuple[Path, ...], np.ndarray]],
    how: Splitting,
    drawn: dict[str, Any],
) -> Dataset:
    """The set of which ``chosen`` are each split's files and labels i32[n]."""
    records = {name: FileRecords(base, files, labels) for name, (files, labels) in chosen.items()}

    @functools.cache
    def listing() -> Listing:
        contents = {name: one.contents for name, one in records.items()}
        found = Listing(classes, contents, drawn, refuse_duplicates=how.duplicates == "raise")
        how.check_hashes(found)
        return found

    @functools.cache
    def headers() -> Headers:
        files = [path for part, _ in chosen.values() for path in part]
        labels = np.concatenate([part for _, part in chosen.values()])
        in_order = np.argsort(labels, kind="stable")  # of all classes, spread evenly
        counts = dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))
        return look([files[i] for i in in_order], counts)

    return Dataset(
        name=base.resolve().name,
        classes=classes,
        sizes={name: len(one) for name, one in records.items()},
        image_shape=None,
        open=opener({name: functools.partial(records.__getitem__, name) for name in records}),
        listing=listing,
        headers=headers,
    )


def scan(base: Path) -> tuple[tuple[str, ...], tuple[Path, ...], np.ndarray]:
    """Class names, files and labels i32[n]; DataError where there are none."""
    folders = listed(base, lambda entry: entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise DataError(f"{base}: no class folders; it must hold one folder of images per class, as {base}/NAME/1.png")
    files, labels = [], []
    for label, class_folder in enumerate(folders):
        found = listed(class_folder, is_image)
        if not found:
            raise DataError(f"{class_folder}: no images; a class folder holds {' '.join(SUFFIXES)} files")
        files += found
        labels += [label] * len(found)
    return tuple(path.name for path in folders), tuple(files), np.array(labels, np.int32)


def paths_below(base: Path, files: Iterable[Path]) -> list[str]:
    """The files' paths below ``base``, with slashes."""
    return [path.relative_to(base).as_posix() for path in files]


def listed(folder: Path, wanted: Callable[[os.DirEntry], bool]) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if wanted(entry))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error})") from error


def is_image(entry: os.DirEntry) -> bool:
    if Path(entry.name).suffix.lower() not in SUFFIXES or entry.name.startswith(".") or entry.is_dir():
        return False
    if not entry.is_file():
        raise DataError(f"{entry.path}: no file, or a link that leads nowhere; restore its target or remove it")
    return True
