"""How a set of files is split: as a seed draws it, or as a file says."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data import split_file
from diffusion.data.listing import Listing, class_of, first_of
from diffusion.data.split import stratified
from diffusion.errors import DataError

ON_DUPLICATES = ("report", "raise")

Parts = dict[str, np.ndarray]  # split -> i64[m], numbers of its records, ascending


@dataclass(frozen=True)
class Splitting:
    """The fields of a source that reads files.

    Attributes:
      seed: ``data.split_seed``.
      val_fraction: share of every class that is validated on; 0 for no split "val".
      test_fraction: share of every class that is tested on, in (0, 1); both together below 1.
      split: a file of `split_file`, taken in place of the seed and both shares; "" for none.
      duplicates: report, or raise: what the same bytes in two splits or two classes are.

    Raises:
      ValueError: begins with the field that cannot be.
    """

    seed: int
    val_fraction: float
    test_fraction: float
    split: str
    duplicates: str

    def __post_init__(self):
        val, test = self.val_fraction, self.test_fraction
        if not 0 < test < 1:
            raise ValueError(f"test_fraction is {test}; a share of the records, above 0 and below 1, is held out")
        if not (val >= 0 and val + test < 1):
            raise ValueError(f"val_fraction is {val}; a share from 0, which with test_fraction={test} lies below 1")
        if self.duplicates not in ON_DUPLICATES:
            raise ValueError(f"duplicates is {self.duplicates!r}; it must be one of: {', '.join(ON_DUPLICATES)}")

    @property
    def drawn(self) -> dict[str, Any]:
        """What decides the split, as plain JSON."""
        if self.split:
            return {"file": self.split}
        return {"seed": self.seed, "val_fraction": self.val_fraction, "test_fraction": self.test_fraction}

    def parts(self, paths: Sequence[str], labels: np.ndarray, classes: tuple[str, ...], where: str) -> Parts:
        """Which of ``paths`` are in each split.

        Args:
          paths: below the folder ``where``.
          labels: i32[n], numbers in ``classes``.
        Raises:
          ValueError: the split file does not fit. DataError: too few files to split.
        """
        if self.split:
            return self._of_file(paths, classes, where)
        found = stratified(labels, self.test_fraction, self.seed, self.val_fraction)
        if lacking := [name for name in ("test", "val") if name in found and not len(found[name])]:
            least, use = {"test": ("two", "testing"), "val": ("three", "validation")}[lacking[0]]
            hint = "; take val_fraction=0" if lacking[0] == "val" else ""
            raise DataError(f"{where}: no class has {least} records, so none can be held out for {use}{hint}")
        return found

    def check_hashes(self, now: Listing) -> None:
        """DataError where the split file speaks of other bytes than a file has now."""
        if not self.split:
            return
        given = {path: content for files in self._given.splits.values() for path, content in files.items()}
        contents = {path: content for files in now.splits.values() for path, content in files.items()}
        if other := [path for path, content in contents.items() if given[path] not in ("", content)]:
            raise DataError(
                f"{self.split}: {len(other)} files are not those that it was made of, by their hashes: "
                f"{first_of(other)}; restore them, or take the hashes out of it"
            )

    def _of_file(self, paths: Sequence[str], classes: tuple[str, ...], where: str) -> Parts:
        given, number = self._given, {path: i for i, path in enumerate(paths)}
        if given.classes and given.classes != classes:
            raise ValueError(
                f"split: {self.split} is of the classes {', '.join(given.classes)}; {where} has {', '.join(classes)}"
            )
        named = [path for files in given.splits.values() for path in files]
        listed = set(named)
        gone, more = [path for path in named if path not in number], [path for path in paths if path not in listed]
        if gone or more:
            problems = [f"{len(gone)} of its files are not there: {first_of(gone)}"] * bool(gone)
            problems += [f"{len(more)} files are not in it: {first_of(more)}"] * bool(more)
            raise ValueError(f"split: {self.split} does not fit {where}: {'; '.join(problems)}")
        trained = set(map(class_of, given.splits["train"]))
        if bare := [name for name in classes if name not in trained]:
            raise ValueError(f"split: {self.split} has no file of class {bare[0]!r} in 'train'")
        return {name: np.sort([number[path] for path in files]) for name, files in given.splits.items() if files}

    @functools.cached_property
    def _given(self) -> Listing:
        path = Path(self.split).expanduser()
        try:
            return split_file.parsed(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"split: {path} is no split file ({error}); see split.json of a run") from error
