import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffusion.data import hashes
from diffusion.data.folder import folder
from diffusion.data.images import SUFFIXES, decode
from diffusion.errors import ConfigError, DataError


def put(path, value=0, mode="RGB", size=(4, 3), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)


SIZES = {"train": 6, "val": 2, "test": 2}


@pytest.fixture
def animals(tmp_path):
    for i, name in enumerate(("a.png", "B.JPG", "c.jpeg", "d.bmp", "e.webp")):
        put(tmp_path / "cat" / name, (i * 20, 0, 0))
        put(tmp_path / "dog" / name, (i * 20, 0, 200))
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / "._a.png").write_text("no image")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    return tmp_path


class TestScan:
    def test_every_kind_of_file_in_its_class(self, animals):
        dataset = folder(str(animals), 0)
        assert (dataset.classes, dataset.sizes) == (("cat", "dog"), SIZES)
        assert dataset.image_shape is None
        for split, size in dataset.sizes.items():
            records = dataset.open(split)
            assert len(records) == len(records.labels) == size
            for i in range(size):
                assert records[i].image.shape == (3, 4, 3)
                assert records[i].label == records.labels[i] == (records[i].image[0, 0, 2] > 100)

    def test_links_to_images_and_classes_are_followed(self, animals, tmp_path_factory):
        """Sets on clusters are often folders of links; who put them there may."""
        linked = tmp_path_factory.mktemp("linked")
        (linked / "dog").symlink_to(animals / "dog")
        (linked / "cat").mkdir()
        for path in (animals / "cat").glob("*.*"):
            (linked / "cat" / path.name).symlink_to(path)
        assert folder(str(linked), 0).sizes == folder(str(animals), 0).sizes
        assert folder(str(linked), 0).open("train").fingerprint == folder(str(animals), 0).open("train").fingerprint

    def test_folders_that_are_called_like_images_are_none(self, animals):
        (animals / "cat" / "x.png").mkdir()
        assert folder(str(animals), 0).sizes == SIZES

    def test_names_in_other_scripts(self, tmp_path):
        for name in ("каждый", "猫"):
            for i in range(3):
                put(tmp_path / name / f"ü {i}.png", i)
        dataset = folder(str(tmp_path), 0)
        assert dataset.classes == ("каждый", "猫") and dataset.open("train").name(0).endswith(".png")
        assert dataset.open("train")[0].image.shape == (3, 4, 3)

    def test_home_is_expanded(self, animals, monkeypatch):
        monkeypatch.setenv("HOME", str(animals.parent))
        assert folder(f"~/{animals.name}", 0).sizes == SIZES

    @pytest.mark.parametrize(
        ("given", "sizes", "validated"),
        [
            ({"train": 3, "test": 1}, {"train": 3, "test": 1}, "test"),
            ({"train": 3, "val": 1}, {"train": 3, "test": 1}, "test"),
            ({"train": 3, "val": 2, "test": 1}, {"train": 3, "val": 2, "test": 1}, "val"),
        ],
    )
    def test_given_splits_are_kept(self, tmp_path, given, sizes, validated):
        for split, n in given.items():
            for i in range(n):
                put(tmp_path / split / "cat" / f"{i}.png")
        dataset = folder(str(tmp_path), 0)
        assert dataset.sizes == sizes and dataset.validation_splits == {"": validated}
        held_out = dataset.open(validated).files
        assert {path.parent.parent.name for path in held_out} == {"val" if "val" in given else "test"}

    @pytest.mark.parametrize(
        ("n", "where"), [(1, "train"), (2, "train test"), (3, "train val test"), (4, "train train val test")]
    )
    def test_a_small_class_beside_a_full_one(self, animals, n, where):
        for i in range(n):
            put(animals / "emu" / f"{i}.png")
        dataset = folder(str(animals), 0)
        found = [split for split in dataset.sizes for label in dataset.open(split).labels if label == 2]
        assert found == where.split()

    def test_without_a_share_to_validate_on_there_are_two_splits(self, animals):
        dataset = folder(str(animals), 0, val_fraction=0.0)
        assert dataset.sizes == {"train": 8, "test": 2} and dataset.validation_splits == {"": "test"}
        tested = dataset.open("test").files
        assert folder(str(animals), 0).open("test").files == tested, "val takes from train alone"


