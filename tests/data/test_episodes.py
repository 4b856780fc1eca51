"""Sets of a class as the loader makes them: who is a target, who is shown, and that it is the same at every cut."""

from contextlib import closing
from dataclasses import fields, replace
from itertools import islice

import jax
import numpy as np
import pytest

from diffusion.data.episodes import Episodes, Sets, check_classes
from diffusion.data.loader import make_loader, one_epoch
from diffusion.data.records import ArrayRecords
from diffusion.data.transforms import Transform, turned
from diffusion.errors import DataError
from diffusion.types import Batch
from tests.data.test_loader import Broken, nothing

COUNTS = {0: 7, 1: 4, 2: 3, 4: 12}  # of class 2 there are fewer than a set holds, and none of class 3
N, SIZE, SHAPE = sum(COUNTS.values()), 4, (2, 2, 1)
LABELS = np.repeat(list(COUNTS), list(COUNTS.values())).astype(np.int32)[np.arange(N) * 7 % N]  # 7 and 26 are coprime
# four different pixels, which say which record it is and how it is turned
IMAGES = np.arange(N * 4, dtype=np.uint8).reshape(N, *SHAPE)
RECORDS = ArrayRecords(IMAGES, LABELS, labelled=True)
KEEP = Transform(SHAPE, resize=False, flip=False)
DEFAULT = Sets(size=SIZE)


def episodes(sets: Sets = DEFAULT, *, shuffle: bool = True, batch_size: int = 5, seed: int = 7, labels=LABELS):
    return Episodes(labels, batch_size, seed, shuffle, sets)


