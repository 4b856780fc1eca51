import contextlib
import pickle
import tracemalloc
import zipfile
from pathlib import Path

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
    "no images": ({"x": IMAGES}, "no array 'images'; there are: x. It must hold images uint8"),
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


def forged(path, header: str, payload=b"x" * 480, name="images", compression=zipfile.ZIP_DEFLATED, **others) -> str:
    """An archive in which one array's header says what it likes."""
    np.savez(path / "set.npz", **others)
    text = header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path / "set.npz", "a", compression) as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + payload)
    return str(path / "set.npz")


def says(shape, dtype="|u1") -> str:
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"


FORGED = {
    "more images than bytes": dict(header=says((10**11, 4, 4, 3))),
    "fewer images than bytes": dict(header=says((9, 4, 4, 3))),
    "negative": dict(header=says((-10, 4, 4, -3))),
    "overflow": dict(header=says((2**62, 4, 4, 3))),
    "no shape": dict(header="{'descr': '|u1'}"),
    "code": dict(header="__import__('os').system('true')"),
    "labels": dict(header=says((10**12,), "<i8"), name="labels", payload=b"", images=IMAGES),
    "classes": dict(header=says((10**12,), "<U9"), name="classes", payload=b"", images=IMAGES, labels=LABELS),
    "wide classes": dict(header=says((2,), f"<U{2**28}"), name="classes", payload=b"", images=IMAGES, labels=LABELS),
}


@pytest.mark.parametrize("forgery", FORGED.values(), ids=FORGED)
def test_a_header_that_lies_is_refused_before_anything_is_made_of_it(tmp_path, forgery):
    path = forged(tmp_path, **forgery)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"{path}: not a readable .npz file"):
            npz(path, 0)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_size_that_no_compression_reaches_is_refused(tmp_path):
    """A forged directory entry: the array seems to hold what its header says."""
    path = forged(tmp_path, says((10**6, 4, 4, 3)), compression=zipfile.ZIP_STORED)
    content, real, claimed = (tmp_path / "set.npz").read_bytes(), 128 + 480, 128 + 48 * 10**6
    (tmp_path / "set.npz").write_bytes(content.replace(real.to_bytes(4, "little"), claimed.to_bytes(4, "little")))
    with pytest.raises(DataError, match="not a readable .npz file"):
        npz(path, 0)


def test_labels_far_out_of_range_take_no_memory(tmp_path):
    path = write(tmp_path, images=IMAGES, labels=np.array([0] * 9 + [10**12]))
    with pytest.raises(DataError, match=r"no record has label \[1\]"):
        npz(path, 0)


class Runs:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("name", ["images", "labels", "classes"])
def test_pickled_objects_are_never_loaded(tmp_path, name):
    good = {"images": IMAGES, "labels": LABELS, "classes": np.array(["a", "b"])}
    bad = np.array([Runs() for _ in good[name]], object)
    path = write(tmp_path, **(good | {name: bad}))
    with pytest.raises(DataError, match=f"{name}.*(Python objects.*never loaded|are object, uint8)"):
        npz(path, 0)


def test_a_pickle_with_the_name_of_an_archive_is_refused(tmp_path):
    path = tmp_path / "set.npz"
    path.write_bytes(pickle.dumps({"images": Runs()}))
    with pytest.raises(DataError, match="set.npz: not a readable .npz file"):
        npz(str(path), 0)
    np.save(path.with_suffix(".npy"), np.array([Runs()], object))
    path.with_suffix(".npy").rename(path)
    with pytest.raises(DataError, match="set.npz: not a readable .npz file"):
        npz(str(path), 0)


def test_an_archive_cut_or_changed_anywhere_is_named(tmp_path):
    whole = Path(write(tmp_path, images=IMAGES[:4, :1, :1], labels=LABELS[:4])).read_bytes()
    other = tmp_path / "other.npz"
    for at in range(0, len(whole), 7):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            other.write_bytes(content)
            with contextlib.suppress(DataError):
                npz(str(other), 0).open("train")


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
