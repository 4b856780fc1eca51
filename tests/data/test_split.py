import numpy as np
import pytest

from diffusion.data.split import check_fraction, held_out_count, sizes_of_counts, split_sizes, stratified
from diffusion.errors import ConfigError, DataError

LABELS = np.repeat(np.arange(4, dtype=np.int32), [50, 7, 2, 1])


@pytest.mark.parametrize(
    ("n", "fraction", "expected"),
    [(1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 3), (10, 0.2, 2), (178, 0.2, 36)],
)
def test_a_class_is_rounded_and_keeps_both_sides(n, fraction, expected):
    assert held_out_count(n, fraction) == expected


@pytest.mark.parametrize("labels", [LABELS, np.full(9, -1, np.int32)], ids=["labelled", "unlabelled"])
def test_every_record_is_on_one_side_in_the_stated_numbers(labels):
    split = stratified(labels, 0.2, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(len(labels)))
    assert {name: len(kept) for name, kept in split.items()} == split_sizes(labels, 0.2, "set")
    for label, n in zip(*np.unique(labels, return_counts=True), strict=True):
        assert np.sum(labels[split["test"]] == label) == held_out_count(int(n), 0.2)


def test_it_depends_on_the_seed_and_on_nothing_else():
    first = stratified(LABELS, 0.2, seed=3)["test"]
    np.random.random()  # noqa: NPY002, the global state moves
    np.testing.assert_array_equal(first, stratified(LABELS, 0.2, seed=3)["test"])
    assert not np.array_equal(first, stratified(LABELS, 0.2, seed=4)["test"])


def test_the_draw_is_the_same_for_ever():
    """A shipped classifier was trained on one side: no version of NumPy may move a record to the other."""
    assert stratified(np.repeat([0, 1], 8), 0.25, seed=0)["test"].tolist() == [1, 3, 9, 12]


def test_other_classes_do_not_move_a_class():
    alone = stratified(LABELS[:50], 0.2, seed=3)["test"]
    np.testing.assert_array_equal(alone, [i for i in stratified(LABELS, 0.2, seed=3)["test"] if i < 50])


def test_nothing_to_hold_out_is_refused():
    with pytest.raises(DataError, match="the set: no class has two records"):
        sizes_of_counts([1, 1, 1], 0.5, "the set")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_lies_inside_0_and_1(fraction):
    with pytest.raises(ConfigError, match="data.x: is "):
        check_fraction("data.x", fraction)
