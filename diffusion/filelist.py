"""The list of a step's files, with which a damaged one is found before anything else reads it.

`write_list` runs when all files are written and before the rename that makes the step visible, so that a step
whose save was killed has neither name nor list.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from diffusion.manifest import Damaged, sealed, unsealed

NAME = "files.json"
FOLDERS = ("state", "meta")  # all that is ever read; Orbax's own notes beside them come later and are not
THREADS = 8


def write_list(step: Path) -> None:
    """Size and sha256 of every file of a step's folders, sealed, into ``files.json``."""
    files = [path for folder in FOLDERS for path in sorted((step / folder).rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(THREADS) as pool:
        facts = dict(zip((path.relative_to(step).as_posix() for path in files), pool.map(_facts, files), strict=True))
    (step / NAME).write_text(json.dumps(sealed({"files": facts})))


def check_list(step: Path) -> None:
    """Raises Damaged, naming the file, where one is missing or is not what was written.

    Files that are not on the list are of no account. A step without a list passes: others verify it.
    """
    path = step / NAME
    if not path.exists():
        return
    files = unsealed(path.read_bytes().decode(errors="replace"), NAME)["files"]
    for name, saved in files.items():
        if not (step / name).is_file():
            raise Damaged(f"{name} is missing")
        size = (step / name).stat().st_size
        if size != saved["bytes"]:
            raise Damaged(f"{name} holds {size} bytes instead of {saved['bytes']}")
    with ThreadPoolExecutor(THREADS) as pool:
        for name, found in zip(files, pool.map(_facts, [step / name for name in files]), strict=True):
            if found != files[name]:
                raise Damaged(f"{name} does not match its checksum")


def _facts(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
