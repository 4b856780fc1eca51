"""Images that any program made, to be measured: an npz, a folder of class folders, or a flat folder."""

import difflib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data import archive
from diffusion.data.archive import Header
from diffusion.data.folder import FileRecords, is_image, listed, scan
from diffusion.data.images import SUFFIXES, check_header
from diffusion.data.transforms import channels
from diffusion.errors import ConfigError, DataError

FIELD = "eval.images"
THREADS = 8
# Beside our own names those of guided-diffusion's sample files.
NAMES = {"images": ("images", "arr_0"), "labels": ("labels", "arr_1"), "prompts": ("prompts",), "ids": ("ids",)}

Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class GivenImages:
    """n images; labels and counts are known, pixels are read when they are asked for.

    Attributes:
      path: where they come from.
      shape: (h, w, c) of every image, as the data set's; grey is repeated and RGB becomes its luma as for real ones.
      labels: i32[n], classes of the data set; None for unlabelled images.
      prompts: the text that each was made from, or None.
      ids: i32[n] >= 0, the reference image that each belongs to, or None.
      fingerprint: () -> sha256 (hex) of all of it, read once. DataError where an archive is damaged.
      count: n.
      read: i -> u8[h w 1 or 3] as it is stored.
      name: i -> where it comes from, for people.
    """

    path: Path
    shape: Shape
    labels: np.ndarray | None
    prompts: tuple[str, ...] | None
    ids: np.ndarray | None
    fingerprint: Callable[[], str]
    count: int
    read: Callable[[int], np.ndarray]
    name: Callable[[int], str]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> np.ndarray:
        """u8[h w c].

        Raises:
          DataError: it is broken, or of another size.
        """
        image = self.read(i)
        if image.shape[:2] != self.shape[:2]:
            raise DataError(f"{self.name(i)}: {_other_size(image.shape[:2], self.shape)}")
        return channels(image, self.shape[2])

    def chunks(self, size: int, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (i[m], u8[m h w c]) for the rows asked for, in their order, at most ``size`` at once."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                yield part, np.stack(list(pool.map(self.__getitem__, part)))


def open_images(path: str, classes: Sequence[str], shape: Shape, field: str = FIELD) -> GivenImages:
    """Opens ``path`` and checks all that can be told without pixels.

    An .npz holds ``images`` u8[n h w c] (c is 1 or 3) or u8[n h w], and if it has them ``labels`` i[n], ``prompts``
    str[n], ``ids`` i[n] and ``classes`` str[k], the names that its labels count; other classes than the data set's are
    matched by name. Uncompressed (numpy.savez) it stays on the disk; compressed it is read whole.
    In a folder, class folders bear the names of the data set's classes, or their numbers; a folder of image files
    alone is unlabelled.

    Args:
      classes: names of the data set's classes, () where it has none.
      shape: (h, w, c) of the data set's images.
      field: of the config, that names them.

    Raises:
      ConfigError: no such path, or what is there does not fit the data set; the file is named.
    """
    if not path:
        raise ConfigError(field, "is empty; give an .npz file or a folder of images")
    where = Path(path).expanduser()
    if not where.exists():
        raise ConfigError(field, f"{where} does not exist; give an .npz file or a folder of images")
    try:
        return _from_folder(where, classes, shape) if where.is_dir() else _from_npz(where, classes, shape)
    except DataError as error:
        raise ConfigError(field, str(error)) from error


def _from_npz(path: Path, classes: Sequence[str], shape: Shape) -> GivenImages:
    if path.suffix != ".npz":
        raise DataError(f"{path}: neither a folder nor an .npz file")
    told = archive.headers(path)
    names = {what: next((name for name in known if name in told), None) for what, known in NAMES.items()}
    images = _npz_images(path, names["images"], told, shape)

    def column(what: str, kinds: str, wanted: str) -> np.ndarray | None:
        name = names[what]
        if name is None:
            return None
        if told[name].shape != (len(images),) or told[name].dtype.kind not in kinds:
            raise DataError(f"{path}: {name} is {told[name].dtype}{list(told[name].shape)}, not {wanted}")
        return archive.array(path, name, told[name])

    n = len(images)
    labels = column("labels", "iu", f"integers [{n}]")
    if labels is not None:
        labels = _checked_labels(path, _renamed(path, labels, told, classes), classes)
    ids = column("ids", "iu", f"integers [{n}]")
    if ids is not None and ids.min() < 0:
        raise DataError(f"{path}: ids count reference images from 0; number {ids.argmin()} is {ids.min()}")
    prompts = column("prompts", "U", f"strings [{n}]")
    read = [name for name in (*names.values(), "classes" if "classes" in told else None) if name]
    return GivenImages(
        *(path, shape, labels),
        None if prompts is None else tuple(prompts.tolist()),
        None if ids is None else ids.astype(np.int32),
        functools.cache(functools.partial(archive.sha256, path, read)),
        *(n, images.__getitem__, lambda i: f"{path}[{i}]"),
    )


def _npz_images(path: Path, name: str | None, told: dict[str, Header], shape: Shape) -> np.ndarray:
    """u8[n h w c], c as in the file."""
    if name is None:
        raise DataError(f"{path}: no array 'images'; there are: {', '.join(sorted(told)) or 'none'}")
    header = told[name]
    full = (*header.shape, 1) if len(header.shape) == 3 else header.shape
    if header.dtype != np.uint8:
        raise DataError(f"{path}: {name} are {header.dtype}; save uint8 in [0, 255], as the range is not guessed")
    if len(full) != 4 or full[3] not in (1, 3):
        raise DataError(f"{path}: {name} are {list(header.shape)}; [n h w], [n h w 1] or [n h w 3] is required")
    if full[0] == 0:
        raise DataError(f"{path}: {name} holds no images")
    if full[1:3] != shape[:2]:
        raise DataError(f"{path}: {_other_size(full[1:3], shape)}")
    return archive.mapped(path, name, header).reshape(full)


def _renamed(path: Path, labels: np.ndarray, told: dict[str, Header], classes: Sequence[str]) -> np.ndarray:
    """Labels that count the file's own ``classes`` become the data set's."""
    if "classes" not in told:
        return labels
    own = [str(name) for name in np.atleast_1d(archive.array(path, "classes", told["classes"]))]
    _checked_labels(path, labels, own)
    numbers = np.array([_number(f"{path}: class", name, classes) for name in own])
    return numbers[labels]


def _checked_labels(path: Path, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    if not classes:
        raise DataError(f"{path}: there are labels, but the data set has no classes; leave them out")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if wrong.size:
        raise DataError(
            f"{path}: {wrong.size} labels are not in 0..{len(classes) - 1} (the data set's {len(classes)} classes); "
            f"the first is {labels[wrong[0]]}, of image {wrong[0]}"
        )
    return labels.astype(np.int32)


def _from_folder(base: Path, classes: Sequence[str], shape: Shape) -> GivenImages:
    flat = listed(base, is_image)
    folders = listed(base, lambda entry: entry.is_dir() and not entry.name.startswith("."))
    if flat and folders:
        raise DataError(
            f"{base}: holds images ({flat[0].name}) and class folders ({folders[0].name}); have one of both"
        )
    if not flat and not folders:
        raise DataError(f"{base}: no images; it must hold {' '.join(SUFFIXES)} files, or a folder of them per class")
    labels, files = None, tuple(flat)
    if folders:
        if not classes:
            raise DataError(f"{base}: there are class folders ({folders[0].name}), but the data set has no classes")
        names, files, found = scan(base)
        labels = np.array([_number(f"{base}: class folder", name, classes) for name in names], np.int32)[found]
    _check_files(files, shape)
    records = FileRecords(base, files, np.full(len(files), -1, np.int32), labelled=False)
    return GivenImages(
        *(base, shape, labels, None, None, lambda: records.fingerprint),
        *(len(files), lambda i: records[i].image, records.name),
    )


def _check_files(files: Sequence[Path], shape: Shape) -> None:
    """Refuses what an image's header tells; a picture that is turned by its EXIF tag is judged when it is read."""
    with ThreadPoolExecutor(THREADS) as pool:
        for path, size in zip(files, pool.map(check_header, files), strict=True):
            if shape[:2] not in (size, size[::-1]):
                raise DataError(f"{path}: {_other_size(size, shape)}")


def _number(what: str, name: str, classes: Sequence[str]) -> int:
    """The class of that name, or else of that number."""
    known = {str(i): i for i in range(len(classes))} | {name: i for i, name in enumerate(classes)}
    if name not in known:
        close = difflib.get_close_matches(name, classes, 3, cutoff=0.5)
        said = f"close: {', '.join(close)}" if close else f"the first are {', '.join(classes[:3])}"
        raise DataError(f"{what} {name!r} is none of the data set's {len(classes)} classes ({said})")
    return known[name]


def _other_size(size: tuple[int, ...], shape: Shape) -> str:
    (h, w), (height, width, _) = size, shape
    right = f"data.size={h} would fit them" if h == w else "no data.size fits them, as it makes squares"
    return f"images are {h}x{w} pixels, the data set's are {height}x{width}; {right}"
