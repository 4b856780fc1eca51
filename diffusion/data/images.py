"""Encoded images -> u8[h w c] with 1 (grey) or 3 (RGB) channels."""

import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from diffusion.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

# By content, whatever the name says. Not all that Pillow opens: EPS, for one, is a program that Ghostscript would run.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF")

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
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as image:
            pixels = _to_uint8(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not a readable image (its content is none of: {', '.join(FORMATS)})") from error
    except _UNREADABLE as error:
        raise DataError(f"{name}: not a readable image ({error})") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def check_header(path: Path) -> tuple[int, int]:
    """(h, w) as the file's header says, before an EXIF tag turns it; reads no pixels.

    Raises:
      DataError: no image, or one of floating-point pixels.
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            if image.mode == "F":
                raise ValueError("floating-point pixels have no known range; save it with 8 bits per channel")
            return image.height, image.width
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not a readable image (its content is none of: {', '.join(FORMATS)})") from error
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable image ({error})") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_uint8(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it at 255
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError(f"pixels in [{wide.min()}, {wide.max()}] do not fit 16 bits")
        return ((wide * 255 + 32767) // 65535).astype(np.uint8)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 bits per channel")
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("L" if grey else "RGB"))
