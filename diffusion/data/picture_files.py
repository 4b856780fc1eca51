"""The images that a person names by a path: one file, a folder of files, or an npz."""

from pathlib import Path

import numpy as np

from diffusion.data import archive
from diffusion.data.folder import is_image, listed
from diffusion.data.images import SUFFIXES, decode
from diffusion.errors import DataError


def picture_files(path: str) -> list[tuple[str, np.ndarray]]:
    """[(name, u8[h w 1 or 3])] of an image file, of a folder's image files by name, or of an npz's ``images``.

    Images may differ in size; grey ones have one channel.

    Raises:
      DataError: nothing is there, or an image cannot be read; the path is named.
    """
    where = Path(path).expanduser()
    if not where.exists():
        raise DataError(f"{where} does not exist; give an image, a folder of images, or an .npz that holds images")
    if where.suffix == ".npz":
        return [(f"{where}[{i}]", image) for i, image in enumerate(_of_npz(where))]
    files = listed(where, is_image) if where.is_dir() else [where]
    if not files:
        folders = listed(where, lambda entry: entry.is_dir() and not entry.name.startswith("."))
        within = f"; it holds folders: give one of them, as {folders[0]}" if folders else ""
        raise DataError(f"{where} holds no images ({' '.join(SUFFIXES)}){within}")
    return [(str(file), decode(file, str(file))) for file in files]


def _of_npz(path: Path) -> np.ndarray:
    told = archive.headers(path)
    if "images" not in told:
        raise DataError(f"{path}: no array 'images'; there are: {', '.join(sorted(told)) or 'none'}")
    shape, dtype = told["images"]
    full = (*shape, 1) if len(shape) == 3 else shape
    if dtype != np.uint8 or len(full) != 4 or full[3] not in (1, 3) or 0 in full:
        raise DataError(f"{path}: images are {dtype}{list(shape)}; uint8 [m h w], [m h w 1] or [m h w 3] is required")
    return archive.array(path, "images", told["images"]).reshape(full)
