"""Sheets of sample images, and PNG files that are whole or absent."""

import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LEGIBLE = 48  # pixels a tile is enlarged to, at least
PAPER, INK = 255, 0


def grid(
    images: np.ndarray,
    columns: int,
    *,
    scale: int | None = None,
    labels: Sequence[str] = (),
    pad: int = 2,
) -> np.ndarray:
    """Images side by side on white, row after row.

    Args:
      images: u8[n h w c] in [0, 255], c = 1 or 3; the last row may be incomplete.
      columns: images per row.
      scale: whole factor of nearest-neighbour enlargement; by default what brings h to 48 pixels or more.
      labels: one text per row, written at its left; none by default.
      pad: pixels between tiles.

    Returns:
      u8[H W c].

    Raises:
      ValueError: the images are not u8[n h w 1|3], or the labels do not match the rows.
    """
    _check(images, "n h w 1|3", 4)
    n, h, w, c = images.shape
    rows = math.ceil(n / columns)
    if labels and len(labels) != rows:
        raise ValueError(f"labels: {len(labels)} texts for {rows} rows of images; give one per row")
    scale = scale or max(1, math.ceil(LEGIBLE / h))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    tall, wide = h * scale + pad, w * scale + pad
    sheet = np.full((rows * tall + pad, columns * wide + pad, c), PAPER, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = pad + i // columns * tall, pad + i % columns * wide
        sheet[top : top + h * scale, left : left + w * scale] = tile
    return np.concatenate([_margin(labels, sheet.shape[0], tall, c), sheet], axis=1) if labels else sheet


def png(image: np.ndarray) -> bytes:
    """The PNG of u8[h w 1|3]. Raises ValueError for anything else, floats above all."""
    _check(image, "h w 1|3", 3)
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def save_png(path: str | Path, image: np.ndarray) -> Path:
    """Write u8[h w 1|3] to ``path`` and return it; a reader never sees half a file. Folders are made."""
    path = Path(path)
    data = png(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    part.write_bytes(data)
    os.replace(part, path)
    return path


def save_each(folder: Path, images: np.ndarray, classes: Sequence[str] = ()) -> Path:
    """Write ``folder``/CLASS/NUMBER.png, numbers from 0 within each class, and return ``folder``.

    What an earlier call left in the same class folders is replaced as a whole; other folders and files stay.

    Args:
      images: u8[n h w 1|3].
      classes: the class of each image; none by default, and the files lie in ``folder`` itself.
    """
    numbers: Counter[Path] = Counter()
    for image, name in zip(images, classes or [""] * len(images), strict=True):
        own = folder / name.replace("/", "_")
        save_png(own / f"{numbers[own]:06d}.png", image)
        numbers[own] += 1
    for own, number in numbers.items():
        for path in own.glob("[0-9]" * 6 + ".png"):
            if int(path.stem) >= number:
                path.unlink()
    return folder


def _margin(labels: Sequence[str], height: int, tall: int, channels: int) -> np.ndarray:
    """The column of row names: u8[height W channels], black on white, as wide as its longest name."""
    font = ImageFont.load_default(size=max(10, min(18, tall // 2)))
    width = math.ceil(max(font.getlength(text) for text in labels)) + 10
    page = Image.new("L", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    for row, text in enumerate(labels):
        draw.text((width - 5, row * tall + tall / 2), text, INK, font=font, anchor="rm")
    return np.asarray(page)[..., None].repeat(channels, axis=-1)


def _check(images: np.ndarray, letters: str, rank: int) -> None:
    if images.dtype != np.uint8 or images.ndim != rank or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"images must be u8[{letters}] in [0, 255], got {images.dtype}{list(images.shape)}")
