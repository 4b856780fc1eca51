"""A folder that appears whole or not at all: until then it stands beside its place as ``.NAME.partial``, with a plan.

A file in it is whole as soon as it has its name. One process writes.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PLAN, LOCK = "plan.json", ".lock"


def partial_of(folder: Path) -> Path:
    """Where the files of ``folder`` stand until all are there."""
    return folder.with_name(f".{folder.name}.partial")


def go_on(partial: Path, plan: Mapping[str, Any]) -> list[str]:
    """Names of the files that are there already; what was begun after another plan, or is not whole, is deleted.

    Args:
      plan: all that decides the files, as plain JSON.
    """
    path = partial / PLAN
    try:
        same = json.loads(path.read_text()) == plan
    except (OSError, ValueError):
        same = False
    found = {file.name for file in partial.iterdir()} - {PLAN, LOCK}
    kept = {name for name in found if same and not name.startswith(".")}
    for name in found - kept:
        (partial / name).unlink()
    if not same:
        with whole_file(path) as writing:
            writing.write_text(json.dumps(plan))
    return sorted(kept)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what is to appear at ``path`` once all of it is there."""
    writing = path.with_name(f".{path.name}")
    try:
        yield writing
        os.replace(writing, path)
    finally:
        writing.unlink(missing_ok=True)


def put_in_place(folder: Path) -> None:
    """All files are there: the folder appears, which may stand there already if it is empty."""
    partial = partial_of(folder)
    for name in (PLAN, LOCK):
        (partial / name).unlink()
    partial.rename(folder)
