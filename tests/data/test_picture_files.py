"""Images that a person names by a path, in every form that is taken, and what is said of the others."""

import numpy as np
import pytest
from PIL import Image

from diffusion.data.picture_files import picture_files
from diffusion.data.transforms import Transform
from diffusion.errors import ConfigError, DataError
from diffusion.start_images import start_images, support_images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 3, 2), np.uint8)


def colours(h: int, w: int) -> np.ndarray:
    return RNG.integers(0, 256, (h, w, 3), np.uint8)


@pytest.fixture
def mixed(tmp_path):
    """A folder of images of all modes and several sizes, with other things beside them."""
    Image.fromarray(colours(9, 7)).save(tmp_path / "b.jpg")
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    Image.fromarray(colours(4, 4)).save(tmp_path / "d.webp", lossless=True)
    Image.fromarray(np.full((6, 5, 4), (10, 20, 30, 0), np.uint8), "RGBA").save(tmp_path / "c.PNG")
    Image.fromarray(colours(4, 6)).convert("P").save(tmp_path / "e.bmp")
    Image.fromarray(GREY[1] > 127).save(tmp_path / "f.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / "z").mkdir()
    return tmp_path


def test_a_folder_of_mixed_sizes_and_modes(mixed):
    found = picture_files(str(mixed))
    assert [name for name, _ in found] == [
        str(mixed / n) for n in ("a.png", "b.jpg", "c.PNG", "d.webp", "e.bmp", "f.png")
    ]
    assert [image.shape for _, image in found] == [(3, 2, 1), (9, 7, 3), (6, 5, 3), (4, 4, 3), (4, 6, 3), (3, 2, 1)]
    assert all(image.dtype == np.uint8 for _, image in found)
    np.testing.assert_array_equal(found[0][1][..., 0], GREY[0])
    assert np.all(found[2][1] == 255), "what is transparent is white"
    assert set(np.unique(found[5][1])) <= {0, 255}


def test_a_support_of_mixed_sizes_becomes_what_the_net_sees(mixed):
    """Also with a transform that does not resize: a person's images have any size."""
    for shape in ((4, 4, 1), (4, 4, 3)):
        found = support_images(str(mixed), Transform(shape, resize=False, flip=True))
        assert found.shape == (6, *shape) and found.dtype == np.uint8
    with pytest.raises(ConfigError, match=r"sample\.start: .*a\.png is 3x2 pixels, the run's images are 4x4"):
        start_images(str(mixed), Transform((4, 4, 1), resize=False, flip=False))


def test_one_file(mixed):
    ((name, image),) = picture_files(str(mixed / "d.webp"))
    assert name.endswith("d.webp") and image.shape == (4, 4, 3)


def test_the_home_folder_is_understood(mixed, monkeypatch):
    monkeypatch.setenv("HOME", str(mixed))
    assert len(picture_files("~")) == 6


@pytest.mark.parametrize("images", [GREY, GREY[..., None], np.repeat(GREY[..., None], 3, axis=3)])
def test_an_npz(tmp_path, images):
    np.savez(tmp_path / "some.npz", images=images, labels=np.arange(5))
    found = picture_files(str(tmp_path / "some.npz"))
    assert [name for name, _ in found] == [f"{tmp_path}/some.npz[{i}]" for i in range(5)]
    for (_, image), wanted in zip(found, images, strict=True):
        np.testing.assert_array_equal(image.reshape(wanted.shape), wanted)
        assert image.ndim == 3


WRONG_ARRAYS = {
    "no images": (dict(x=GREY), "no array 'images'; there are: x"),
    "floats": (dict(images=GREY / 255), r"images are float64\[5, 3, 2\]; uint8 \[m h w\].* is required"),
    "one image": (dict(images=GREY[0]), r"images are uint8\[3, 2\]"),
    "two channels": (dict(images=RNG.integers(0, 9, (5, 3, 2, 2), np.uint8)), r"images are uint8\[5, 3, 2, 2\]"),
    "none": (dict(images=GREY[:0]), r"images are uint8\[0, 3, 2\]"),
}


@pytest.mark.parametrize(("arrays", "problem"), WRONG_ARRAYS.values(), ids=WRONG_ARRAYS.keys())
def test_an_npz_of_something_else_is_refused(tmp_path, arrays, problem):
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(DataError, match=f"some.npz: {problem}"):
        picture_files(str(tmp_path / "some.npz"))


def empty(place):
    return place


def of_folders(place):
    for name in ("birds", "cats", ".git"):
        (place / name).mkdir()
    Image.fromarray(GREY[0]).save(place / "cats" / "1.png")
    return place


def broken(place):
    Image.fromarray(GREY[0]).save(place / "a.png")
    (place / "b.png").write_bytes((place / "a.png").read_bytes()[:40])
    return place


def not_an_image(place):
    (place / "a.png").write_text("hello")
    return place


def broken_archive(place):
    np.savez(place / "some.npz", images=GREY)
    (place / "some.npz").write_bytes((place / "some.npz").read_bytes()[:-40])
    return place / "some.npz"


WRONG_PATHS = {
    "an empty folder": (empty, r"{place} holds no images \(\.png \.jpg \.jpeg \.bmp \.webp\)$"),
    "a folder of folders": (of_folders, r"{place} holds no images .*; it holds folders: give one of them, as .*birds"),
    "a broken file": (broken, r"{place}/b\.png: not a readable image"),
    "no image": (not_an_image, r"{place}/a\.png: not a readable image \(its content is none of: PNG"),
    "a broken archive": (broken_archive, r"{place}/some\.npz: not a readable \.npz file"),
    "a missing path": (lambda place: place / "gone", r"{place}/gone does not exist; give an image, a folder"),
    "a missing archive": (lambda place: place / "gone.npz", r"{place}/gone\.npz does not exist"),
}


@pytest.mark.parametrize(("make", "problem"), WRONG_PATHS.values(), ids=WRONG_PATHS.keys())
def test_what_cannot_be_had_is_named(tmp_path, make, problem):
    problem = problem.replace("{place}", str(tmp_path))
    path = str(make(tmp_path))
    with pytest.raises(DataError, match=f"^{problem}"):
        picture_files(path)
    with pytest.raises(ConfigError, match=rf"^sample\.support: {problem}"):
        support_images(path, Transform((4, 4, 1), resize=True, flip=False))
