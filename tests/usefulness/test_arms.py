"""Training sets of the arms, image by image."""

import numpy as np
import pytest

from diffusion.classifier_fit import Labelled
from diffusion.usefulness.arms import ARMS, COMPARED, left_out
from diffusion.usefulness.selection import Chosen

NAMES = ("cat", "dog", "emu")


def images(labels, first: int = 0):
    """Image i is filled with ``first`` + i."""
    values = np.arange(first, first + len(labels), dtype=np.uint8)
    return Labelled(np.tile(values[:, None, None, None], (1, 8, 8, 1)), np.array(labels))


TRAIN, MADE = images([0, 1, 0, 0, 2, 1, 0, 0]), images([1, 2, 2], first=100)


@pytest.mark.parametrize(
    "arm, values",
    [
        ("real", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("real_balanced", [0, 1, 2, 3, 4, 5, 6, 7, 1, 5, 1, 4, 4, 4, 4]),
        ("synthetic", [100, 101, 102]),
        ("real+synthetic", [0, 1, 2, 3, 4, 5, 6, 7, 100, 101, 102]),
    ],
)
def test_every_arm(arm, values):
    found = ARMS[arm](TRAIN, MADE)
    assert found.images[:, 0, 0, 0].tolist() == values
    known = dict(zip(range(8), TRAIN.labels, strict=True)) | dict(zip(range(100, 103), MADE.labels, strict=True))
    assert found.labels.tolist() == [known[value] for value in values]


def test_all_arms_are_tried_and_compared_with_real_and_the_honest_baseline():
    assert set(ARMS) == {"real", "real_balanced", "synthetic", "real+synthetic"}
    assert {(arm, "real") for arm in ARMS if arm != "real"} | {("real+synthetic", "real_balanced")} == set(COMPARED)


def test_balanced_classes_stay_as_they_are():
    even = images([1, 0, 2, 0, 1, 2])
    np.testing.assert_array_equal(ARMS["real_balanced"](even, None).images, even.images)


def chosen(kept, asked=(5, 5, 5)):
    kept, asked = np.array(kept), np.array(asked)
    return Chosen(np.arange(kept.sum()), asked, asked, asked - kept, kept)


@pytest.mark.parametrize(
    "arm, kept, said",
    [
        ("synthetic", [[5, 5, 1], [5, 4, 5]], ""),
        ("synthetic", [[5, 5, 5], [5, 0, 5]], "no image is left of class dog"),
        ("real+synthetic", [[0, 5, 0], [0, 1, 0]], ""),
        ("real+synthetic", [[0, 5, 0], [0, 0, 0]], "no synthetic image is left"),
    ],
)
def test_what_cannot_be_trained_is_left_out(arm, kept, said):
    found = left_out(arm, [chosen(one) for one in kept], NAMES)
    assert found.startswith(said) and bool(found) == bool(said)


def test_nothing_to_fill_up_is_another_reason():
    nothing = chosen([0, 0, 0], asked=(0, 0, 0))
    assert "every class is as large as the largest" in left_out("real+synthetic", [nothing], NAMES)
