"""The digits, and what every source promises."""

import os
import subprocess
import sys

import numpy as np
import pytest

from diffusion.data.digits import DIGITS_PER_CLASS
from diffusion.data.records import ArrayRecords
from diffusion.data.sources import SOURCES, digits
from diffusion.errors import ConfigError
from diffusion.tables import rows


def test_every_row_has_config_fields_of_plain_types():
    fields = rows(SOURCES)
    assert set(fields) == {"digits", "tfds", "folder", "npz", "latents", "fewshot", "digits_folder"}
    assert all(isinstance(value, int | float | str | bool | tuple) for row in fields.values() for value in row.values())


class TestDigits:
    def test_the_written_counts_are_scikit_learns(self):
        from sklearn.datasets import load_digits

        assert tuple(np.bincount(load_digits().target)) == DIGITS_PER_CLASS

    def test_metadata_is_true(self):
        dataset = digits("", 0)
        assert dataset.sizes == {"train": 1438, "test": 359}
        assert sum(dataset.sizes.values()) == 1797
        for split, size in dataset.sizes.items():
            records = dataset.open(split)
            assert len(records) == size == len(records.labels)
            assert records.labelled and set(records.labels) == set(range(len(dataset.classes)))
            assert records[0].image.shape == dataset.image_shape == (8, 8, 1)

    def test_pixels_are_rounded_half_up_to_the_full_range(self):
        from sklearn.datasets import load_digits

        levels = {0: 0, 1: 16, 7: 112, 8: 128, 9: 143, 15: 239, 16: 255}
        raw, records = load_digits(), digits("", 0).open("train")
        first = next(i for i in range(1797) if raw.target[i] == records[0].label and i in _train_members())
        for level, value in levels.items():
            assert set(records[0].image[:, :, 0][raw.images[first] == level]) <= {value}
        assert records.images.max() == 255 and records.images.dtype == np.uint8

    def test_the_sides_share_nothing_and_follow_the_seed(self):
        prints = {
            (seed, split): digits("", seed).open(split).fingerprint for seed in (0, 1) for split in ("train", "test")
        }
        assert len(set(prints.values())) == 4
        assert digits("", 0).open("test").fingerprint == prints[0, "test"]

    def test_fraction_is_checked(self):
        with pytest.raises(ConfigError, match="data.digits.test_fraction: is 1.0"):
            digits("", 0, test_fraction=1.0)

    def test_an_unknown_split_lists_those_there_are(self):
        with pytest.raises(ConfigError, match="no split 'val'; there are: test, train"):
            digits("", 0).open("val")

    def test_a_split_is_opened_once(self):
        dataset = digits("", 0)
        assert dataset.open("test") is dataset.open("test")


def _train_members() -> set[int]:
    from sklearn.datasets import load_digits

    from diffusion.data.split import stratified

    return set(stratified(load_digits().target.astype(np.int32), 0.2, 0)["train"].tolist())


def test_array_fingerprint_sees_pixels_labels_and_shape():
    images, labels = np.zeros((2, 2, 4, 1), np.uint8), np.zeros(2, np.int32)
    other = images.copy()
    other[1, 1, 1] = 1
    variants = [(images, labels), (other, labels), (images, labels + 1), (images.reshape(2, 4, 2, 1), labels)]
    assert len({ArrayRecords(x, y, True).fingerprint for x, y in variants}) == 4


def test_metadata_imports_nothing_heavy(tmp_path):
    """`--mode=describe` knows sizes and classes without the libraries that read the data."""
    code = (
        "import sys; from diffusion.data.sources import digits; from diffusion.data.loader import Loader;"
        "d = digits('', 0); print(d.sizes, sorted({'sklearn', 'grain', 'tensorflow_datasets', 'tensorflow'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "{'train': 1438, 'test': 359} []", done.stderr
