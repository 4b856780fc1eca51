import numpy as np
import pytest

from diffusion.data.split import check_fraction, counts_of, held_out_count, sizes_of_counts, split_sizes, stratified
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


@pytest.mark.parametrize(
    ("n", "test", "val", "expected"),
    [
        *((0, 0.15, 0.15, (0, 0, 0)), (1, 0.15, 0.15, (1, 0, 0)), (2, 0.15, 0.15, (1, 0, 1))),
        *((3, 0.15, 0.15, (1, 1, 1)), (3, 0.9, 0.05, (1, 1, 1)), (3, 0.05, 0.9, (1, 1, 1))),
        *((60, 0.15, 0.15, (42, 9, 9)), (100, 0.15, 0.15, (70, 15, 15)), (178, 0.2, 0.1, (124, 18, 36))),
    ],
)
def test_the_counts_of_three_splits(n, test, val, expected):
    assert tuple(counts_of(n, test, val).values()) == expected and sum(expected) == n


def test_three_splits_hold_every_record_once_and_val_takes_from_train_alone():
    split, two = stratified(LABELS, 0.2, 3, 0.1), stratified(LABELS, 0.2, 3)
    assert list(split) == ["train", "val", "test"]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(len(LABELS)))
    np.testing.assert_array_equal(split["test"], two["test"])
    for label, n in zip(*np.unique(LABELS, return_counts=True), strict=True):
        found = {name: int(np.sum(LABELS[kept] == label)) for name, kept in split.items()}
        assert found == counts_of(int(n), 0.2, 0.1)


def test_what_is_validated_on_is_the_same_for_ever_and_other_classes_do_not_move_it():
    assert stratified(np.repeat([0, 1], 8), 0.25, 0, 0.25)["val"].tolist() == [2, 6, 10, 13]
    assert stratified(np.repeat([0], 8), 0.25, 0, 0.25)["val"].tolist() == [2, 6]
    assert stratified(np.repeat([0, 1], 8), 0.25, 1, 0.25)["val"].tolist() != [2, 6, 10, 13]


def test_nothing_to_hold_out_is_refused():
    with pytest.raises(DataError, match="the set: no class has two records"):
        sizes_of_counts([1, 1, 1], 0.5, "the set")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_lies_inside_0_and_1(fraction):
    with pytest.raises(ConfigError, match="data.x: is "):
        check_fraction("data.x", fraction)
