"""The sha256 of files' bytes."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from diffusion.errors import DataError

THREADS = 8


def sha256s(files: Sequence[Path]) -> list[str]:
    """Hex of each file's bytes.

    Raises:
      DataError: a file cannot be read; it is named.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(sha256, files))


def sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error}); the bytes of every file are the set's identity, so none of them can be "
            "left out: make it readable or remove it"
        ) from error
