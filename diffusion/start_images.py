"""Images that sampling starts from, and masks of the pixels that are to stay."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion.data.transforms import Transform
from diffusion.errors import ConfigError, DataError


def start_images(path: str, transform: Transform) -> np.ndarray:
    """u8[m h w c] of a PNG, of an npz's ``images``, or of a folder's PNGs by name, each through the run's transform.

    Raises:
      ConfigError: no image there, one that cannot be read, or one that does not fit the run.
    """
    try:
        found = [_fitted(name, image, transform) for name, image in _read(Path(path))]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError("sample.start", f"{path} cannot be read: {error}") from error
    if not found:
        raise ConfigError("sample.start", f"{path} holds no PNG")
    return np.stack(found)


def known_mask(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    """bool[h w 1] of a PNG: True where it is white (128 or more), the pixels that stay.

    Raises:
      ConfigError: it cannot be read, or has another size than the run's images.
    """
    try:
        mask = np.asarray(Image.open(path).convert("L"))
    except (OSError, ValueError) as error:
        raise ConfigError("sample.mask", f"{path} cannot be read: {error}") from error
    if mask.shape != shape[:2]:
        sizes = ("x".join(map(str, size)) for size in (mask.shape, shape[:2]))
        raise ConfigError("sample.mask", "{} is {} pixels, the run's images are {}".format(path, *sizes))
    return mask[:, :, None] >= 128


def _read(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            images = arrays["images"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"images are {images.dtype}{list(images.shape)}, not uint8 [m h w 1|3]")
        yield from ((f"{path}[{i}]", image) for i, image in enumerate(images))
        return
    for file in sorted(path.glob("*.png")) if path.is_dir() else [path]:
        image = Image.open(file)
        pixels = np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
        yield str(file), pixels if pixels.ndim == 3 else pixels[:, :, None]


def _fitted(name: str, image: np.ndarray, transform: Transform) -> np.ndarray:
    try:
        return transform(image, None)
    except DataError as error:
        (h, w), (height, width, _) = image.shape[:2], transform.shape
        raise ConfigError("sample.start", f"{name} is {h}x{w} pixels, the run's images are {height}x{width}") from error
