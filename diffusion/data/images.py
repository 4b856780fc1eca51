"""Encoded images -> u8[h w c] with 1 (grey) or 3 (RGB) channels."""

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from diffusion.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

# By content, whatever the name says. Not all that Pillow opens: EPS, for one, is a program that Ghostscript would run.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF")

FLOATS = "floating-point pixels have no known range; save it with 8 bits per channel"
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises on bad files


def decode(source: Path | bytes, name: str) -> np.ndarray:
    """Reads one image; ``name`` says which in the error.

    The image is turned upright as its EXIF tag says. Transparency is composited on white, palettes become
    RGB, 16-bit grey is scaled to 8 bits, and of an animation the first frame is taken.

    Returns:
      u8[h w c], c is 1 for grey images and 3 for all others.
    Raises:
      DataError: it is missing, broken, or of floating-point pixels.
    """
    with _opened(io.BytesIO(source) if isinstance(source, bytes) else source, name) as image:
        pixels = _to_uint8(ImageOps.exif_transpose(image))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


class Header(NamedTuple):
    """What a file says of itself before its pixels: its size once it is upright, and Pillow's name of its mode."""

    height: int
    width: int
    mode: str

    @property
    def grey(self) -> bool:
        """Whether `decode` makes one channel of it."""
        return _is_grey(self.mode)


def header(path: Path) -> Header:
    """Reads no pixels.

    Raises:
      DataError: no image.
    """
    with _opened(path, str(path)) as image:
        # 1 to 8, of which the last four change height and width
        turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # PNG's own getexif decodes the pixels
        width, height = image.size
        if image.format == "TIFF":  # versions of Pillow differ in whether its size is the upright one
            width, height = (image.tag_v2[tag] for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))
        return Header(*((width, height) if turned >= 5 else (height, width)), image.mode)


def check_header(path: Path) -> tuple[int, int]:
    """(h, w) as the file's header says, before an EXIF tag turns it; reads no pixels.

    Raises:
      DataError: no image, or one of floating-point pixels.
    """
    with _opened(path, str(path)) as image:
        if image.mode == "F":
            raise ValueError(FLOATS)
        return image.height, image.width


@contextlib.contextmanager
def _opened(source: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """The image, and for all that goes wrong with it the error that names it."""
    try:
        with Image.open(source, formats=_formats()) as image:
            yield image
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not a readable image (its content is none of: {', '.join(FORMATS)})") from error
    except _UNREADABLE as error:
        raise DataError(f"{name}: not a readable image ({error})") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_grey(mode: str) -> bool:
    """Of Pillow's modes; those of 16 and 32 bits begin with I. A palette is RGB, whatever its colours."""
    return mode in ("1", "L", "LA", "La") or mode.startswith("I")


def _to_uint8(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it at 255
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError(f"pixels in [{wide.min()}, {wide.max()}] do not fit 16 bits")
        return ((wide * 255 + 32767) // 65535).astype(np.uint8)
    if image.mode == "F":
        raise ValueError(FLOATS)
    grey = _is_grey(image.mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("L" if grey else "RGB"))