def epoch(order: Episodes, number: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, members, turns) of all rows of an epoch."""
    steps = order.steps_per_epoch
    rows = [order.rows(step) for step in range(number * steps, (number + 1) * steps)]
    return tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))


def contexts(order: Episodes, number: int = 0) -> dict[int, list[int]]:
    """{target: members of its context} of an epoch; a target that stands there twice fails."""
    ids, members, _ = epoch(order, number)
    assert len(set(ids.tolist())) == len(ids), "a target twice in one epoch"
    assert members.shape == (len(ids), order.sets.places) and members.dtype == np.int64
    assert np.all((members >= 0)[:, :-1] >= (members >= 0)[:, 1:]), "places without a member come last"
    return {int(i): [m for m in row if m >= 0] for i, row in zip(ids, members.tolist(), strict=True)}


def loader(sets: Sets = DEFAULT, records=RECORDS, **options):
    return make_loader(records, KEEP, **{"batch_size": 5, "rows": 6, "seed": 7, "threads": 0, "sets": sets} | options)


def assert_same(a: Batch, b: Batch) -> None:
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype, path
        np.testing.assert_array_equal(one, other, err_msg=jax.tree_util.keystr(path))


EVERY = {
    "leave one out": Sets(size=SIZE),
    "whole sets": Sets(size=SIZE, leave_one_out=False),
    "of several sizes": Sets(size=SIZE, min_size=2),
    "whole, of several sizes": Sets(size=SIZE, min_size=1, leave_one_out=False),
    "two targets": Sets(size=SIZE, targets=2),
    "pairs": Sets(size=2),
    "larger than every class": Sets(size=20),
}
each = pytest.mark.parametrize("sets", EVERY.values(), ids=EVERY.keys())


class TestTargets:
    @each
    @pytest.mark.parametrize("number", [0, 1, 5])
    def test_every_record_is_a_target_once_an_epoch(self, sets, number):
        order = episodes(replace(sets, targets=0))
        assert sorted(contexts(order, number)) == list(range(N))
        assert order.steps_per_epoch == -(-N // 5)

    @pytest.mark.parametrize("size", [2, 3, 4, 5, 20])
    @pytest.mark.parametrize("targets", [1, 2, 3])
    def test_of_every_set_so_many_are_targets(self, size, targets):
        sets = Sets(size=size, targets=min(targets, size))
        order, counts = episodes(sets), np.array(list(COUNTS.values()))
        found = contexts(order)
        for label, count in COUNTS.items():
            own = [size] * (count // size) + [count % size] * (count % size > 0)  # sizes of a class's sets
            assert sum(LABELS[i] == label for i in found) == sum(min(sets.targets, n) for n in own)
        assert len(found) == sets.targets_of(counts) and order.steps_per_epoch == -(-len(found) // 5)

    def test_in_time_every_record_is_a_target(self):
        order = episodes(Sets(size=SIZE, targets=1))
        assert set().union(*(contexts(order, number) for number in range(40))) == set(range(N))

    def test_without_shuffle_every_record_is_a_target(self):
        order = episodes(Sets(size=SIZE, targets=1), shuffle=False)
        assert sorted(contexts(order)) == list(range(N)) and order.steps_per_epoch == -(-N // 5)

    def test_the_seed_decides(self):
        sets = Sets(size=SIZE, targets=1)
        assert contexts(episodes(sets)) == contexts(episodes(sets)) != contexts(episodes(sets, seed=8))


class TestMembers:
    @each
    @pytest.mark.parametrize("shuffle", [True, False])
    def test_they_are_others_of_the_targets_class(self, sets, shuffle):
        for number in range(3):
            for target, members in contexts(episodes(sets, shuffle=shuffle), number).items():
                assert len(set(members)) == len(members) and np.all(LABELS[members] == LABELS[target])
                assert (target in members) is not sets.leave_one_out
                if not sets.min_size:
                    whole = min(sets.size, COUNTS[int(LABELS[target])])
                    assert len(members) == whole - sets.leave_one_out

    def test_a_class_smaller_than_a_set_shows_all_the_others(self):
        for target, members in contexts(episodes()).items():
            if LABELS[target] == 2:
                assert {target, *members} == set(np.flatnonzero(LABELS == 2))

    def test_a_last_smaller_set_is_filled_up_with_targets_of_other_sets(self):
        """Of 7 records 4 make a set, and the 3 that are left borrow one of those."""
        found = {t: m for t, m in contexts(episodes()).items() if LABELS[t] == 0}
        sets = {frozenset({target, *members}) for target, members in found.items()}
        assert len(found) == 7 and all(len(members) == SIZE - 1 for members in found.values())
        assert len(sets) == 2 and sorted(len(one) for one in sets) == [SIZE, SIZE]
        assert len(frozenset.intersection(*sets)) == 1

    def test_a_sets_examples_follow_each_other(self):
        ids, members, _ = epoch(episodes())
        sets = [frozenset({int(i), *row}) - {-1} for i, row in zip(ids, members.tolist(), strict=True)]
        changes = sum(a != b for a, b in zip(sets, sets[1:], strict=False))
        assert changes == len(set(sets)) - 1

    @pytest.mark.parametrize(
        ("sets", "sizes"),
        [
            (Sets(size=5, min_size=2), {1, 2, 3, 4}),
            (Sets(size=5, min_size=4), {3, 4}),
            (Sets(size=5, min_size=5), {4}),
            (Sets(size=5, min_size=1, leave_one_out=False), {1, 2, 3, 4, 5}),
        ],
    )
    @pytest.mark.parametrize("shuffle", [True, False])
    def test_sizes_of_contexts_cover_what_is_asked_and_nothing_else(self, sets, sizes, shuffle):
        labels = np.repeat(np.arange(40), 5)
        found = contexts(episodes(sets, labels=labels, shuffle=shuffle))
        assert {len(members) for members in found.values()} == sizes
        for label in range(40):
            assert len({len(found[i]) for i in np.flatnonzero(labels == label).tolist()}) == 1, "one set, one size"

    def test_a_new_cut_every_epoch_and_one_cut_for_ever_without_shuffle(self):
        cuts = [contexts(episodes(), number) for number in range(4)]
        sets = {frozenset(frozenset({t, *m}) for t, m in cut.items()) for cut in cuts}
        assert len(sets) == 4
        fixed = episodes(shuffle=False)
        assert all(np.array_equal(a, b) for a, b in zip(epoch(fixed), epoch(fixed, 9), strict=True))

    def test_the_order_and_the_sets_are_the_same_for_ever(self):
        """A run resumed under another NumPy or Python goes on with the same batches."""
        rows = episodes(Sets(size=SIZE, min_size=2, symmetries=True)).rows(7)
        assert rows.ids.tolist() == [8, 23, 15, 18, 11]
        assert rows.members.tolist() == [[12, -1, -1], [12, -1, -1], [12, -1, -1], [11, 2, 14], [18, 2, 14]]
        assert rows.turns.tolist() == [5, 5, 5, 5, 5]


class TestLoading:
    @pytest.mark.parametrize("threads", [0, 4])
    @pytest.mark.parametrize("processes", [1, 2])
    def test_batches_are_the_same_after_a_cut_at_every_step(self, threads, processes):
        sets = Sets(size=SIZE, min_size=2, targets=3, symmetries=True)
        end = 2 * loader(sets).steps_per_epoch + 1
        reference = [loader(sets).batch(step) for step in range(end)]

        def stretch(first: int) -> list[Batch]:
            shared = []
            for i in range(processes):
                own = loader(sets, process_index=i, process_count=processes, threads=threads, prefetch=3)
                with closing(own.iterate(first)) as batches:
                    shared.append(list(islice(batches, end - first)))
            return [jax.tree.map(lambda *parts: np.concatenate(parts), *batch) for batch in zip(*shared, strict=True)]

        for cut in range(end):
            for found, expected in zip(stretch(cut), reference[cut:], strict=True):
                assert_same(found, expected)

    @pytest.mark.parametrize("symmetries", [True, False])
    @pytest.mark.parametrize("shuffle", [True, False])
    def test_a_target_and_its_set_are_turned_alike(self, symmetries, shuffle):
        whole = loader(Sets(size=SIZE, symmetries=symmetries), shuffle=shuffle)
        seen = []
        for step in range(whole.steps_per_epoch):
            batch, rows = whole.batch(step), whole.order.rows(step)
            for row in np.flatnonzero(batch.valid):
                turn = rows.turns[row]
                np.testing.assert_array_equal(batch.x[row], turned(IMAGES[batch.id[row]], turn))
                for place, member in enumerate(rows.members[row]):
                    assert batch.cond["set"].valid[row, place] == (member >= 0)
                    if member >= 0:
                        shown = batch.cond["set"].images[row, place]
                        np.testing.assert_array_equal(shown, turned(IMAGES[member], turn))
                seen.append((frozenset({*rows.members[row].tolist(), int(batch.id[row])}), int(turn)))
        assert len(set(seen)) == len({one for one, _ in seen}), "one set, one turn"
        turns = {turn for _, turn in seen}
        assert len(turns) > 2 if symmetries and shuffle else turns == {0}

    def test_all_eight_symmetries_come(self):
        order = episodes(Sets(size=2, symmetries=True))
        turns = np.concatenate([epoch(order, number)[2] for number in range(8)])
        assert set(turns.tolist()) == set(range(8))
        assert len({turned(IMAGES[0], turn).tobytes() for turn in range(8)}) == 8

    def test_shapes_dtypes_and_an_incomplete_last_batch(self):
        whole = loader()
        batches = list(one_epoch(whole))
        assert [batch.valid.sum() for batch in batches] == [5, 5, 5, 5, 5, 1] and whole.steps_per_epoch == 6
        for batch in batches:
            shown = batch.cond["set"]
            assert shown.images.shape == (6, SIZE - 1, *SHAPE) and shown.images.dtype == np.uint8
            assert shown.valid.shape == (6, SIZE - 1) and shown.valid.dtype == bool and shown.keys is None
            np.testing.assert_array_equal(batch.valid, batch.id >= 0)
            np.testing.assert_array_equal(batch.cond["label"][batch.valid], LABELS[batch.id[batch.valid]])
        ids = np.concatenate([batch.id for batch in batches])
        assert sorted(ids[ids >= 0]) == list(range(N))

    def test_the_set_is_shown_as_it_is_where_the_target_is_mirrored(self):
        flipping = make_loader(
            RECORDS, replace(KEEP, flip=True), batch_size=N, rows=N, seed=7, threads=0, sets=DEFAULT
        )  # fmt: skip
        batch, rows = flipping.batch(0), flipping.order.rows(0)
        assert {bool(np.array_equal(x, IMAGES[i])) for x, i in zip(batch.x, batch.id, strict=True)} == {True, False}
        shown = batch.cond["set"]
        np.testing.assert_array_equal(shown.images[shown.valid], IMAGES[rows.members[rows.members >= 0]])

    @pytest.mark.parametrize("bad", [(3,), tuple(np.flatnonzero(LABELS == 2).tolist())])
    def test_a_member_that_cannot_be_read_is_left_out_of_its_sets(self, bad):
        whole, told = loader(), []
        broken = Broken(IMAGES, LABELS, True)
        object.__setattr__(broken, "bad", frozenset(bad))
        some = loader(records=broken, leave_out=lambda *record: told.append(record[0]))
        for step in range(whole.steps_per_epoch):
            all_of_it, batch, rows = whole.batch(step), some.batch(step), whole.order.rows(step)
            here = len(rows.ids)
            np.testing.assert_array_equal(batch.valid[:here], ~np.isin(rows.ids, bad))
            readable = (rows.members >= 0) & ~np.isin(rows.members, bad)
            shown, expected = batch.cond["set"], all_of_it.cond["set"]
            np.testing.assert_array_equal(shown.valid[:here], readable)
            np.testing.assert_array_equal(shown.images[:here][readable], expected.images[:here][readable])
        assert set(told) == set(bad)
        with pytest.raises(DataError, match=f"record ({'|'.join(map(str, bad))}): file .*data.on_error=skip leaves"):
            list(one_epoch(loader(records=broken)))

    def test_a_batch_whose_targets_cannot_be_read_is_padding(self):
        bad = loader().order.rows(5).ids
        broken = Broken(IMAGES, LABELS, True)
        object.__setattr__(broken, "bad", frozenset(bad.tolist()))
        batch = loader(records=broken, leave_out=nothing).batch(5)
        assert len(bad) == 1 and not batch.valid.any() and np.all(batch.id == -1)


class TestIdentity:
    def test_it_changes_with_every_field_of_sets(self):
        base = loader(Sets(size=4, min_size=3)).identity
        others = dict(size=5, min_size=2, targets=2, leave_one_out=False, symmetries=True)
        assert set(others) == {field.name for field in fields(Sets)}, "name another value of a new field here"
        for name, value in others.items():
            other = loader(replace(Sets(size=4, min_size=3), **{name: value})).identity
            assert {key for key in base if base[key] != other[key]} == {f"sets.{name}"}
        assert all(isinstance(value, int | str) for value in base.values())

    def test_without_sets_it_has_none(self):
        assert not any(key.startswith("sets.") for key in loader(None).identity)


class TestRefusals:
    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            (dict(size=1), "size"),
            (dict(size=0, leave_one_out=False), "size"),
            (dict(size=-1), "size"),
            (dict(size=4, min_size=1), "min_size"),
            (dict(size=4, min_size=5), "min_size"),
            (dict(size=4, min_size=-1), "min_size"),
            (dict(size=4, targets=5), "targets"),
            (dict(size=4, targets=-1), "targets"),
        ],
    )
    def test_a_value_out_of_range_is_named_first(self, wrong, field):
        with pytest.raises(ValueError, match=f"^{field} is {wrong[field]};"):
            Sets(**wrong)

    def test_the_least_that_can_be(self):
        assert Sets(size=2).places == 1 and Sets(size=1, leave_one_out=False).places == 1

    @pytest.mark.parametrize(
        ("labels", "sets", "problem"),
        [
            ([0, 0, 1, 2, 2], DEFAULT, r"^b: one image to train on.*data\.train_classes"),
            (list(range(7)), DEFAULT, "^a, b, c, d, e, …: one image"),
            ([-1, -1, -1], DEFAULT, "have no labels"),
            ([], DEFAULT, "have no labels"),
        ],
    )
    def test_a_class_without_a_context_is_named(self, labels, sets, problem):
        with pytest.raises(DataError, match=problem):
            check_classes(np.array(labels, np.int32), sets, "abcdefg")

    def test_one_image_is_a_whole_set(self):
        check_classes(np.array([0, 0, 1]), replace(DEFAULT, leave_one_out=False), "ab")
        check_classes(np.array([0, 0, 2, 2]), DEFAULT, "abc")
