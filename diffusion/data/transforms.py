"""Small functions u8[h w c] -> u8[h w c], and the one transform that a config describes."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from diffusion.errors import ConfigError, DataError


def channels(image: np.ndarray, c: int) -> np.ndarray:
    """u8[h w 1 or 3] -> u8[h w c]: grey is repeated; RGB becomes its luma (ITU-R BT.601), rounded half up."""
    if image.shape[2] == c:
        return image
    if c == 3:
        return np.repeat(image, 3, axis=2)
    luma = image.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)
    return ((luma + 500) // 1000).astype(np.uint8)[:, :, None]


def resize_crop(image: np.ndarray, size: int) -> np.ndarray:
    """u8[h w c] -> u8[size size c]: the short side is resized to ``size``, then the centre is cropped.

    Pillow's bicubic, whose support grows when it shrinks: no aliasing (Parmar et al. 2022, "On aliased
    resizing", found it faithful) and less ringing than Lanczos. An image that fits already is returned as is.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    new_height, new_width = max(size, round(height * scale)), max(size, round(width * scale))
    grey = image.shape[2] == 1
    resized = np.asarray(
        Image.fromarray(image[:, :, 0] if grey else image).resize((new_width, new_height), Image.BICUBIC)
    )
    top, left = (new_height - size) // 2, (new_width - size) // 2
    cropped = resized[top : top + size, left : left + size]
    return cropped[:, :, None] if grey else cropped


def flip(image: np.ndarray, u: float) -> np.ndarray:
    """u8[h w c], mirrored left to right where the draw ``u``, uniform in [0, 1), is below 1/2."""
    return image[:, ::-1] if u < 0.5 else image


def turned(image: np.ndarray, symmetry: int) -> np.ndarray:
    """[h h c] in one of the square's 8 symmetries: so many quarter turns, and above 3 mirrored before; 0 as it is."""
    if symmetry == 0:
        return image
    return np.rot90(image[:, ::-1] if symmetry > 3 else image, symmetry % 4)


@dataclass(frozen=True)
class Transform:
    """Record's image -> example's image. Its repr is its identity.

    Attributes:
      shape: (h, w, c) of every result.
      resize: False: an image must have that height and width already.
      flip: mirror at random where draws are given.
    """

    shape: tuple[int, int, int]
    resize: bool
    flip: bool

    @property
    def draws(self) -> int:
        """How many uniform numbers an augmented image takes."""
        return int(self.flip)

    def __call__(self, image: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray:
        """u8[h' w' c'] -> u8[h w c], augmented by ``uniforms`` f64[draws] in [0, 1); None: not augmented.

        Raises:
          DataError: ``resize`` is off and the image has another size.
        """
        height, width, c = self.shape
        if self.resize:
            image = resize_crop(image, height)
        elif image.shape[:2] != (height, width):
            found = "x".join(map(str, image.shape[:2]))
            raise DataError(f"is {found} pixels, the set is {height}x{width}; set data.size to resize all")
        image = channels(image, c)
        return flip(image, uniforms[0]) if self.flip and uniforms is not None else image


def make_transform(size: int, channels: int, flip: bool, native: tuple[int, int, int] | None = None) -> Transform:
    """The transform of ``data.size``, ``data.channels`` and ``data.flip``.

    Args:
      size: side of the square result in pixels; 0 keeps the native size, which all records must then share.
      channels: 1 (grey), 3 (RGB), or 0 to keep the native number.
      flip: mirror training images at random.
      native: ``Dataset.image_shape``.
    Raises:
      ConfigError: a value out of range, or a native one asked for and not known beforehand.
    """
    if channels not in (0, 1, 3):
        raise ConfigError("data.channels", f"is {channels}; 1 (grey), 3 (RGB) or 0 (as the data is)")
    if size < 0:
        raise ConfigError(
            "data.size", f"is {size}; a side in pixels, 0 (as the data is) or -1 (derived from the images)"
        )
    if native is None and size == 0:
        raise ConfigError("data.size", "is 0 (as the data is), but the images' sizes may vary; give a side")
    if native is None and channels == 0:
        raise ConfigError("data.channels", "is 0 (as the data is), but that may vary; give 1 or 3")
    height, width, c = native or (size, size, channels)
    return Transform((size or height, size or width, channels or c), resize=size > 0, flip=flip)
