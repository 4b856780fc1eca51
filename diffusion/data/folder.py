"""A folder of class folders of image files."""

import functools
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data.images import SUFFIXES, decode
from diffusion.data.records import Dataset, Record, existing_root, opener
from diffusion.data.split import check_fraction, split_sizes, stratified
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
    def fingerprint(self) -> str:
        """Of the relative paths, in order, and of every file's bytes."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor(8) as pool:
            for path, content in zip(self.files, pool.map(_sha256, self.files), strict=True):
                digest.update(f"{path.relative_to(self.root).as_posix()}\0{content}\n".encode())
        return digest.hexdigest()


def folder(root: str, seed: int, *, test_fraction: float = 0.2) -> Dataset:
    """A folder of class folders; classes and files in sorted order.

    Where ``root`` holds ``train/`` and ``test/`` (or ``val/``) these are the splits, each with the same class
    folders; elsewhere every class is split by ``seed``. Images are the files directly in a class folder that
    end in png, jpg, jpeg, bmp or webp, in any case; hidden files and folders are skipped.

    Symlinks are followed, wherever they lead: whoever made the folder put them there, and on clusters sets are often
    folders of links. (Names that a metadata file gives are not trusted so: see ``paths.inside``.) A link that leads
    nowhere is an error.

    Args:
      test_fraction: share of every class that is held out, in (0, 1); not read where ``train/`` exists.
    Raises:
      ConfigError: no such folder. DataError: no classes, an empty class, too few images, or (when it is read)
        a broken image; the path is named.
    """
    check_fraction("data.folder.test_fraction", test_fraction)
    base = existing_root(root, "folder of class folders")
    if not base.is_dir():
        raise ConfigError("data.root", f"{base} is not a folder")
    if (base / "train").is_dir():
        return _from_split_folders(base)
    classes, files, labels = scan(base)
    if len(files) < 2:
        raise DataError(f"{base}: {len(files)} image in all; at least 2 are needed, to train and to test")

    def split(name: str) -> FileRecords:
        kept = stratified(labels, test_fraction, seed)[name]
        return FileRecords(base, tuple(files[i] for i in kept), labels[kept])

    splits = {name: functools.partial(split, name) for name in ("train", "test")}
    return _dataset(base, classes, split_sizes(labels, test_fraction, str(base)), splits)


def _from_split_folders(base: Path) -> Dataset:
    held_out = next((base / name for name in ("test", "val") if (base / name).is_dir()), None)
    if held_out is None:
        raise DataError(f"{base}: train/ but no test/ or val/; set data.root to {base / 'train'} to split it")
    classes, files, labels = scan(base / "train")
    test_classes, test_files, test_labels = scan(held_out)
    if classes != test_classes:
        differing = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise DataError(f"{base}: only one of train/ and {held_out.name}/ has the classes: {differing}")
    splits = {
        "train": lambda: FileRecords(base, files, labels),
        "test": lambda: FileRecords(base, test_files, test_labels),
    }
    return _dataset(base, classes, {"train": len(files), "test": len(test_files)}, splits)


def _dataset(
    base: Path, classes: tuple[str, ...], sizes: dict[str, int], splits: dict[str, Callable[[], FileRecords]]
) -> Dataset:
    return Dataset(base.resolve().name, classes, sizes, image_shape=None, open=opener(splits))


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


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error}); the bytes of every file are the set's identity, so none of them can be "
            "left out: make it readable or remove it"
        ) from error
