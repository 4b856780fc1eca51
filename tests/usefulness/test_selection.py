"""Copies go, the nearest to real images of their class stay, at exact counts."""

import numpy as np
import pytest

from diffusion.usefulness.selection import Judged, Seen, choose, judge, pools

# Two classes on a line: 0 at 0, 10, 20, 1 at 100, 110, 120; in pixels and in features alike.
PLACES = np.array([0.0, 10, 20, 100, 110, 120])
TRAIN_LABELS = np.array([0, 0, 0, 1, 1, 1])


def seen(pixels, features, labels):
    pixels, features = (np.asarray(values, np.float64)[:, None] for values in (pixels, features))
    return Seen(pixels, features, np.asarray(labels))


TRAIN = seen(PLACES, PLACES, TRAIN_LABELS)


def test_copies_are_found_in_pixels_and_in_features_alike():
    pixels, features = [10, 10, 16, 3, 104], [10, 15, 10, 4, 104]
    made = judge(seen(pixels, features, [0, 0, 0, 0, 1]), TRAIN)
    #                    both   pixels features 3 of 10 0.4
    assert made.copy.tolist() == [True, True, True, True, False]


def test_a_copy_of_another_class_is_one_too():
    assert judge(seen([110], [110], [0]), TRAIN).copy.tolist() == [True]


def test_realistic_is_near_to_its_own_class_in_features():
    made = judge(seen([50, 50, 50], [25, 100, 100], [0, 0, 1]), TRAIN)
    np.testing.assert_allclose(made.distance, [5, 80, 0])


def test_the_nearest_of_each_class_are_kept():
    labels = np.array([1, 0, 0, 1, 0, 0, 1, 0])
    distance = np.array([5.0, 3, 1, 4, 2, 9, 6, 0])
    copy = np.array([False, False, True, False, False, False, False, False])
    found = choose(Judged(labels, copy, distance), np.array([2, 2]), 2.0, drop_copies=True)
    # of class 0 the first four: 1, 2 (a copy), 4, 5; the eighth image is beyond them. Of class 1: 0, 3, 6
    assert found.rows.tolist() == [0, 1, 3, 4]
    table = [found.asked, found.drawn, found.dropped, found.kept]
    assert [counts.tolist() for counts in table] == [[2, 2], [4, 3], [1, 0], [2, 2]]
    kept = choose(Judged(labels, copy, distance), np.array([2, 2]), 2.0, drop_copies=False)
    assert kept.rows.tolist() == [0, 2, 3, 4] and kept.dropped.tolist() == [0, 0]


def test_without_more_than_are_needed_there_is_no_choice():
    labels, distance = np.zeros(5, int), np.array([9.0, 1, 8, 2, 7])
    found = choose(Judged(labels, np.zeros(5, bool), distance), np.array([3, 0]), 1.0, drop_copies=True)
    assert found.rows.tolist() == [0, 1, 2] and found.kept.tolist() == [3, 0]


def test_where_too_few_remain_these_are_taken():
    judged = Judged(np.zeros(4, int), np.array([True, False, True, True]), np.zeros(4))
    found = choose(judged, np.array([4]), 1.0, drop_copies=True)
    assert (found.rows.tolist(), found.asked[0], found.dropped[0], found.kept[0]) == ([1], 4, 3, 1)
    none = choose(Judged(np.zeros(2, int), np.ones(2, bool), np.zeros(2)), np.array([2]), 1.0, drop_copies=True)
    assert len(none.rows) == 0 and none.kept.tolist() == [0]


@pytest.mark.parametrize("share, wanted", [(1.0, [7, 0, 50]), (1.1, [8, 0, 55]), (1.5, [11, 0, 75])])
def test_pools(share, wanted):
    assert 50 * 1.1 > 55, "rounding asks for no 56th"
    assert pools(np.array([7, 0, 50]), share).tolist() == wanted
