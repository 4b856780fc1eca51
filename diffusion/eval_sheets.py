"""Sheets of images that belong to an evaluation: best and worst classes, sets, and pairs that look like copies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffusion.canvas import brief
from diffusion.pictures import PAPER, grid

GAP = 22  # pixels between two blocks
BLACK, GREY = 0, 105
HEAD, SMALL = 15, 12  # sizes of type
PAIRS, PAIR_COLUMNS = 16, 4
PAIR_TITLE = "generated | nearest training image, most alike first"


@dataclass(frozen=True, eq=False)
class ClassImages:
    """What is shown of one class.

    Attributes:
      name: the class.
      figure: its numbers in words, "excess 2.1 ± 0.3, n 100".
      real, generated: u8[r h w c], r at least 0, of one size; a class of two images has two.
      support: u8[r h w c], what the generated ones were conditioned on; None where they were not.
    """

    name: str
    figure: str
    real: np.ndarray
    generated: np.ndarray
    support: np.ndarray | None = None


def class_sheet(worst: Sequence[ClassImages], best: Sequence[ClassImages], columns: int = 8) -> np.ndarray:
    """A row per class, real images at the left and generated ones at the right, the worst classes above the best.

    Tiles that a class has no image for stay white; images beyond ``columns`` are left out.

    Returns:
      u8[H W c].

    Raises:
      ValueError: no class, images that are not u8[r h w 1|3], or of several sizes.
    """
    return _sheet({"worst": worst, "best": best}, dict.fromkeys(("real", "generated"), columns))


def set_sheet(parts: Mapping[str, Sequence[ClassImages]], columns: Mapping[str, int]) -> np.ndarray:
    """A row per set with its support, generated and perhaps real images side by side, below the title of its part.

    Args:
      parts: sets by title; a part without sets is left out.
      columns: tiles of "support", "generated", "real", as far as these are to be shown; what a set has no image for
        stays white.

    Returns:
      u8[H W c].

    Raises:
      ValueError: as `class_sheet`.
    """
    return _sheet(parts, columns)


def _sheet(parts: Mapping[str, Sequence[ClassImages]], columns: Mapping[str, int]) -> np.ndarray:
    everything = [one for some in parts.values() for one in some]
    shapes = {getattr(one, side).shape[1:] for one in everything for side in columns}
    if len(shapes) != 1:
        raise ValueError(f"the images of a sheet have one size [h w c]; these have {sorted(shapes) or 'no class'}")
    texts = [word for one in everything for word in _words(one)] + [(title, HEAD) for title in parts]
    width = 12 + max(_width(text, size) for text, size in texts)
    sections = [_section(title, some, columns, math.ceil(width)) for title, some in parts.items() if some]
    return np.concatenate([sections[0], *(_above(section, GAP // 2) for section in sections[1:])])


def support_sheet(support: np.ndarray, generated: np.ndarray, columns: int = 16) -> np.ndarray:
    """What images were conditioned on at the left, as high as a few columns make it, and the images at the right.

    Args:
      support, generated: u8[m h w c] and u8[n h w c].

    Returns:
      u8[H W c].
    """
    columns = min(len(generated), columns)
    rows = math.ceil(len(generated) / columns)
    wide = math.ceil(len(support) / rows)
    blocks = [grid(support, min(len(support), max(wide, 2))), grid(generated, columns)]
    tall, least = max(block.shape[0] for block in blocks), math.ceil(_width("generated", SMALL + 1)) + 4
    blocks = [_padded(_lower(block, tall), max(least, block.shape[1])) for block in blocks]
    gap = np.full((tall, GAP, support.shape[-1]), PAPER, np.uint8)
    sheet = _above(np.concatenate([blocks[0], gap, blocks[1]], axis=1), SMALL + 10)
    at = blocks[0].shape[1] + GAP
    return _written(sheet, [(2, 4, "support", GREY, SMALL + 1), (at, 4, "generated", GREY, SMALL + 1)])


def pair_sheet(generated: np.ndarray, nearest: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """Pairs of a generated image and its nearest training image with words below, four to a row, at most 16.

    Args:
      generated, nearest: u8[p h w c], the most suspicious pair first.
      words: of each pair, "ratio 0.12".

    Returns:
      u8[H W c].

    Raises:
      ValueError: no pair, images that are not u8[p h w 1|3], or counts that differ.
    """
    if generated.shape != nearest.shape or len(words) != len(generated) or not len(words):
        raise ValueError(
            f"{list(generated.shape)} generated, {list(nearest.shape)} nearest images and {len(words)} texts "
            "do not make pairs; give as many of each, one or more"
        )
    cells = [
        _beneath(np.concatenate([grid(one[None], 1), grid(other[None], 1)], axis=1), text)
        for one, other, text in list(zip(generated, nearest, words, strict=True))[:PAIRS]
    ]
    wide = max(cell.shape[1] for cell in cells)
    cells = [_padded(cell, wide + GAP) for cell in cells]
    columns = min(PAIR_COLUMNS, len(cells))
    blank = np.full_like(cells[0], PAPER)
    cells += [blank] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
    sheet = _padded(_above(np.concatenate(rows), HEAD + 14), math.ceil(_width(PAIR_TITLE, HEAD)) + 12)
    return _written(sheet, [(2, 6, PAIR_TITLE, BLACK, HEAD)])


def _section(title: str, classes: Sequence[ClassImages], columns: Mapping[str, int], width: int) -> np.ndarray:
    """The margin with names and a block for each side, below a heading."""
    blocks = [
        grid(np.concatenate([filled(getattr(one, side), n) for one in classes]), n) for side, n in columns.items()
    ]
    tall, c = blocks[0].shape[0], blocks[0].shape[2]
    margin, gap = (np.full((tall, w, c), PAPER, np.uint8) for w in (width, GAP))
    words, left, parts = [(6, 6, title, BLACK, HEAD)], width, [margin]
    for side, block in zip(columns, blocks, strict=True):
        words.append((left, 8, side, GREY, SMALL + 1))
        parts += [block, gap]
        left += block.shape[1] + GAP
    sheet = _above(np.concatenate(parts[:-1], axis=1), HEAD + 14)
    row = (tall - 2) // len(classes)
    for i, one in enumerate(classes):
        top = HEAD + 14 + i * row + row // 2 - HEAD - 1
        for text, size in _words(one):
            words.append((6, top, text, BLACK if size == HEAD else GREY, size))
            top += HEAD + 4
    return _written(sheet, words)


def filled(images: np.ndarray, columns: int) -> np.ndarray:
    """The first ``columns`` images, with white ones where there are fewer: u8[columns h w c]."""
    white = np.full((max(0, columns - len(images)), *images.shape[1:]), PAPER, images.dtype)
    return np.concatenate([images[:columns], white])


def _words(one: ClassImages) -> list[tuple[str, int]]:
    return [(brief(one.name, 26), HEAD), (one.figure, SMALL)]


def _beneath(tiles: np.ndarray, text: str) -> np.ndarray:
    room = np.full((SMALL + 10, tiles.shape[1], tiles.shape[2]), PAPER, np.uint8)
    tiles = _padded(np.concatenate([tiles, room]), math.ceil(_width(text, SMALL)) + 4)
    return _written(tiles, [(2, tiles.shape[0] - SMALL - 9, text, GREY, SMALL)])


def _above(sheet: np.ndarray, room: int) -> np.ndarray:
    return np.concatenate([np.full((room, *sheet.shape[1:]), PAPER, np.uint8), sheet])


def _lower(sheet: np.ndarray, tall: int) -> np.ndarray:
    return np.concatenate([sheet, np.full((tall - sheet.shape[0], *sheet.shape[1:]), PAPER, np.uint8)])


def _padded(sheet: np.ndarray, wide: int) -> np.ndarray:
    short = max(0, wide - sheet.shape[1])
    return np.concatenate([sheet, np.full((sheet.shape[0], short, sheet.shape[2]), PAPER, np.uint8)], axis=1)


def _written(sheet: np.ndarray, words: Sequence[tuple[int, int, str, int, int]]) -> np.ndarray:
    """The sheet with words (left, top, text, grey, size) on it."""
    c = sheet.shape[-1]
    page = Image.fromarray(sheet[..., 0] if c == 1 else sheet)
    draw = ImageDraw.Draw(page)
    for left, top, text, grey, size in words:
        draw.text((left, top), text, grey if c == 1 else (grey,) * 3, font=_font(size))
    return np.asarray(page).reshape(sheet.shape)


def _width(text: str, size: int) -> float:
    return _font(size).getlength(text)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
