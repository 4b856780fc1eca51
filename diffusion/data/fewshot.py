"""Sets for few-shot generation: classes that are trained on, and classes that are never seen, in files of their own."""

import functools
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data.class_files import ClassFile, class_file
from diffusion.data.records import Dataset, Record, existing_root, opener
from diffusion.data.split import check_fraction, split_sizes, stratified
from diffusion.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")  # of the classes
SUFFIXES = (".pkl", ".npz")


@dataclass(frozen=True, eq=False)
class ClassRecords:
    """Records of a set held by class; labels ascend.

    Attributes:
      images: gives u8[n h w c] of each label; called when the first pixel is asked for.
      classes: names by label.
      labels: i32[m].
      places: i64[m], the number of each record within its class.
    """

    images: Callable[[], tuple[np.ndarray, ...]]
    classes: tuple[str, ...]
    labels: np.ndarray
    places: np.ndarray
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Record:
        label = int(self.labels[i])
        return Record(self.images()[label][self.places[i]], label)

    def name(self, i: int) -> str:
        return f"class {self.classes[self.labels[i]]}, image {self.places[i]}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of shape, pixels and labels, whichever kind of file holds them."""
        images = self.images()
        digest = hashlib.sha256(repr((len(self), *images[0].shape[1:])).encode())
        present, starts = np.unique(self.labels, return_index=True)
        for label, places in zip(present, np.split(self.places, starts[1:]), strict=True):
            digest.update(np.ascontiguousarray(images[label][places]))  # one class at a time: the set is not copied
        digest.update(np.ascontiguousarray(self.labels, "<i4"))
        return digest.hexdigest()


def fewshot(root: str, seed: int, *, name: str = "", test_fraction: float = 0.2) -> Dataset:
    """Classes in files ``{split}_{name}.pkl`` or ``.npz`` of train, val and test, as FSDM has them (Giannone 2022).

    ``root`` is the folder that holds them, or holds a folder ``name`` with them; val may be missing. What a file holds
    is told by `class_file`. Every class, trained on or not, has records in "train" and in "test", split by ``seed``;
    a class of one image is in "train" alone. ``class_splits`` tells which classes stood in which file.

    Args:
      name: of the set, as in the files' names; may be empty where the folder holds one set.
      test_fraction: share of every class that is held out, in (0, 1).
    Raises:
      ConfigError: no such folder or set, or more than one. DataError: a file is missing or not of this form, a class is
        in two files, or sizes differ.
    """
    check_fraction("data.fewshot.test_fraction", test_fraction)
    folder = existing_root(root, "folder with train_NAME.pkl or .npz")
    if not folder.is_dir():
        raise ConfigError("data.root", f"{folder} is not a folder; source fewshot reads the files in one")
    train = _train_file(folder, name)
    files = _files(train)
    classes, shapes, parts = _joined(files)
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [shape[0] for shape in shapes])
    places = np.concatenate([np.arange(shape[0]) for shape in shapes])
    images = _once(functools.partial(_images, list(files.values())))

    def split(part: str) -> ClassRecords:
        kept = stratified(labels, test_fraction, seed)[part]
        return ClassRecords(images, classes, labels[kept], places[kept])

    return Dataset(
        name=_set_name(train),
        classes=classes,
        sizes=split_sizes(labels, test_fraction, str(train.parent)),
        image_shape=shapes[0][1:],
        open=opener({part: functools.partial(split, part) for part in ("train", "test")}),
        class_splits=parts,
    )


def _set_name(train: Path) -> str:
    return train.stem.removeprefix("train_")


def _train_file(folder: Path, name: str) -> Path:
    found = [path for path in _train_files(folder) if name in ("", _set_name(path))]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(path.relative_to(folder)) for path in found)
        problem = "name the set" if not name else "remove all but one"
        raise ConfigError("data.fewshot.name", f"{name!r} may be any of {listed} in {folder}; {problem}")
    if not name:
        raise ConfigError("data.root", f"no train_NAME.pkl or .npz in {folder} or in {folder / 'NAME'}")
    there = ", ".join(sorted({_set_name(path) for path in _train_files(folder)})) or "none"
    raise ConfigError(
        "data.fewshot.name", f"no train_{name}.pkl or .npz in {folder} or {folder / name}; sets that are there: {there}"
    )


def _train_files(folder: Path) -> list[Path]:
    """Every train file in ``folder``, and in a folder of it that is called as the set."""
    flat = [path for path in folder.glob("train_*") if _is_set(path)]
    nested = [path for path in folder.glob("*/train_*") if _is_set(path)]
    return sorted(flat) + sorted(path for path in nested if path.parent.name == _set_name(path))


def _is_set(path: Path) -> bool:
    return path.suffix in SUFFIXES and path.is_file()


def _files(train: Path) -> dict[str, ClassFile]:
    """The files of a set, by split, in the order of SPLITS."""
    found = {}
    for split in SPLITS:
        stem = f"{split}_{_set_name(train)}"
        there = [path for path in (train.with_name(stem + suffix) for suffix in SUFFIXES) if path.is_file()]
        if len(there) > 1:
            raise DataError(f"{there[0]}: there is {there[1].name} too; remove one of them")
        if not there and split == "test":
            raise DataError(
                f"{train.parent}: {train.name} but no {stem}.pkl or .npz, which holds the classes never trained on"
            )
        if there:
            found[split] = class_file(there[0])
    return found


def _joined(
    files: dict[str, ClassFile],
) -> tuple[tuple[str, ...], list[tuple[int, int, int, int]], dict[str, tuple[int, ...]]]:
    """Class names and [n h w c] by label, and the labels of each file."""
    where: dict[str, Path] = {}
    shapes: list[tuple[int, int, int, int]] = []
    parts = {}
    for split, file in files.items():
        for name, shape in file.shapes.items():
            if name in where:
                raise DataError(
                    f"{file.path}: class {name!r} is in {where[name].name} too; the classes of the files must differ "
                    "(where each file counts its classes from 0, give them names)"
                )
            where[name] = file.path
            shapes.append(shape)
            if shape[1:] != shapes[0][1:]:
                first = next(iter(where))
                raise DataError(
                    f"{file.path}: class {name!r} is {_size(shape)}, class {first!r} of {where[first].name} is "
                    f"{_size(shapes[0])}; all images must share one size"
                )
        parts[split] = tuple(range(len(shapes) - len(file.shapes), len(shapes)))
    return tuple(where), shapes, parts


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:]))


def _images(files: list[ClassFile]) -> tuple[np.ndarray, ...]:
    return tuple(array for file in files for array in file.read().values())


def _once(make: Callable[[], tuple[np.ndarray, ...]]) -> Callable[[], tuple[np.ndarray, ...]]:
    """``make``, called by the first thread that asks while the others wait; a whole set is not read twice."""
    lock, cached = threading.Lock(), functools.cache(make)

    def made() -> tuple[np.ndarray, ...]:
        with lock:
            return cached()

    return made
