"""Sizes and channels that are left to the images: from their headers, and true of what decoding makes."""

import numpy as np
import pytest
from PIL import Image

from diffusion.data import headers
from diffusion.data.derived import derived_side, taken
from diffusion.data.digits import digits
from diffusion.data.folder import folder
from diffusion.data.images import decode, header
from diffusion.data.records import Dataset
from diffusion.errors import ConfigError, DataError


def put(path, size=(4, 3), mode="L", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, **options)
    return path


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def made(tmp_path):
    """A set of six images of (width, height, mode), as many of each kind."""

    def make(*kinds, name="set"):
        for i, (width, height, mode) in enumerate(kinds * (6 // len(kinds))):
            put(tmp_path / name / ("cat" if i % 3 else "dog") / f"{i}.png", (width, height), mode)
        return folder(str(tmp_path / name), 0, val_fraction=0.0)

    return make


@pytest.mark.parametrize(
    ("sides", "side"),
    [
        ([40], 40),
        ([43], 40),
        ([44], 48),
        ([1, 1], 8),
        ([3], 8),
        ([64, 64, 500], 64),
        ([500], 64),
        ([38, 40, 41, 400], 40),
        ([10, 61], 32),
        ([10, 62], 40),
    ],
)
def test_the_median_short_side_to_a_multiple_of_8(sides, side):
    assert derived_side(sides) == side


FILES = {  # of every mode that a file can have, and turned in every way
    **{f"{mode}.png": ({"mode": mode}, None) for mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")},
    **{f"{mode}.jpg": ({"mode": mode}, None) for mode in ("L", "RGB", "CMYK")},
    "a.bmp": ({"mode": "P"}, None),
    "a.gif": ({"mode": "L"}, None),
    "lossless.webp": ({"mode": "RGBA", "lossless": True}, None),
    **{f"turned_{i}.{suffix}": ({"mode": "RGB"}, i) for i in range(1, 9) for suffix in ("jpg", "png", "webp", "tiff")},
}


@pytest.mark.parametrize(("options", "orientation"), FILES.values(), ids=FILES)
def test_a_header_tells_what_decoding_makes(tmp_path, options, orientation, request):
    exif = {} if orientation is None else {"exif": turned(orientation)}
    path = put(tmp_path / request.node.callspec.id, **options, **exif)
    told, pixels = header(path), decode(path, "image")
    assert (told.height, told.width, 1 if told.grey else 3) == pixels.shape


def test_a_header_decodes_nothing(tmp_path, monkeypatch):
    for name in ("a.png", "a.jpg", "a.webp"):
        put(tmp_path / name, (40, 30), "RGB")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("pixels were read"))
    assert {header(path)[:2] for path in tmp_path.iterdir()} == {(30, 40)}


class TestTaken:
    def test_the_side_and_the_channels_are_derived_and_said(self, made):
        dataset = made((40, 38, "L"), (41, 44, "L"), (40, 40, "RGB"))
        found = taken(dataset, -1, 0)
        assert found[:3] == (40, 3, None)
        assert found.said == "cat 4, dog 2 images of 38x40 to 44x41 pixels, L and RGB: taken as 40x40x3"

    @pytest.mark.parametrize(
        ("modes", "channels"), [("L", 1), (("L", "LA", "I;16", "1"), 1), (("L", "P"), 3), (("RGBA",), 3)]
    )
    def test_grey_only_where_all_are(self, made, modes, channels):
        dataset = made(*((9, 9, mode) for mode in modes))
        assert taken(dataset, -1, 0).channels == channels
        assert all(dataset.open("train")[i].image.shape[2] <= channels for i in range(dataset.sizes["train"]))

    def test_what_is_given_stays(self, made, monkeypatch):
        dataset = made((40, 38, "RGB"))
        assert taken(dataset, -1, 1)[:2] == (40, 1)
        assert taken(dataset, 24, 0)[:2] == (24, 3)
        monkeypatch.setattr(headers, "header", lambda _: pytest.fail("a header was read"))
        assert taken(dataset, 24, 1) == (24, 1, None, "")

    def test_size_0_is_the_native_one_where_all_share_it(self, made):
        assert taken(made((7, 5, "L"), (7, 5, "RGB"), name="same"), 0, 0)[:3] == (0, 0, (5, 7, 3))
        with pytest.raises(ConfigError, match="^data.size: is 0 .*of 5x7 to 6x7 pixels, L; give a side, or -1"):
            taken(made((7, 5, "L"), (7, 6, "L")), 0, 0)

    def test_a_known_shape_needs_no_headers(self):
        assert taken(digits("", 0), -1, 0)[:3] == (8, 0, (8, 8, 1))
        assert taken(digits("", 0), 0, 0) == (0, 0, (8, 8, 1), "")

    def test_a_set_without_files_is_refused(self):
        bare = Dataset("bare", (), {"train": 1, "test": 1}, None, lambda split: None)
        with pytest.raises(ConfigError, match="^data.size: is -1 .*bare has no files to look at"):
            taken(bare, -1, 0)

    def test_what_cannot_be_opened_is_left_out_and_all_of_it_is_an_error(self, made, tmp_path):
        dataset = made((9, 9, "L"), (90, 90, "RGB"))
        for i in (1, 3, 5):  # the large ones
            (path,) = (tmp_path / "set").glob(f"*/{i}.png")
            path.write_bytes(b"no image")
        assert taken(dataset, -1, 0)[:2] == (8, 1)
        for path in (tmp_path / "set").glob("*/*"):
            path.write_bytes(b"")
        with pytest.raises(DataError, match="not a readable image"):
            taken(folder(str(tmp_path / "set"), 0, val_fraction=0.0), -1, 0)

    def test_a_large_set_is_looked_at_here_and_there(self, made, monkeypatch):
        monkeypatch.setattr(headers, "LOOKED_AT", 3)
        dataset, read = made((9, 9, "L"), (8, 9, "L"), (7, 9, "L")), []
        monkeypatch.setattr(headers, "header", lambda path: read.append(path.name) or header(path))
        said = taken(dataset, -1, 0).said
        assert said.startswith("cat 4, dog 2 images (3 of them looked at) of 9x") and len(read) == 3
        assert {"1.png", "3.png"} & set(read), "the first and the last file, and one between"


def test_pixels_are_resized_to_the_derived_side(made):
    from diffusion.data.transforms import make_transform

    dataset = made((40, 38, "L"), (44, 60, "RGB"))
    size, channels, native, _ = taken(dataset, -1, 0)
    transform = make_transform(size, channels, False, native)
    images = [transform(dataset.open("train")[i].image, None) for i in range(dataset.sizes["train"])]
    assert np.stack(images).shape[1:] == (40, 40, 3) == transform.shape
