"""Which file of a set is in which split, and how two such lists differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

SPLITS = ("train", "val", "test")
NAMED = 5  # files of each kind that an error names


@dataclass(frozen=True)
class Listing:
    """The files of a set by split.

    Attributes:
      classes: names, each that of the folder that holds a class's files.
      splits: split -> {path below the set's folder, with slashes: sha256 of the file's bytes, or "" if unknown}.
      drawn: what decided the split, as plain JSON.
      refuse_duplicates: the same bytes in two splits or two classes are an error.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Mapping[str, str]]
    drawn: Mapping[str, Any]
    refuse_duplicates: bool = False

    def counts(self) -> dict[str, dict[str, int]]:
        """{split: {class: files}}, classes without a file included."""
        found = {split: dict.fromkeys(self.classes, 0) for split in self.splits}
        for split, files in self.splits.items():
            for path in files:
                found[split][class_of(path)] += 1
        return found


def class_of(path: str) -> str:
    """Name of the folder that a file lies in."""
    return PurePosixPath(path).parent.name


def differences(saved: Listing, now: Listing) -> dict[str, list[str]]:
    """Kind -> files, as an error names them; kinds without any are left out. An unknown hash equals every other."""
    old = {path: (split, content) for split, files in saved.splits.items() for path, content in files.items()}
    new = {path: (split, content) for split, files in now.splits.items() for path, content in files.items()}
    both = [path for path in old if path in new]
    found = {
        "missing": [path for path in old if path not in new],
        "new": [path for path in new if path not in old],
        "changed": [path for path in both if old[path][1] != new[path][1] and old[path][1] and new[path][1]],
        "moved to another split": [
            f"{path} ({old[path][0]}, now {new[path][0]})" for path in both if old[path][0] != new[path][0]
        ],
    }
    return {kind: files for kind, files in found.items() if files}


def said(found: Mapping[str, list[str]]) -> str:
    """A line for each kind: how many, and the first of them."""
    return "\n".join(f"  {len(files)} {kind}: {first_of(files)}" for kind, files in found.items())


def first_of(files: list[str], most: int = NAMED) -> str:
    """The first few, and a sign where there are more."""
    return ", ".join(files[:most]) + ", …" * (len(files) > most)
