"""Small functions u8[h w c] -> u8[h w c], and the one transform that a config describes."""

import math
from dataclasses import MISSING, dataclass, fields

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
    resized = _array(_picture(image).resize((new_width, new_height), Image.BICUBIC))
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return resized[top : top + size, left : left + size]


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _array(picture: Image.Image) -> np.ndarray:
    """u8[h w c]"""
    array = np.asarray(picture)
    return array[:, :, None] if array.ndim == 2 else array


def flip(image: np.ndarray, u: float) -> np.ndarray:
    """u8[h w c], mirrored left to right where the draw ``u``, uniform in [0, 1), is below 1/2."""
    return image[:, ::-1] if u < 0.5 else image


def turned(image: np.ndarray, symmetry: int) -> np.ndarray:
    """[h h c] in one of the square's 8 symmetries: so many quarter turns, and above 3 mirrored before; 0 as it is."""
    if symmetry == 0:
        return image
    return np.rot90(image[:, ::-1] if symmetry > 3 else image, symmetry % 4)


def rotated(image: np.ndarray, degrees: float) -> np.ndarray:
    """u8[h w c] turned counterclockwise about its centre, bicubic; what comes in from outside is its reflection."""
    height, width = image.shape[:2]
    margin = math.ceil((math.hypot(height, width) - min(height, width)) / 2) + 2  # bicubic looks two pixels further
    wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    turned = _array(_picture(wide).rotate(degrees, Image.BICUBIC))
    return turned[margin : margin + height, margin : margin + width]


def jittered(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """u8[h w c] with its distances from its mean times ``contrast``, then all times ``brightness``; rounded half up."""
    mean = image.mean()
    values = (mean + (image - mean) * contrast) * brightness
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


@dataclass(frozen=True, repr=False)
class Transform:
    """Record's image -> example's image. Its repr is its identity: a field at its default, which came later, is not in
    it, so that a run that was begun before there was such a field goes on.

    Attributes:
      shape: (h, w, c) of every result.
      resize: False: an image must have that height and width already.
      flip: mirror at random where draws are given.
      rotate: degrees that an image is turned by at most, either way, where draws are given.
      jitter: brightness and contrast times factors in [1 - jitter, 1 + jitter), where draws are given.
    """

    shape: tuple[int, int, int]
    resize: bool
    flip: bool
    rotate: float = 0.0
    jitter: float = 0.0

    def __repr__(self) -> str:
        said = [f.name for f in fields(self) if f.default is MISSING or getattr(self, f.name) != f.default]
        return f"Transform({', '.join(f'{name}={getattr(self, name)!r}' for name in said)})"

    @property
    def draws(self) -> int:
        """How many uniform numbers an augmented image takes."""
        return self.flip + (self.rotate > 0) + 2 * (self.jitter > 0)

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
        return image if uniforms is None else self._augmented(image, uniforms.tolist())

    def _augmented(self, image: np.ndarray, uniforms: list[float]) -> np.ndarray:
        if self.flip:
            image = flip(image, uniforms.pop(0))
        if self.rotate:
            image = rotated(image, self.rotate * _signed(uniforms.pop(0)))
        if self.jitter:
            image = jittered(image, *(1 + self.jitter * _signed(uniforms.pop(0)) for _ in range(2)))
        return image


def _signed(u: float) -> float:
    """[0, 1) -> [-1, 1)"""
    return 2 * u - 1


def make_transform(
    size: int,
    channels: int,
    flip: bool,
    native: tuple[int, int, int] | None = None,
    *,
    rotate: float = 0.0,
    jitter: float = 0.0,
) -> Transform:
    """The transform of the fields of ``data`` that have these names.

    Args:
      size: side of the square result in pixels; 0 keeps the native size, which all records must then share.
      channels: 1 (grey), 3 (RGB), or 0 to keep the native number.
      flip: mirror training images at random.
      native: ``Dataset.image_shape``.
      rotate: turn training images at random by up to so many degrees either way, in [0, 180].
      jitter: brightness and contrast of training images times factors in [1 - jitter, 1 + jitter), in [0, 1).
    Raises:
      ConfigError: a value out of range, or a native one asked for and not known beforehand.
    """
    if channels not in (0, 1, 3):
        raise ConfigError("data.channels", f"is {channels}; 1 (grey), 3 (RGB) or 0 (as the data is)")
    if not 0 <= rotate <= 180:
        raise ConfigError("data.rotate", f"is {rotate}; degrees in [0, 180], of which 0 turns nothing")
    if not 0 <= jitter < 1:
        raise ConfigError("data.jitter", f"is {jitter}; it must lie in [0, 1), and 0 changes nothing")
    if size < 0:
        raise ConfigError(
            "data.size", f"is {size}; a side in pixels, 0 (as the data is) or -1 (derived from the images)"
        )
    if native is None and size == 0:
        raise ConfigError("data.size", "is 0 (as the data is), but the images' sizes may vary; give a side")
    if native is None and channels == 0:
        raise ConfigError("data.channels", "is 0 (as the data is), but that may vary; give 1 or 3")
    height, width, c = native or (size, size, channels)
    return Transform(
        (size or height, size or width, channels or c), resize=size > 0, flip=flip, rotate=rotate, jitter=jitter
    )
