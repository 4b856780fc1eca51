"""Files of images by class, as pickles and archives, and the set that is made of them."""

import os
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

from diffusion.data import archive
from diffusion.data.fewshot import ClassRecords, fewshot
from diffusion.data.records import ArrayRecords
from diffusion.data.split import stratified
from diffusion.errors import ConfigError, DataError


def images(seed: int, n: int = 5, shape=(4, 6, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


TRAIN = {"b": images(0), "a": images(1, 10), 10: images(2), b"9": images(3, 1)}
VAL = {"cat": images(4, 2)}
TEST = {"z": images(5, 4), "y": images(6, 6)}
CLASSES = ("9", "10", "a", "b", "cat", "y", "z")
COUNTS = (1, 5, 10, 5, 2, 6, 4)


def plain(content):
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def write_file(path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        np.savez(path, **plain(content))


def write(root, suffix=".pkl", name="set", train=TRAIN, val=VAL, test=TEST) -> str:
    for split, content in {"train": train, "val": val, "test": test}.items():
        if content is not None:
            write_file(root / f"{split}_{name}{suffix}", content)
    return str(root)


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_metadata(tmp_path, suffix):
    dataset = fewshot(write(tmp_path, suffix), 0)
    assert (dataset.name, dataset.classes, dataset.image_shape) == ("set", CLASSES, (4, 6, 3))
    assert dataset.class_splits == {"train": (0, 1, 2, 3), "val": (4,), "test": (5, 6)}
    assert dataset.sizes == {"train": sum(COUNTS) - 7, "test": 0 + 1 + 2 + 1 + 1 + 1 + 1}


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_every_image_is_in_one_split_under_its_class(tmp_path, suffix):
    dataset = fewshot(write(tmp_path, suffix), 3)
    content = plain(TRAIN | VAL | TEST)
    seen = []
    for split, size in dataset.sizes.items():
        records = dataset.open(split)
        assert len(records) == size == len(records.labels) and records.labelled
        for i in range(size):
            record = records[i]
            name, place = dataset.classes[record.label], int(records.name(i).rpartition(" ")[2])
            assert records.name(i) == f"class {name}, image {place}" and records.labels[i] == record.label
            assert np.array_equal(record.image, content[name][place]) and record.image.dtype == np.uint8
            seen.append((name, place))
    assert sorted(seen) == sorted((name, i) for name, x in content.items() for i in range(len(x)))


def test_the_split_is_the_stratified_one_of_the_seed(tmp_path):
    root, labels = write(tmp_path), np.repeat(np.arange(7), COUNTS)
    for seed in (0, 1):
        kept = stratified(labels, 0.5, seed)["test"]
        records = fewshot(root, seed, test_fraction=0.5).open("test")
        assert records.labels.tolist() == labels[kept].tolist()
        assert records.places.tolist() == [i - np.searchsorted(labels, labels[i]) for i in kept]


def test_classes_trained_on_or_not_have_records_on_both_sides_but_a_single_image_is_trained_on(tmp_path):
    dataset = fewshot(write(tmp_path), 0)
    assert set(dataset.open("train").labels) == set(range(7))
    assert set(dataset.open("test").labels) == set(range(1, 7))


def test_fingerprints_tell_contents_apart_and_not_kinds_of_files(tmp_path):
    other = TRAIN | {"b": TRAIN["b"] ^ 1}
    roots = [
        write(tmp_path / "pkl"),
        write(tmp_path / "npz", ".npz"),
        write(tmp_path / "other", train=other),
        write(tmp_path / "moved", val=None, test=VAL | TEST),
    ]
    prints = [fewshot(root, 0).open("train").fingerprint for root in roots]
    assert prints[0] == prints[1] == prints[3] != prints[2]
    dataset = fewshot(roots[0], 0)
    assert len({prints[0], fewshot(roots[0], 1).open("train").fingerprint, dataset.open("test").fingerprint}) == 3


def test_a_fingerprint_covers_the_labels():
    x = images(0, 4)
    prints = []
    for cut in (1, 2):
        labels = np.repeat(np.arange(2, dtype=np.int32), [cut, 4 - cut])
        places = np.concatenate([np.arange(cut), np.arange(4 - cut)])
        prints.append(ClassRecords(lambda cut=cut: (x[:cut], x[cut:]), ("a", "b"), labels, places).fingerprint)
    assert prints[0] != prints[1]
    assert prints[0] == ArrayRecords(x, np.array([0, 1, 1, 1], np.int32), True).fingerprint


@pytest.mark.parametrize("channels", [(), (1,)])
def test_grey_images(tmp_path, channels):
    x = images(0, 4, (5, 5, *channels))
    dataset = fewshot(write(tmp_path, train={0: x}, val=None, test={1: x, 2: x.reshape(4, 5, 5)}), 0)
    assert dataset.image_shape == dataset.open("train")[0].image.shape == (5, 5, 1)
    assert dataset.class_splits == {"train": (0,), "test": (1, 2)}


def test_a_set_is_found_beside_others_and_in_a_folder_of_its_name(tmp_path):
    write(tmp_path, name="one")
    assert fewshot(str(tmp_path), 0).name == "one"
    write(tmp_path / "two", ".npz", name="two")
    write(tmp_path / "elsewhere", name="three")
    assert fewshot(str(tmp_path), 0, name="two").name == fewshot(str(tmp_path / "two"), 0).name == "two"
    with pytest.raises(ConfigError, match=r"data.fewshot.name: .*train_one.pkl, two/train_two.npz.*; name the set"):
        fewshot(str(tmp_path), 0)
    with pytest.raises(ConfigError, match=r"data.fewshot.name: no train_three.pkl or .npz .*are there: one, two"):
        fewshot(str(tmp_path), 0, name="three")
    write(tmp_path / "one", name="one")
    with pytest.raises(ConfigError, match=r"train_one.pkl, one/train_one.pkl.*; remove all but one"):
        fewshot(str(tmp_path), 0, name="one")


def test_files_of_a_set_may_be_of_both_kinds(tmp_path):
    write(tmp_path, test=None)
    write(tmp_path, ".npz", train=None, val=None)
    assert fewshot(str(tmp_path), 0).classes == CLASSES


@pytest.mark.parametrize(
    ("root", "options", "problem"),
    [
        ("", {}, "data.root: is empty; give the path of the folder with train_NAME.pkl"),
        ("nowhere", {}, "data.root: nowhere does not exist"),
        ("pyproject.toml", {}, "data.root: pyproject.toml is not a folder"),
        ("configs", {}, "data.root: no train_NAME.pkl or .npz in configs"),
        ("configs", {"name": "x"}, "data.fewshot.name: no train_x.pkl or .npz in configs or configs/x; .*there: none"),
        ("configs", {"test_fraction": 0.0}, "data.fewshot.test_fraction: is 0.0"),
    ],
)
def test_a_wrong_place_is_a_config_error(root, options, problem):
    with pytest.raises(ConfigError, match=problem):
        fewshot(root, 0, **options)


def test_missing_and_doubled_files_are_named(tmp_path):
    write(tmp_path, test=None)
    with pytest.raises(DataError, match=f"{tmp_path}: train_set.pkl but no test_set.pkl or .npz"):
        fewshot(str(tmp_path), 0)
    write(tmp_path, train=None)
    write(tmp_path, ".npz", train=None, test=None)
    with pytest.raises(DataError, match="val_set.pkl: there is val_set.npz too; remove one"):
        fewshot(str(tmp_path), 0)


BOTH = {  # content of the train file, as a pickle and as an archive: what is said of it
    "floats": ({"a": images(0) / 255}, r"class 'a' is float64\[5, 4, 6, 3\]; uint8 .*not guessed: scale"),
    "wide": ({"a": images(0).astype(np.int64)}, "class 'a' is int64"),
    "booleans": ({"a": images(0) > 9}, "class 'a' is bool"),
    "channels first": ({"a": images(0, 5, (3, 6, 6))}, r"class 'a' is uint8\[5, 3, 6, 6\].*transpose\(0, 2, 3, 1\)"),
    "flat": ({"a": images(0, 5, (16,))}, r"class 'a' is uint8\[5, 16\]; uint8 \[n h w\]"),
    "four channels": ({"a": images(0, 5, (4, 6, 4))}, r"class 'a' is uint8\[5, 4, 6, 4\]"),
    "no pixels": ({"a": images(0, 5, (0, 6, 3))}, r"class 'a' is uint8\[5, 0, 6, 3\]"),
    "empty class": ({"b": images(0), "a": images(0, 0)}, r"class 'a' is uint8\[0, 4, 6, 3\], no image"),
    "no classes": ({}, "holds no classes"),
    "sizes": ({"a": images(0), "b": images(0, 5, (6, 4, 3))}, "class 'b' is 6x4x3, class 'a' of train_set.* is 4x6x3"),
    "strings": ({"a": np.array(["x"])}, "class 'a' is <U1"),
}


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
@pytest.mark.parametrize(("content", "problem"), BOTH.values(), ids=BOTH)
def test_bad_content_is_refused_by_file_and_class(tmp_path, suffix, content, problem):
    with pytest.raises(DataError, match=f"train_set{suffix}: {problem}"):
        fewshot(write(tmp_path, suffix, train=content), 0)


PICKLES = {
    "a list": ([images(0)], "holds a list; a dict from class to images uint8"),
    "lists": ({"a": [images(0)]}, "class 'a' is a list; an array uint8"),
    "a cache": ({"image_data": images(0), "class_dict": {"a": [0]}}, "class 'class_dict' is a dict"),
    "a fraction": ({1.5: images(0)}, "class 1.5 is a float; a class is named by str, bytes or int"),
    "a truth": ({True: images(0)}, "class True is a bool"),
    "same name": ({1: images(0), "1": images(1)}, "two classes are named '1'"),
    "other text": ({b"\xff": images(0)}, "is no UTF-8 text"),
    "objects": ({"a": np.array([None])}, "refused, and nothing in it was run"),
}


@pytest.mark.parametrize(("content", "problem"), PICKLES.values(), ids=PICKLES)
def test_a_bad_pickle_is_refused(tmp_path, content, problem):
    with pytest.raises(DataError, match=f"train_set.pkl: .*{problem}"):
        fewshot(write(tmp_path, train=content), 0)


def test_classes_and_sizes_are_compared_between_files(tmp_path):
    root = write(tmp_path, test={"z": images(0), "cat": images(1)})
    with pytest.raises(DataError, match="test_set.pkl: class 'cat' is in val_set.pkl too.*counts its classes from 0"):
        fewshot(root, 0)
    with pytest.raises(DataError, match="val_set.pkl: class 'c' is 4x6x1, class '9' of train_set.pkl is 4x6x3"):
        fewshot(write(tmp_path, val={"c": images(0)[..., 0]}), 0)
    with pytest.raises(DataError, match=f"{tmp_path}: no class has two records"):
        fewshot(write(tmp_path, train={"a": images(0, 1)}, val={"b": images(0, 1)}, test={"c": images(0, 1)}), 0)


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_file_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path, split, suffix):
    root, trace = write(tmp_path), tmp_path / "ran"
    (tmp_path / f"{split}_set.pkl").unlink()
    bad = Runs(trace) if suffix == ".pkl" else np.array([Runs(trace)], object)
    write_file(tmp_path / f"{split}_set{suffix}", {"c": bad, "d": images(0)})
    with pytest.raises(
        DataError, match=rf"{split}_set{suffix}: (refused, and nothing in it was run|class 'c' is object)"
    ):
        fewshot(root, 0)
    assert not trace.exists()


def test_a_damaged_archive_is_named_when_its_pixels_are_read(tmp_path):
    root = write(
        tmp_path,
        ".npz",
        train={"a": np.zeros((9, 64, 64, 3), np.uint8)},
        val=None,
        test={"b": images(0, 9, (64, 64, 3))},
    )
    path = tmp_path / "train_set.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 10_000] ^= 1
    path.write_bytes(content)
    records = fewshot(root, 0).open("train")
    assert set(records.labels) == {0, 1}
    with pytest.raises(DataError, match="train_set.npz: not a readable .npz file"):
        records[0]


def test_pixels_of_an_archive_are_read_once_for_all_splits_and_threads(tmp_path, monkeypatch):
    """While one thread reads, another asks and waits. (A wait that ends too early misses a fault, and sees none.)"""
    dataset = fewshot(write(tmp_path, ".npz"), 0)
    splits = [dataset.open(split) for split in ("train", "test")]
    read, whole, again = [], archive.arrays, threading.Event()
    other = threading.Thread(target=lambda: splits[1][0])

    def arrays(path):
        read.append(path.name)
        if len(read) == 1:
            other.start()
            again.wait(0.2)
        else:
            again.set()
        return whole(path)

    monkeypatch.setattr(archive, "arrays", arrays)
    assert len(splits[0].labels) == dataset.sizes["train"] and read == []
    assert splits[0][0].label == 0
    other.join()
    assert [s.fingerprint for s in splits] and sorted(read) == ["test_set.npz", "train_set.npz", "val_set.npz"]


def test_a_set_is_held_in_memory_once(tmp_path):
    big = {name: np.zeros((100, 64, 64, 3), np.uint8) for name in "ab"}
    size = sum(x.nbytes for x in big.values()) * 2
    root = write(tmp_path, train=big, val=None, test={name * 2: x for name, x in big.items()})
    tracemalloc.start()
    try:
        dataset = fewshot(root, 0)
        for split in ("train", "test"):
            dataset.open(split)[0]
            assert dataset.open(split).fingerprint
        assert tracemalloc.get_traced_memory()[1] < 1.4 * size
    finally:
        tracemalloc.stop()
