"""What the headers of a set's image files say, before any pixel is read."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data.images import Header, header
from diffusion.errors import DataError

LOOKED_AT = 1000  # headers at most, evenly over the files
THREADS = 8


@dataclass(frozen=True)
class Headers:
    """A look at some files.

    Attributes:
      counts: all files of each class, by name.
      seen: the headers that were read, of files in their order.
    """

    counts: Mapping[str, int]
    seen: tuple[Header, ...]


def look(files: Sequence[Path], counts: Mapping[str, int]) -> Headers:
    """Of at most LOOKED_AT files; what cannot be opened is left out, and is an error when it is read.

    Raises:
      DataError: none of them can be opened.
    """
    chosen = np.unique(np.linspace(0, len(files) - 1, min(len(files), LOOKED_AT)).round().astype(int))
    with ThreadPoolExecutor(THREADS) as pool:
        seen = tuple(filter(None, pool.map(_header, (files[i] for i in chosen))))
    if not seen:
        header(files[chosen[0]])
        raise DataError(f"{files[chosen[0]]} and the others became readable only now; start again")
    return Headers(counts, seen)


def _header(path: Path) -> Header | None:
    try:
        return header(path)
    except DataError:
        return None
