import numpy as np
import pytest

from diffusion.data.npz import npz
from diffusion.errors import ConfigError, DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1] * 5)


def write(path, **arrays) -> str:
    np.savez(path / "set.npz", **arrays)
    return str(path / "set.npz")


def test_labelled(tmp_path):
    dataset = npz(write(tmp_path, images=IMAGES, labels=LABELS, classes=np.array(["cat", "dog"])), 0)
    assert (dataset.name, dataset.classes, dataset.image_shape) == ("set", ("cat", "dog"), (4, 5, 3))
    assert dataset.sizes == {"train": 8, "test": 2}
    found = [dataset.open(split)[i] for split, n in dataset.sizes.items() for i in range(n)]
    everything = {(r.image.tobytes(), r.label) for r in found}
    assert everything == {(x.tobytes(), int(y)) for x, y in zip(IMAGES, LABELS, strict=True)}
    assert sorted(dataset.open("test").labels) == [0, 1]


def test_grey_and_unlabelled(tmp_path):
    dataset = npz(write(tmp_path, images=IMAGES[..., 0]), 0, test_fraction=0.5)
    assert (dataset.classes, dataset.image_shape, dataset.sizes["test"]) == ((), (4, 5, 1), 5)
    records = dataset.open("train")
    assert records[0].label == -1 and not records.labelled and set(records.labels) == {-1}
    assert records[0].image.shape == (4, 5, 1)


def test_unnamed_classes_are_numbered(tmp_path):
    assert npz(write(tmp_path, images=IMAGES, labels=LABELS), 0).classes == ("0", "1")


def test_pixels_are_not_read_before_a_split_is_opened(tmp_path):
    path = write(tmp_path, images=np.zeros((4, 64, 64, 1), np.uint8), labels=np.zeros(4, int))
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[content.index(b"NUMPY") + 10_000] ^= 1  # a pixel: the archive's checksum no longer fits
    (tmp_path / "set.npz").write_bytes(content)
    dataset = npz(path, 0)
    assert dataset.sizes == {"train": 3, "test": 1}
    with pytest.raises(DataError, match="set.npz: array 'images' cannot be read"):
        dataset.open("train")


BAD = {
    "float images": ({"images": IMAGES / 255}, "float64, uint8"),
    "no images": ({"x": IMAGES}, "no array 'images'; there are: x"),
    "two channels": ({"images": IMAGES[..., :2]}, r"\[10, 4, 5, 2\]; \[n h w\]"),
    "flat": ({"images": IMAGES[..., 0, 0]}, r"\[10, 4\]; \[n h w\]"),
    "empty": ({"images": IMAGES[:0]}, r"\[0, 4, 5, 3\]"),
    "one image": ({"images": IMAGES[:1]}, "no class has two records"),
    "lengths": ({"images": IMAGES, "labels": LABELS[:9]}, r"labels are int64\[9\], integers \[10\]"),
    "float labels": ({"images": IMAGES, "labels": LABELS / 1}, "labels are float64"),
    "gap": ({"images": IMAGES, "labels": LABELS * 2}, r"no record has label \[1\]"),
    "from one": ({"images": IMAGES, "labels": LABELS + 1}, r"no record has label \[0\]"),
    "negative": ({"images": IMAGES, "labels": LABELS - 1}, "-1 is negative"),
    "names": ({"images": IMAGES, "labels": LABELS, "classes": ["a"]}, "2 classes are labelled, 1 different"),
    "same names": ({"images": IMAGES, "labels": LABELS, "classes": ["a", "a"]}, "1 different names"),
    "names alone": ({"images": IMAGES, "classes": ["a", "b"]}, "classes but no labels"),
    "objects": ({"images": IMAGES, "labels": np.array([None] * 10)}, "'labels' cannot be read"),
}


@pytest.mark.parametrize(("arrays", "problem"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_by_name(tmp_path, arrays, problem):
    path = write(tmp_path, **arrays)
    with pytest.raises(DataError, match=problem) as error:
        npz(path, 0)
    assert path in str(error.value)


def test_what_is_no_npz_is_refused(tmp_path):
    (tmp_path / "set.npz").write_text("hello")
    with pytest.raises(DataError, match="set.npz: not a readable .npz file"):
        npz(str(tmp_path / "set.npz"), 0)


@pytest.mark.parametrize(
    ("root", "problem"), [("", "is empty"), ("nowhere.npz", "does not exist"), (".", "is not a file")]
)
def test_a_missing_file_is_a_config_error(root, problem):
    with pytest.raises(ConfigError, match=f"data.root: .*{problem}"):
        npz(root, 0)
