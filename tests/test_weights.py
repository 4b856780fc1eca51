import pickle

import numpy as np
import pytest

from diffusion.errors import DataError
from diffusion.weights import Weights, load_weights, save_weights

TREE = {"a": {"kernel": np.arange(6, dtype=np.float16).reshape(2, 3)}, "b": np.ones(3, np.float16)}


def weights(tree=TREE) -> Weights:
    return Weights(tree, fingerprint="f" * 64, accuracy=0.5)


def test_round_trip_and_equal_bytes(tmp_path):
    one, two = tmp_path / "deep" / "one.npz", tmp_path / "two.npz"
    save_weights(one, weights())
    save_weights(two, weights())
    loaded = load_weights(one)
    assert (loaded.sha256, loaded.fingerprint, loaded.accuracy) == (weights().sha256, "f" * 64, 0.5)
    np.testing.assert_array_equal(loaded.tree["a"]["kernel"], TREE["a"]["kernel"])
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "two.npz"]


@pytest.mark.parametrize(
    "tree",
    [
        {**TREE, "b": np.array([1, 1, 1.001], np.float16)},
        {**TREE, "c": np.ones(0, np.float16)},
        {**TREE, "a": {"kernel": TREE["a"]["kernel"].reshape(3, 2)}},
        {"a": TREE["a"], "c": TREE["b"]},
    ],
)
def test_the_hash_sees_values_shapes_and_names(tree):
    assert weights(tree).sha256 != weights().sha256


class Runs:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("kind", ["object array", "pickled npy", "pickle", "header"])
def test_nothing_pickled_is_run(tmp_path, kind):
    path, bad = tmp_path / "w.npz", np.array([Runs()], object)
    save_weights(path, weights())
    if kind == "object array":
        with np.load(path) as file:
            np.savez(path, **(dict(file) | {"b": bad}))
    elif kind == "header":
        np.savez(path, header=bad, b=TREE["b"])
    elif kind == "pickled npy":
        np.save(tmp_path / "w.npy", bad)
        (tmp_path / "w.npy").rename(path)
    else:
        path.write_bytes(pickle.dumps({"b": Runs()}))
    with pytest.raises(DataError, match="w.npz: not a readable weights file"):
        load_weights(path)


@pytest.mark.parametrize("header", ["[]", "{}", '{"sha256": 1}', "no json", '{"a": 1, "b": 2, "c": 3}'])
def test_a_header_of_something_else_is_named(tmp_path, header):
    np.savez(tmp_path / "w.npz", header=np.array(header), b=TREE["b"])
    with pytest.raises(DataError, match="w.npz: not a readable weights file"):
        load_weights(tmp_path / "w.npz")


def test_changed_weights_are_refused(tmp_path):
    path = tmp_path / "w.npz"
    save_weights(path, weights())
    with np.load(path) as file:
        arrays = dict(file)
    arrays["b"] = arrays["b"] + np.float16(0.5)
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=f"w.npz.*the file says {weights().sha256[:8]}.*changed or damaged"):
        load_weights(path)


@pytest.mark.parametrize("spoil", ["cut", "flip", "empty", "foreign", "missing"])
def test_files_that_cannot_be_read_are_named(tmp_path, spoil):
    path = tmp_path / "w.npz"
    save_weights(path, weights())
    data = bytearray(path.read_bytes())
    if spoil == "flip":
        at = data.index(TREE["a"]["kernel"].tobytes())
        data[at + 3] ^= 0xFF
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "foreign": b"hello"}.get(spoil, data))
    if spoil == "missing":
        np.savez(path, b=TREE["b"])
    with pytest.raises(DataError, match="w.npz: not a readable weights file"):
        load_weights(path)
