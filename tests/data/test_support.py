"""Supports of drawn images: the same for the same (class, index), whoever asks and in whatever order."""

import numpy as np
import pytest

from diffusion.data import support
from diffusion.data.support import of_classes, of_images
from diffusion.types import ImageSet

COUNTS, PLACES, SHARED, SHAPE = {0: 12, 1: 3, 3: 5}, 5, 6, (2, 2, 1)
LABELS = np.repeat(list(COUNTS), list(COUNTS.values())).astype(np.int32)[::-1]
IMAGES = np.arange(len(LABELS) * 4, dtype=np.uint8).reshape(-1, *SHAPE) + 1
BLANK = np.zeros(SHAPE, np.uint8)
ASKED = [(c, i) for c in COUNTS for i in range(3 * SHARED)]


def sets_of(*, seed=0, places=PLACES, shared=SHARED, read=IMAGES.__getitem__):
    return of_classes(LABELS, read, BLANK, places=places, shared=shared, seed=seed)


def of(found, asked) -> ImageSet:
    return found.of(*(np.array(part) for part in zip(*asked, strict=True)))


def numbers(found, c: int, i: int) -> list[int]:
    """Of the records that are shown."""
    return [(int(image[0, 0, 0]) - 1) // 4 for image in found.shown(c, i)]


def test_the_same_image_has_the_same_set_in_any_order_batch_and_process():
    whole = of(sets_of(), ASKED)
    assert whole.images.shape == (len(ASKED), PLACES, *SHAPE) and whole.images.dtype == np.uint8
    assert whole.valid.shape == (len(ASKED), PLACES) and whole.valid.dtype == bool and whole.keys is None
    order = np.random.default_rng(1).permutation(len(ASKED))
    for part in (order[:7], order[7:8], order[8:]):
        found = of(sets_of(), [ASKED[i] for i in part])
        np.testing.assert_array_equal(found.images, whole.images[part])
        np.testing.assert_array_equal(found.valid, whole.valid[part])


def test_images_of_a_group_share_a_set_and_groups_do_not():
    for c in (0, 3):
        groups = [{tuple(numbers(sets_of(), c, i)) for i in range(g * SHARED, (g + 1) * SHARED)} for g in range(3)]
        assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 3


def test_a_set_is_drawn_from_its_class_without_replacement():
    for c, i in ASKED:
        found = numbers(sets_of(), c, i)
        assert len(set(found)) == len(found) == min(PLACES, COUNTS[c]) and np.all(LABELS[found] == c)


def test_the_seed_and_the_class_decide():
    assert numbers(sets_of(), 0, 0) != numbers(sets_of(seed=1), 0, 0)
    twins = of_classes(np.arange(24) % 2, lambda i: BLANK + 4 * i + 1, BLANK, places=PLACES, shared=SHARED, seed=0)
    assert [i // 2 for i in numbers(twins, 0, 0)] != [i // 2 for i in numbers(twins, 1, 0)]


@pytest.mark.parametrize(("c", "shown"), [(1, 3), (2, 0), (0, PLACES)])
def test_places_without_a_record_are_blank_and_not_valid(c, shown):
    found = of(sets_of(), [(c, 0)])
    assert found.valid[0].tolist() == [True] * shown + [False] * (PLACES - shown)
    assert np.all(found.images[0, :shown] > 0) and np.all(found.images[0, shown:] == 0)
    assert len(sets_of().shown(c, 0)) == shown


def test_a_record_that_cannot_be_read_leaves_its_place_empty():
    whole = numbers(sets_of(), 0, 0)
    found = sets_of(read=lambda i: None if i == whole[2] else IMAGES[i])
    assert numbers(found, 0, 0) == whole[:2] + whole[3:]
    assert of(found, [(0, 0)]).valid[0].tolist() == [True, True, False, True, True]


def test_a_record_is_read_once():
    read = []
    of(sets_of(read=lambda i: read.append(i) or IMAGES[i]), ASKED * 2)
    assert len(read) == len(set(read))


def test_what_is_kept_in_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(support, "KEPT", 2)
    read = []
    found = sets_of(read=lambda i: read.append(i) or IMAGES[i])
    for _ in range(2):
        of(found, [(0, 0)])
    assert len(read) == 2 * PLACES, "five images do not fit in two places"


class TestGivenImages:
    @pytest.mark.parametrize("m", [1, 3, 5])
    def test_up_to_the_most_all_are_shown_to_every_image(self, m):
        found = of_images(IMAGES[:m], most=5, seed=0)
        sets = of(found, [(0, 0), (0, 9), (4, 2)])
        assert sets.images.shape == (3, m, *SHAPE), "no places that nobody fills"
        assert sets.valid.all()
        for row in sets.images:
            np.testing.assert_array_equal(row, IMAGES[:m])

    def test_of_more_every_image_has_a_part_of_its_own(self):
        parts = [numbers(of_images(IMAGES[:8], most=5, seed=0), 0, i) for i in range(40)]
        assert all(len(part) == 5 and part == sorted(set(part)) for part in parts)
        assert set(sum(parts, [])) == set(range(8)) and len({tuple(part) for part in parts}) > 10
        assert parts == [numbers(of_images(IMAGES[:8], most=5, seed=0), 0, i) for i in range(40)]
        assert parts != [numbers(of_images(IMAGES[:8], most=5, seed=1), 0, i) for i in range(40)]
