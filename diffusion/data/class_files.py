"""One file of images by class: a pickle of {class: images}, or an .npz with one array a class."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data import archive, unpickle
from diffusion.errors import DataError

FORM = "uint8 [n h w], [n h w 1] or [n h w 3] in [0, 255]"
_NUMBER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class ClassFile:
    """The classes of one file.

    Attributes:
      path: the file.
      shapes: class name to (n, h, w, c), in sorted order, numbers by their value.
      read: class name to u8[n h w c], views of what the reader read; reads the whole file, at every call.
    """

    path: Path
    shapes: Mapping[str, tuple[int, int, int, int]]
    read: Callable[[], dict[str, np.ndarray]]


def class_file(path: Path) -> ClassFile:
    """What ``path`` (.pkl or .npz) holds. Of an .npz only headers are read, a pickle is read once and kept.

    A pickle is a dict from class (str, bytes or int) to an array, read by `unpickle.load`, which runs nothing; an
    .npz has an array under each class's name. Arrays are u8[n h w c], c is 1 or 3, or u8[n h w], n at least 1.

    Raises:
      DataError: the file is damaged or of another form; it and the class are named.
    """
    if path.suffix == ".npz":
        found = archive.headers(path)
        shapes = {name: _shape(path, name, header.shape, header.dtype) for name, header in found.items()}
        read = _npz_reader(path)
    else:
        values = _pickled(path)
        shapes = {name: _shape(path, name, value.shape, value.dtype) for name, value in values.items()}
        read = _kept(values)
    if not shapes:
        raise DataError(f"{path}: holds no classes; each must hold images {FORM}")
    names = sorted(shapes, key=in_order)

    def images() -> dict[str, np.ndarray]:
        arrays = read()
        return {name: arrays[name].reshape(shapes[name]) for name in names}

    return ClassFile(path, {name: shapes[name] for name in names}, images)


def in_order(name: str) -> tuple[int, int, str]:
    """Sort key of class names: numbers first, by their value."""
    return (0, int(name), name) if _NUMBER.fullmatch(name) else (1, 0, name)


def _npz_reader(path: Path) -> Callable[[], dict[str, np.ndarray]]:
    return lambda: archive.arrays(path)


def _kept(values: dict[str, np.ndarray]) -> Callable[[], dict[str, np.ndarray]]:
    return lambda: values


def _pickled(path: Path) -> dict[str, np.ndarray]:
    content = unpickle.load(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; a dict from class to images {FORM} is required")
    names = _names(path, content)
    for name, value in zip(names, content.values(), strict=True):
        if not isinstance(value, np.ndarray):
            raise DataError(f"{path}: class {name!r} is a {type(value).__name__}; an array {FORM} is required")
    return dict(zip(names, content.values(), strict=True))


def _names(path: Path, keys: Iterable[Any]) -> list[str]:
    names = [_name(path, key) for key in keys]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}: two classes are named {twice[0]!r}; a number and its text count as one name")
    return names


def _name(path: Path, key: Any) -> str:
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: class {key!r} is no UTF-8 text; name it so") from error
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return str(int(key))
    raise DataError(f"{path}: class {key!r} is a {type(key).__name__}; a class is named by str, bytes or int")


def _shape(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int, int, int]:
    """[n h w c] of a class."""
    where = f"{path}: class {name!r} is {dtype}{list(shape)}"
    if dtype != np.uint8:
        raise DataError(f"{where}; {FORM} is required. The range of others is not guessed: scale and save them so")
    full = (*shape, 1) if len(shape) == 3 else shape
    if len(full) == 4 and full[1] in (1, 3) and full[3] not in (1, 3):
        raise DataError(f"{where}; {FORM} is required. Channels come last: transpose(0, 2, 3, 1)")
    if len(full) == 4 and full[0] == 0:
        raise DataError(f"{where}, no image; leave the class out, or give it images")
    if len(full) != 4 or full[3] not in (1, 3) or 0 in full:
        raise DataError(f"{where}; {FORM} is required")
    return full
