"""One .npz file: ``images``, and if it has them ``labels`` and ``classes``."""

import functools
from pathlib import Path

import numpy as np

from diffusion.data.archive import Header, array, headers
from diffusion.data.records import ArrayRecords, Dataset, existing_root, opener
from diffusion.data.split import check_fraction, split_sizes, stratified
from diffusion.errors import ConfigError, DataError


def npz(root: str, seed: int, *, test_fraction: float = 0.2) -> Dataset:
    """Images in one NumPy archive, split per class by ``seed``. ``root`` is the file.

    The file holds ``images`` u8[n h w c] (c is 1 or 3) or u8[n h w], optionally ``labels`` int[n] in 0..k-1
    with every class present, and optionally the class names ``classes`` str[k]. Only headers and labels are
    read before a split is opened.

    Args:
      test_fraction: share of every class that is held out, in (0, 1).
    Raises:
      ConfigError: no such file. DataError: the file is not of this form.
    """
    check_fraction("data.npz.test_fraction", test_fraction)
    path = existing_root(root, ".npz file")
    if not path.is_file():
        raise ConfigError("data.root", f"{path} is not a file; source npz reads one .npz file")
    found = headers(path)
    shape = _image_shape(path, found)
    labels = _labels(path, found["labels"], shape[0]) if "labels" in found else None
    strata = np.full(shape[0], -1, np.int32) if labels is None else labels
    images = functools.cache(functools.partial(_images, path, found["images"], shape))

    def split(name: str) -> ArrayRecords:
        kept = stratified(strata, test_fraction, seed)[name]
        return ArrayRecords(images()[kept], strata[kept], labelled=labels is not None)

    return Dataset(
        name=path.stem,
        classes=_classes(path, labels, found.get("classes")),
        sizes=split_sizes(strata, test_fraction, str(path)),
        image_shape=shape[1:],
        open=opener({name: functools.partial(split, name) for name in ("train", "test")}),
    )


def _image_shape(path: Path, found: dict[str, Header]) -> tuple[int, int, int, int]:
    """[n h w c] of ``images``."""
    if "images" not in found:
        there = ", ".join(sorted(found)) or "none"
        raise DataError(
            f"{path}: no array 'images'; there are: {there}. It must hold images uint8 [n h w c], and may hold labels "
            "int [n] and classes str [k]"
        )
    shape, dtype = found["images"]
    if dtype != np.uint8:
        raise DataError(
            f"{path}: images are {dtype}, uint8 in [0, 255] is required (the range of others is not guessed)"
        )
    full = (*shape, 1) if len(shape) == 3 else shape
    if len(full) != 4 or full[3] not in (1, 3) or 0 in full:
        raise DataError(f"{path}: images are {list(shape)}; [n h w], [n h w 1] or [n h w 3] is required")
    return full


def _images(path: Path, header: Header, shape: tuple[int, int, int, int]) -> np.ndarray:
    return array(path, "images", header).reshape(shape)


def _labels(path: Path, header: Header, n: int) -> np.ndarray:
    if header.shape != (n,) or header.dtype.kind not in "iuO":
        raise DataError(f"{path}: labels are {header.dtype}{list(header.shape)}, integers [{n}] are required")
    labels = array(path, "labels", header)
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(present))):
        missing = np.setdiff1d(np.arange(len(present)), present)[:10].tolist()
        problem = f"{present.min()} is negative" if present.min() < 0 else f"no record has label {missing}"
        raise DataError(f"{path}: labels must be 0..k-1 with every class present, and {problem}")
    return labels.astype(np.int32)


def _classes(path: Path, labels: np.ndarray | None, header: Header | None) -> tuple[str, ...]:
    if labels is None:
        if header:
            raise DataError(f"{path}: there are classes but no labels")
        return ()
    count = int(labels.max()) + 1
    if not header:
        return tuple(str(k) for k in range(count))
    names = tuple(str(name) for name in np.atleast_1d(array(path, "classes", header)))
    if len(names) != count or len(set(names)) != count:
        raise DataError(f"{path}: {count} classes are labelled, {len(set(names))} different names are given")
    return names
