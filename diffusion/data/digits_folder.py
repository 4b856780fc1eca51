"""scikit-learn's digits as a folder of class folders of PNGs, some classes much smaller than the others."""

import errno
import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion.data.digits import CLASSES, DIGITS_PER_CLASS, SHAPE, load_digits
from diffusion.data.folder import folder, paths_below, scan
from diffusion.data.listing import first_of
from diffusion.data.order import permuted
from diffusion.data.records import Dataset, Record, Records, opener
from diffusion.data.splitting import Splitting
from diffusion.errors import ConfigError, DataError

_DRAW = 7  # stream of the seed, of which each class has its own


def digits_folder(
    root: str,
    seed: int,
    *,
    cut: tuple[str, ...] = ("3", "5", "8"),
    kept: int = 60,
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    split: str = "",
    duplicates: str = "report",
) -> Dataset:
    """The images of `digits` as ``root``/DIGIT/NUMBER.png, read as `folder` reads any other set.

    They are written when a split's images or files are first asked for, whole or not at all; what the set holds is
    known without. NUMBER counts a digit's images in scikit-learn's order.

    Args:
      cut: digits of which only ``kept`` images are there, drawn by ``seed``, before anything is split.
      kept: at least 3, so that each split has one of each.
      val_fraction, test_fraction, split, duplicates: as of `folder`.
    Raises:
      ConfigError: no root is given. ValueError: begins with the field that cannot be. DataError: when it is opened,
        ``root`` holds something else.
    """
    if not root:
        raise ConfigError("data.root", "is empty; give the folder that the digits are written to: {workdir}/digits")
    if unknown := [digit for digit in cut if digit not in CLASSES]:
        raise ValueError(f"cut names {unknown[0]!r}, which is none of {', '.join(CLASSES)}")
    if not 3 <= kept <= min(DIGITS_PER_CLASS):
        raise ValueError(f"kept is {kept}; it must lie in [3, {min(DIGITS_PER_CLASS)}]")
    how = Splitting(seed, val_fraction, test_fraction, split, duplicates)
    base, numbers = Path(root).expanduser(), _numbers(cut, kept, seed)
    paths = [_path(label, number) for label, row in enumerate(numbers) for number in row]
    labels = np.repeat(np.arange(len(CLASSES), dtype=np.int32), [len(row) for row in numbers])
    parts = how.parts(paths, labels, CLASSES, str(base))

    @functools.cache
    def walked() -> Dataset:
        _write(base, numbers)
        _check(base, paths)
        fields = dict(val_fraction=val_fraction, test_fraction=test_fraction, split=split, duplicates=duplicates)
        return folder(str(base), seed, **fields)

    def split_of(name: str) -> Records:
        return _Walked(lambda: walked().open(name), labels[parts[name]])

    return Dataset(
        name="digits_folder",
        classes=CLASSES,
        sizes={name: len(part) for name, part in parts.items()},
        image_shape=SHAPE,
        open=opener({name: functools.partial(split_of, name) for name in parts}),
        listing=lambda: walked().listing(),
    )


@dataclass(frozen=True, eq=False)
class _Walked:
    """Records whose labels i32[n] are known before their files are there."""

    opened: Callable[[], Records]
    labels: np.ndarray
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Record:
        return self.opened()[i]

    def name(self, i: int) -> str:
        return self.opened().name(i)

    @property
    def fingerprint(self) -> str:
        return self.opened().fingerprint


def _numbers(cut: Sequence[str], kept: int, seed: int) -> list[np.ndarray]:
    """Of each class, the ascending numbers of its images that are there."""
    found = []
    for label, (name, n) in enumerate(zip(CLASSES, DIGITS_PER_CLASS, strict=True)):
        found.append(np.sort(permuted(n, seed, _DRAW, label)[:kept]) if name in cut else np.arange(n))
    return found


def _path(label: int, number: int) -> str:
    return f"{CLASSES[label]}/{number:03d}.png"


def _write(base: Path, numbers: Sequence[np.ndarray]) -> None:
    """The folder, unless something is there; another process may be faster."""
    if base.exists() and not base.is_dir():
        raise ConfigError("data.root", f"{base} is not a folder")
    if base.is_dir() and any(base.iterdir()):
        return
    base.parent.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits()
    with tempfile.TemporaryDirectory(dir=base.parent, prefix=f".{base.name}.") as partial:
        whole = Path(partial) / base.name
        for label, row in enumerate(numbers):
            (whole / CLASSES[label]).mkdir(parents=True)
            for number, image in zip(row, images[labels == label][row], strict=True):
                Image.fromarray(image[:, :, 0]).save(whole / _path(label, number))
        try:
            os.rename(whole, base)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _check(base: Path, paths: Sequence[str]) -> None:
    """Raises DataError where the folder holds anything but these files."""
    _, files, _ = scan(base)
    there, wanted = set(paths_below(base, files)), set(paths)
    if there != wanted:
        problems = {"are missing": sorted(wanted - there), "are none of them": sorted(there - wanted)}
        listed = "; ".join(f"{len(names)} {what}: {first_of(names)}" for what, names in problems.items() if names)
        raise DataError(
            f"{base}: is there, and is not the {len(paths)} digits of these fields (data.split_seed, "
            f"data.digits_folder.cut, kept): {listed}; remove it, or give another data.root"
        )