class TestFingerprint:
    def test_it_sees_content_and_names_and_not_the_place(self, animals, tmp_path_factory):
        first = folder(str(animals), 0).open("train").fingerprint
        moved = tmp_path_factory.mktemp("elsewhere") / "set"
        animals.rename(moved)
        assert folder(str(moved), 0).open("train").fingerprint == first
        changed = folder(str(moved), 0).open("train").files[0]
        put(changed, (1, 2, 3))
        second = folder(str(moved), 0).open("train").fingerprint
        assert second != first
        changed.rename(changed.with_stem(changed.stem + "_"))  # keeps its place in the order
        assert folder(str(moved), 0).open("train").fingerprint not in (first, second)

    def test_a_file_is_read_once_for_all_splits(self, animals, monkeypatch):
        read, sha256 = [], hashes.sha256
        monkeypatch.setattr(hashes, "sha256", lambda path: read.append(path) or sha256(path))
        dataset = folder(str(animals), 0)
        assert len({dataset.open(split).fingerprint for split in dataset.sizes}) == 3
        assert dataset.listing().splits["val"] == dataset.open("val").contents
        assert len(read) == 10 and len(set(read)) == 10

    def test_a_file_that_may_not_be_read_is_named(self, animals, monkeypatch):
        def refuse(path, *_):
            raise PermissionError(13, "Permission denied", str(path))

        records = folder(str(animals), 0).open("train")
        monkeypatch.setattr("pathlib.Path.open", refuse)
        with pytest.raises(DataError, match=f"{records.files[0]}: cannot be read .*Permission denied"):
            _ = records.fingerprint

    def test_a_file_that_vanished_is_named(self, animals):
        records = folder(str(animals), 0).open("train")
        records.files[0].unlink()
        with pytest.raises(DataError, match=f"{records.files[0].name}: cannot be read"):
            _ = records.fingerprint


