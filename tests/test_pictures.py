import io

import numpy as np
import pytest
from PIL import Image

from diffusion import pictures


def tiles(n, h=8, w=8, c=1):
    return np.full((n, h, w, c), np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1) + 1)


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize(
    "n, h, columns, scale, shape",
    [
        (6, 8, 3, 1, (2 * 10 + 2, 3 * 10 + 2)),
        (5, 8, 3, 2, (2 * 18 + 2, 3 * 18 + 2)),
        (1, 8, 1, None, (52, 52)),
        (1, 64, 1, None, (68, 12)),
    ],
)
def test_grid_shape(n, h, columns, scale, c, shape):
    assert pictures.grid(tiles(n, h=h, c=c), columns, scale=scale).shape == (*shape, c)


def test_every_image_lies_at_its_place():
    sheet = pictures.grid(tiles(5), 3, scale=2, pad=2)
    for i in range(5):
        top, left = 2 + i // 3 * 18, 2 + i % 3 * 18
        assert (sheet[top : top + 16, left : left + 16] == i + 1).all()
    assert (sheet[20:, 38:] == 255).all(), "the missing sixth tile is white"


def test_labels_stand_at_the_left_of_their_rows():
    plain = pictures.grid(tiles(4), 2)
    sheet = pictures.grid(tiles(4), 2, labels=["7", "a class"])
    margin = sheet[:, : sheet.shape[1] - plain.shape[1]]
    np.testing.assert_array_equal(sheet[:, margin.shape[1] :], plain)
    ink = (margin < 128).sum(axis=(1, 2))
    first, second = ink[: len(ink) // 2].sum(), ink[len(ink) // 2 :].sum()
    assert 0 < first < second


@pytest.mark.parametrize(
    "call, said",
    [
        (
            lambda: pictures.grid(np.zeros((4, 8, 8, 1), np.float32), 2),
            r"u8\[n h w 1\|3\].*float32\[4, 8, 8, 1\]",
        ),
        (lambda: pictures.grid(np.zeros((4, 8, 8, 4), np.uint8), 2), r"u8\[n h w 1\|3\]"),
        (lambda: pictures.grid(np.zeros((0, 8, 8, 1), np.uint8), 2), "0, 8, 8, 1"),
        (lambda: pictures.grid(tiles(4), 2, labels=["one"]), "1 texts for 2 rows"),
        (lambda: pictures.png(np.zeros((8, 8), np.uint8)), r"u8\[h w 1\|3\]"),
    ],
)
def test_wrong_images_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("c", [1, 3])
def test_png_gives_the_pixels_back(tmp_path, c):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, c), np.uint8)
    path = pictures.save_png(tmp_path / "samples" / "a.png", image)
    assert path.read_bytes() == pictures.png(image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)).reshape(image.shape), image)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    path = pictures.save_png(tmp_path / "a.png", tiles(1)[0])
    before = path.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(pictures.Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        pictures.save_png(path, tiles(2)[1])
    assert path.read_bytes() == before and Image.open(io.BytesIO(before)).size == (8, 8)
