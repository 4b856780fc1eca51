"""Images of other programs: counted and labelled before a pixel is read, and refused early with the file's name."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from diffusion.data import archive
from diffusion.errors import ConfigError, DataError
from diffusion.given_images import open_images

CLASSES = ("cat", "dog", "emu")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 12, 12, 3)).astype(np.uint8)
SHAPE = (12, 12, 3)


def npz(path, compressed: bool = False, **arrays) -> str:
    (np.savez_compressed if compressed else np.savez)(path / "images.npz", **arrays)
    return str(path / "images.npz")


def folder(path, **files: np.ndarray) -> str:
    """Files by name, ``a__b`` being b in the folder a."""
    for name, image in files.items():
        place = path / "made" / (name.replace("__", "/") + ".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    return str(path / "made")


def everything(given, size: int = 4) -> np.ndarray:
    return np.concatenate([images for _, images in given.chunks(size)])


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive(tmp_path, compressed):
    labels, ids = np.array([2, 0, 1, 1, 0, 2]), np.arange(6)[::-1]
    prompts = np.array([f"picture {i}" for i in range(6)])
    given = open_images(
        npz(tmp_path, compressed, images=IMAGES, labels=labels, prompts=prompts, ids=ids), CLASSES, SHAPE
    )
    assert len(given) == 6 and given.prompts[4] == "picture 4"
    np.testing.assert_array_equal(given.labels, labels)
    np.testing.assert_array_equal(given.ids, ids)
    np.testing.assert_array_equal(everything(given), IMAGES)
    rows, images = next(given.chunks(2, rows=np.array([5, 1, 3])))
    np.testing.assert_array_equal(rows, [5, 1])
    np.testing.assert_array_equal(images, IMAGES[[5, 1]])
    assert given.name(3).endswith("images.npz[3]")


def test_a_plain_archive_stays_on_the_disk(tmp_path):
    path = tmp_path / "images.npz"
    for name in ("images", "x" * 50):  # the offset depends on the length of the name
        np.savez(path, first=np.arange(3), **{name: IMAGES})
        found = archive.mapped(path, name, archive.headers(path)[name])
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, IMAGES)
    np.savez(path, images=np.asfortranarray(IMAGES))
    np.testing.assert_array_equal(archive.mapped(path, "images", archive.headers(path)["images"]), IMAGES)


def test_names_of_guided_diffusion(tmp_path):
    np.savez(tmp_path / "images.npz", IMAGES, np.array([0, 1, 2, 0, 1, 2]))
    given = open_images(str(tmp_path / "images.npz"), CLASSES, SHAPE)
    np.testing.assert_array_equal(given.labels, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(everything(given), IMAGES)


def test_an_archive_with_class_names_of_its_own(tmp_path):
    path = npz(tmp_path, images=IMAGES, labels=np.array([0, 1, 1, 0, 0, 1]), classes=np.array(["emu", "cat"]))
    np.testing.assert_array_equal(open_images(path, CLASSES, SHAPE).labels, [2, 0, 0, 2, 2, 0])
    path = npz(tmp_path, images=IMAGES, labels=np.zeros(6, int), classes=np.array(["catt"]))
    with pytest.raises(ConfigError, match=r"'catt' is none of .* \(close: cat\)"):
        open_images(path, CLASSES, SHAPE)


def test_channels_are_those_of_the_data_set(tmp_path):
    grey = open_images(npz(tmp_path, images=IMAGES[..., 0]), (), SHAPE)
    np.testing.assert_array_equal(everything(grey), np.repeat(IMAGES[..., :1], 3, axis=3))
    luma = open_images(npz(tmp_path, images=IMAGES), (), (12, 12, 1))
    assert luma[0].shape == (12, 12, 1)
    np.testing.assert_allclose(luma[2][..., 0], IMAGES[2] @ [0.299, 0.587, 0.114], atol=0.51)


def test_a_folder_of_class_folders(tmp_path):
    path = folder(tmp_path, dog__b=IMAGES[0], dog__a=IMAGES[1], cat__x=IMAGES[2][..., 0], **{"2__n": IMAGES[3]})
    given = open_images(path, CLASSES, SHAPE)
    assert given.labels.tolist() == [2, 0, 1, 1]  # folders 2, cat, dog, in sorted order
    np.testing.assert_array_equal(everything(given)[[0, 2, 3]], IMAGES[[3, 1, 0]])
    np.testing.assert_array_equal(given[1], np.repeat(IMAGES[2][..., :1], 3, axis=2))
    assert given.name(2).endswith("dog/a.png")


def test_a_flat_folder_is_unlabelled(tmp_path):
    given = open_images(folder(tmp_path, a=IMAGES[0], b=IMAGES[1]), CLASSES, SHAPE)
    assert given.labels is None and len(given) == 2
    np.testing.assert_array_equal(everything(given), IMAGES[:2])


def test_fingerprints_follow_the_content(tmp_path):
    labels = np.zeros(6, int)
    seen = set()
    for arrays in (
        {"images": IMAGES},
        {"images": IMAGES[::-1]},
        {"images": IMAGES, "labels": labels},
        {"images": IMAGES, "labels": labels + 1},
        {"images": IMAGES, "prompts": np.array(["a"] * 6)},
    ):
        prints = {open_images(npz(tmp_path, **arrays), CLASSES, SHAPE).fingerprint() for _ in range(2)}
        assert open_images(npz(tmp_path, True, **arrays), CLASSES, SHAPE).fingerprint() in prints and len(prints) == 1
        seen |= prints
    first = open_images(folder(tmp_path, cat__a=IMAGES[0], dog__b=IMAGES[1]), CLASSES, SHAPE).fingerprint()
    (tmp_path / "made/dog/b.png").rename(tmp_path / "made/cat/b.png")
    (tmp_path / "made/dog").rmdir()
    moved = open_images(str(tmp_path / "made"), CLASSES, SHAPE).fingerprint()
    assert len(seen | {first, moved}) == 7
    assert all(len(bytes.fromhex(found)) == hashlib.sha256().digest_size for found in seen)


def test_a_damaged_archive_is_found_by_its_fingerprint(tmp_path):
    path = npz(tmp_path, images=np.zeros((4, 64, 64, 3), np.uint8))
    content = bytearray((tmp_path / "images.npz").read_bytes())
    content[content.index(b"NUMPY") + 10_000] ^= 1
    (tmp_path / "images.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"images\.npz"):
        open_images(path, (), (64, 64, 3)).fingerprint()


BAD_ARCHIVES = {
    "float": ({"images": IMAGES / 255}, "float64; save uint8"),
    "none": ({"pictures": IMAGES}, "no array 'images'; there are: pictures"),
    "empty": ({"images": IMAGES[:0]}, "holds no images"),
    "two channels": ({"images": IMAGES[..., :2]}, r"\[n h w 3\] is required"),
    "trajectories": ({"images": IMAGES[None]}, r"is required"),
    "size": ({"images": IMAGES[:, :8, :8]}, r"images are 8x8 pixels, the data set's are 12x12; data\.size=8"),
    "oblong": ({"images": IMAGES[:, :8]}, "8x12 pixels.*no data.size fits"),
    "label too large": ({"images": IMAGES, "labels": np.array([0, 1, 3, 3, 0, 0])}, "0..2.*is 3, of image 2"),
    "label below 0": ({"images": IMAGES, "labels": np.array([0, 1, -1, 2, 0, 0])}, "first is -1, of image 2"),
    "float labels": ({"images": IMAGES, "labels": np.zeros(6)}, r"labels is float64\[6\], not integers \[6\]"),
    "too few labels": ({"images": IMAGES, "labels": np.zeros(5, int)}, r"labels is int64\[5\], not integers \[6\]"),
    "own classes, label too large": (
        {"images": IMAGES, "labels": np.full(6, 1), "classes": np.array(["cat"])},
        "not in 0..0",
    ),
    "ids below 0": ({"images": IMAGES, "ids": np.array([0, -4, 0, 0, 0, 0])}, "number 1 is -4"),
    "prompts that are numbers": ({"images": IMAGES, "prompts": np.arange(6)}, r"not strings \[6\]"),
    "objects": ({"images": IMAGES, "prompts": np.array([None] * 6)}, "prompts"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_a_bad_archive_is_refused(tmp_path, name):
    arrays, said = BAD_ARCHIVES[name]
    with pytest.raises(ConfigError, match=said) as error:
        open_images(npz(tmp_path, **arrays), CLASSES, SHAPE)
    assert error.value.field == "eval.images" and "images.npz" in str(error.value)


def test_labels_of_a_set_without_classes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no classes"):
        open_images(npz(tmp_path, images=IMAGES, labels=np.zeros(6, int)), (), SHAPE)
    with pytest.raises(ConfigError, match=r"class folders \(cat\), but the data set has no classes"):
        open_images(folder(tmp_path, cat__a=IMAGES[0]), (), SHAPE)


def test_a_bad_folder_is_refused(tmp_path):
    def refused(path, said: str) -> None:
        with pytest.raises(ConfigError, match=said) as error:
            open_images(str(path), CLASSES, SHAPE)
        assert error.value.field == "eval.images"

    refused("", "is empty")
    refused(tmp_path / "nowhere", "nowhere does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty: no images")
    path = folder(tmp_path, cats__a=IMAGES[0])
    refused(path, r"class folder 'cats' is none of .* \(close: cat\)")
    (tmp_path / "made/cats").rename(tmp_path / "made/cat")
    (tmp_path / "made/dog").mkdir()
    refused(path, "dog: no images")
    folder(tmp_path, dog__b=IMAGES[1, :10, :10])
    refused(path, r"dog/b\.png: images are 10x10 pixels.*data\.size=10")
    (tmp_path / "made/dog/b.png").write_text("no image")
    refused(path, r"dog/b\.png: not a readable image")
    Image.fromarray(np.zeros((12, 12), np.float32)).save(tmp_path / "made/dog/b.png", format="TIFF")
    refused(path, r"dog/b\.png: .*floating-point")
    folder(tmp_path, dog__b=IMAGES[1], c=IMAGES[2])
    refused(path, r"holds images \(c\.png\) and class folders \(cat\)")
    (tmp_path / "images.txt").write_text("")
    refused(tmp_path / "images.txt", "neither a folder nor an .npz")


def test_an_image_that_is_turned_is_judged_when_it_is_read(tmp_path):
    path = tmp_path / "made"
    path.mkdir()
    tag = Image.Exif()
    tag[0x0112] = 6  # turned by a quarter
    Image.fromarray(IMAGES[0, :8]).save(path / "a.jpg", exif=tag)
    assert open_images(str(path), (), (12, 8, 3))[0].shape == (12, 8, 3)
    given = open_images(str(path), (), (8, 12, 3))
    with pytest.raises(DataError, match=r"a\.jpg: images are 12x8 pixels"):
        given[0]