class TestRefusals:
    def test_missing_root(self, tmp_path):
        with pytest.raises(ConfigError, match="data.root: .*nowhere does not exist"):
            folder(str(tmp_path / "nowhere"), 0)
        with pytest.raises(ConfigError, match="data.root: is empty"):
            folder("", 0)
        put(tmp_path / "a.png")
        with pytest.raises(ConfigError, match="a.png is not a folder"):
            folder(str(tmp_path / "a.png"), 0)

    def test_no_class_folders(self, tmp_path):
        put(tmp_path / "loose.png")
        with pytest.raises(DataError, match=f"{tmp_path}: no class folders"):
            folder(str(tmp_path), 0)

    def test_empty_class_folder(self, animals):
        (animals / "emu").mkdir()
        with pytest.raises(DataError, match="emu: no images"):
            folder(str(animals), 0)

    def test_a_link_that_leads_nowhere(self, animals):
        (animals / "cat" / "z.png").symlink_to("gone.png")
        with pytest.raises(DataError, match="cat/z.png: no file, or a link that leads nowhere; restore its target"):
            folder(str(animals), 0)

    def test_a_folder_that_cannot_be_listed(self, animals, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("os.scandir", refuse)
        with pytest.raises(DataError, match=f"{animals}: cannot be listed .*Permission denied"):
            folder(str(animals), 0)

    def test_too_few(self, tmp_path):
        put(tmp_path / "cat" / "a.png")
        with pytest.raises(DataError, match="1 image in all; at least 2"):
            folder(str(tmp_path), 0)

    def test_train_alone(self, tmp_path):
        put(tmp_path / "train" / "cat" / "a.png")
        with pytest.raises(DataError, match="train/ but no test/ or val/; set data.root to .*train to split"):
            folder(str(tmp_path), 0)

    @pytest.mark.parametrize("other", ["test", "val"])
    def test_splits_of_other_classes(self, tmp_path, other):
        for split in ("train", "val", "test"):
            put(tmp_path / split / ("dog" if split == other else "cat") / "a.png")
        with pytest.raises(DataError, match=f"only one of train/ and {other}/ has the classes: cat, dog"):
            folder(str(tmp_path), 0)

    def test_classes_too_small_to_be_split(self, tmp_path):
        for name in ("cat", "dog"):
            put(tmp_path / name / "a.png")
        with pytest.raises(DataError, match="no class has two records, so none can be held out for testing$"):
            folder(str(tmp_path), 0)
        put(tmp_path / "dog" / "b.png")
        with pytest.raises(DataError, match="no class has three records, .* for validation; take val_fraction=0"):
            folder(str(tmp_path), 0)
        assert folder(str(tmp_path), 0, val_fraction=0.0).sizes == {"train": 2, "test": 1}

    @pytest.mark.parametrize("content", [b"", b"GIF", "half"])
    def test_a_broken_image_is_named_when_it_is_read(self, tmp_path, content):
        for name in ("a.png", "b.png", "c.png"):
            put(tmp_path / "cat" / name, size=(64, 64))
        records = folder(str(tmp_path), 0, val_fraction=0.0).open("train")
        path = records.files[1]
        path.write_bytes(path.read_bytes()[:-20] if content == "half" else content)
        assert records[0].image.shape == (64, 64, 3)
        with pytest.raises(DataError, match=f"{path}: not a readable image"):
            records[1]


def huge_png() -> bytes:
    """A few bytes that say 100,000 x 100,000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (body, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


BROKEN = {
    "zero bytes": (b"", "none of: PNG, JPEG"),
    "text": (b"hello, I am no image\n", "none of: PNG, JPEG"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "none of: PNG, JPEG"),
    "a PNG header alone": (b"\x89PNG\r\n\x1a\n", "none of: PNG, JPEG"),
    "100,000 x 100,000 pixels": (huge_png(), "decompression bomb"),
    "PostScript, which Ghostscript would run": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(%pipe%id) (w) file\n%%EOF\n",
        "none of: PNG, JPEG",
    ),
}


@pytest.mark.parametrize(("content", "problem"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_image_is_named_whatever_it_is_called(tmp_path, content, problem):
    path = tmp_path / "bild é.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: not a readable image .*{problem}"):
        decode(path, str(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_image_cut_anywhere_is_named_and_no_other_error_leaves(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 24, max(1, len(whole) // 60)):
        with pytest.raises(DataError, match="cut: not a readable image"):
            decode(whole[:end], "cut")


class TestDecode:
    """Pixels of every mode a file can have."""

    @pytest.mark.parametrize(
        ("mode", "value", "expected"),
        [
            ("L", 9, [9]),
            ("1", 1, [255]),
            ("I;16", 65535, [255]),
            ("I;16", 257 * 3 + 128, [3]),
            ("I;16", 257 * 3 + 129, [4]),
            ("RGB", (1, 2, 3), [1, 2, 3]),
            ("RGBA", (1, 2, 3, 0), [255, 255, 255]),
            ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
            ("RGBA", (0, 0, 0, 51), [204, 204, 204]),
            ("LA", (0, 51), [204]),
            ("LA", (7, 255), [7]),
        ],
    )
    def test_png(self, tmp_path, mode, value, expected):
        put(tmp_path / "a.png", value, mode)
        image = decode(tmp_path / "a.png", "a.png")
        assert image.dtype == np.uint8 and image.shape == (3, 4, len(expected))
        assert np.all(image == expected)

    def test_palette_and_its_transparent_colour(self, tmp_path):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        image.save(tmp_path / "a.png")
        assert decode(tmp_path / "a.png", "a").tolist() == [[[10, 20, 30], [40, 50, 60]]]
        image.save(tmp_path / "b.png", transparency=1)
        assert decode(tmp_path / "b.png", "b").tolist() == [[[10, 20, 30], [255, 255, 255]]]

    def test_cmyk_becomes_rgb(self, tmp_path):
        put(tmp_path / "a.jpg", (0, 0, 0, 0), "CMYK")
        assert np.all(decode(tmp_path / "a.jpg", "a") == 255)

    def test_upright_as_exif_says(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        put(tmp_path / "a.jpg", exif=exif)
        assert decode(tmp_path / "a.jpg", "a").shape == (4, 3, 3)

    @pytest.mark.parametrize("name", ["a.webp", "a.gif"])
    def test_of_an_animation_the_first_frame(self, tmp_path, name):
        frames = [Image.new("RGB", (4, 3), colour) for colour in ((255, 0, 0), (0, 255, 0))]
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "w" in name else {})
        )
        (tmp_path / name).rename(tmp_path / "a.png")  # the content decides
        assert np.all(decode(tmp_path / "a.png", "a") == [255, 0, 0])

    def test_a_jpeg_of_several_pictures(self, tmp_path):
        """As some cameras write them; Pillow calls it MPO."""
        picture = Image.new("L", (4, 3), 77)
        picture.save(tmp_path / "a.mpo", save_all=True, append_images=[picture])
        (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
        assert np.all(decode(tmp_path / "a.jpg", "a") == 77)

    @pytest.mark.parametrize(("name", "mode"), [("a.jpg", "YCbCr"), ("a.tiff", "LAB")])
    def test_other_colour_spaces_become_rgb(self, tmp_path, name, mode):
        put(tmp_path / name, (150, 128, 128), mode)
        assert decode(tmp_path / name, "a").shape == (3, 4, 3)

    def test_floats_are_refused(self, tmp_path):
        put(tmp_path / "a.tiff", 0.5, "F")
        with pytest.raises(DataError, match="a.tiff: .*floating-point pixels"):
            decode(tmp_path / "a.tiff", "a.tiff")
