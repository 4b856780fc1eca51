"""Records of named arrays in array_record files: they come back as they were, and damage is met with its name."""

import numpy as np
import pytest

from diffusion.data.array_shards import Layout, Shards, layout_of, shard_names, write_shard
from diffusion.errors import DataError

ARRAYS = {
    "latent": (np.dtype("<f4"), (1, 4, 4, 2)),
    "label": (np.dtype("<i4"), ()),
    "text": (np.dtype("<f2"), (3, 5)),
    "text_valid": (np.dtype("bool"), (3,)),
}
LAYOUT = Layout(ARRAYS)
COUNTS = (700, 1, 299)


def example(i):
    rng = np.random.default_rng(i)
    return {name: rng.normal(size=shape).astype(dtype) for name, (dtype, shape) in ARRAYS.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    paths, starts = [folder / name for name in shard_names("train", 3)], np.cumsum((0, *COUNTS))
    for path, start, count in zip(paths, starts, COUNTS, strict=False):
        write_shard(path, (LAYOUT.packed(example(i)) if i != 5 else b"" for i in range(start, start + count)))
    return paths


def test_every_record_comes_back(files):
    assert [path.name for path in files] == [f"train-0000{i}-of-00003.array_record" for i in range(3)]
    shards, again = Shards(files, COUNTS), layout_of(LAYOUT.as_json())
    assert len(shards) == 1000 and shards[5] == b"" and again == LAYOUT
    for i in (0, 699, 700, 701, 999):
        np.testing.assert_equal(again.unpacked(shards[i]), example(i))


def test_a_record_of_another_form_is_refused():
    with pytest.raises(ValueError, match="do not fit the layout"):
        LAYOUT.packed(example(0) | {"latent": np.zeros((1, 4, 4, 2))})
    with pytest.raises(DataError, match="holds 3 bytes"):
        LAYOUT.unpacked(b"abc")


def test_a_file_that_is_cut_short_is_refused(files, tmp_path):
    path = tmp_path / "short"
    path.write_bytes(files[0].read_bytes()[:-100])
    with pytest.raises(DataError, match="short is damaged or cut short: 0 of 700"):
        Shards([path], [700])


def test_a_bit_that_changed_is_met_where_it_is_read(files, tmp_path):
    path, record = tmp_path / "damaged", LAYOUT.packed(example(300))
    whole = files[0].read_bytes()
    assert whole.count(record) == 1
    path.write_bytes(whole.replace(record, record[:-1] + bytes([record[-1] ^ 1])))
    shards = Shards([path], [700])
    assert shards[0] == LAYOUT.packed(example(0))
    with pytest.raises(DataError, match="damaged, record 300: Corrupted"):
        shards[300]
