"""Images that sampling starts from or is shown, and masks of the pixels that are to stay."""

from dataclasses import replace

import numpy as np
from PIL import Image

from diffusion.data.picture_files import picture_files
from diffusion.data.transforms import Transform
from diffusion.errors import ConfigError, DataError


def start_images(path: str, transform: Transform) -> np.ndarray:
    """u8[m h w c] of an image, an npz's ``images`` or a folder's images by name, each through the run's transform.

    Raises:
      ConfigError: no image there, one that cannot be read, or one that does not fit the run.
    """
    return np.stack([_fitted(name, image, transform) for name, image in _read("sample.start", path)])


def support_images(path: str, transform: Transform) -> np.ndarray:
    """u8[m h w c] of what stands there, of any size and mode: the short side is resized, the centre cropped.

    Raises:
      ConfigError: no image there, or one that cannot be read.
    """
    fitting = replace(transform, resize=True)
    return np.stack([fitting(image, None) for _, image in _read("sample.support", path)])


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


def _read(field: str, path: str) -> list[tuple[str, np.ndarray]]:
    try:
        return picture_files(path)
    except DataError as error:
        raise ConfigError(field, str(error)) from error


def _fitted(name: str, image: np.ndarray, transform: Transform) -> np.ndarray:
    try:
        return transform(image, None)
    except DataError as error:
        (h, w), (height, width, _) = image.shape[:2], transform.shape
        raise ConfigError("sample.start", f"{name} is {h}x{w} pixels, the run's images are {height}x{width}") from error
