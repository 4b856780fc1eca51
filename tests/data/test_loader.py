import threading
import time
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from diffusion.data.loader import make_loader, one_epoch, prefetch_to_device
from diffusion.data.records import ArrayRecords
from diffusion.data.transforms import Transform
from diffusion.errors import ConfigError, DataError
from diffusion.types import Batch

N, SHAPE = 10, (2, 3, 1)
IMAGES = np.arange(N * 6, dtype=np.uint8).reshape(N, *SHAPE)
RECORDS = ArrayRecords(IMAGES, np.arange(N, dtype=np.int32) % 3, labelled=True)
KEEP, FLIP = Transform(SHAPE, resize=False, flip=False), Transform(SHAPE, resize=False, flip=True)


class Broken(ArrayRecords):
    """Records of which some cannot be read."""

    bad: frozenset[int] = frozenset()

    def __getitem__(self, i):
        if i in self.bad:
            raise DataError(f"file {i}.png: not a readable image")
        return super().__getitem__(i)

    def name(self, i):
        return f"file {i}.png"


def broken(*bad):
    records = Broken(RECORDS.images, RECORDS.labels, True)
    object.__setattr__(records, "bad", frozenset(bad))
    return records


def nothing(record, name, reason):
    """Leaves a record out in silence."""


def loader(records=RECORDS, transform=FLIP, **options):
    return make_loader(records, transform, **{"batch_size": 4, "rows": 4, "seed": 7, "threads": 0} | options)


def arrays(batch: Batch) -> dict[str, np.ndarray]:
    return {"x": batch.x, "id": batch.id, "valid": batch.valid} | dict(batch.cond)


def assert_same(a: Batch, b: Batch) -> None:
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def concatenated(batches: list[Batch]) -> Batch:
    parts = [arrays(batch) for batch in batches]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Batch(whole.pop("x"), {"label": whole.pop("label")}, whole["id"], whole["valid"])


def take(batches, n: int) -> list[Batch]:
    with closing(batches):
        return list(islice(batches, n))


class TestOrder:
    @pytest.mark.parametrize("threads", [0, 4])
    @pytest.mark.parametrize("processes", [1, 2, 4])
    def test_it_is_the_same_after_a_cut_at_every_batch_of_two_epochs(self, threads, processes):
        """What was read before the cut and what a new start reads after it are the uninterrupted order."""
        end = 3 * loader().steps_per_epoch
        reference = take(loader(rows=8).iterate(0), end)

        def stretch(first, last):
            """Global batches of [first, last), every process's rows by a loader of its own."""
            shared = [
                take(loader(rows=8, process_index=i, process_count=processes, **ahead).iterate(first), last - first)
                for i in range(processes)
            ]
            return [concatenated(list(parts)) for parts in zip(*shared, strict=True)]

        ahead = {"threads": threads, "prefetch": 3}
        for cut in range(2 * loader().steps_per_epoch + 1):
            batches = stretch(0, cut) + stretch(cut, end)
            assert len(batches) == len(reference) == 9
            for batch, expected in zip(batches, reference, strict=True):
                assert_same(batch, expected)

    def test_every_record_once_in_every_epoch_and_in_another_order(self):
        whole = loader()
        assert whole.steps_per_epoch == 3
        epochs = [np.concatenate([whole.batch(3 * e + s).id for s in range(3)]) for e in range(4)]
        for epoch in epochs:
            assert sorted(epoch[epoch >= 0]) == list(range(N))
        assert len({epoch.tobytes() for epoch in epochs}) == 4

    def test_rows_hold_what_their_ids_say(self):
        for batch in one_epoch(loader(transform=KEEP)):
            rows = batch.id[batch.valid]
            np.testing.assert_array_equal(batch.x[batch.valid], IMAGES[rows])
            np.testing.assert_array_equal(batch.cond["label"][batch.valid], RECORDS.labels[rows])

    def test_the_seed_decides(self):
        assert not np.array_equal(loader(seed=8).batch(0).id, loader().batch(0).id)
        assert_same(loader(seed=2**40).batch(0), loader(seed=2**40).batch(0))

    def test_it_does_not_depend_on_numpys_global_state(self):
        first = loader().batch(1)
        np.random.random()  # noqa: NPY002
        assert_same(first, loader().batch(1))

    def test_batches_far_into_a_run(self):
        far = 10**9
        assert_same(next(loader().iterate(far)), loader().batch(far))

    @pytest.mark.parametrize(("n", "batch_size", "steps"), [(1, 1, 1), (1, 4, 1), (8, 4, 2), (10, 16, 1)])
    def test_edges(self, n, batch_size, steps):
        records = ArrayRecords(IMAGES[:n], RECORDS.labels[:n], True)
        edge = loader(records, batch_size=batch_size, rows=batch_size)
        assert edge.steps_per_epoch == steps
        ids = np.concatenate([batch.id for batch in one_epoch(edge)])
        assert sorted(ids[ids >= 0]) == list(range(n))
        assert len(ids) == steps * batch_size


DRAWS = (3, 9, 2)  # of classes of 4, 3 and 3 records
CLASSES = [np.flatnonzero(RECORDS.labels == c).tolist() for c in range(3)]


class TestBalanced:
    def drawn(self, epochs, draws=DRAWS):
        """i64[epochs n] of whole epochs."""
        whole = loader(draws=draws)
        steps = range(epochs * whole.steps_per_epoch)
        return np.concatenate([whole.ids(step) for step in steps]).reshape(epochs, -1)

    def test_an_epoch_holds_the_draws_of_each_class_mixed(self):
        assert loader(draws=DRAWS).steps_per_epoch == 4, "14 draws in batches of 4, the last of 2"
        for epoch in self.drawn(5):
            labels = RECORDS.labels[epoch]
            assert np.bincount(labels).tolist() == list(DRAWS)
            assert len(set(labels[:7].tolist())) > 1 and (labels != np.sort(labels)).any()

    @pytest.mark.parametrize("draws", [DRAWS, (1, 1, 1), (100, 1, 7)])
    def test_two_records_of_a_class_are_drawn_equally_often_up_to_one(self, draws):
        epochs = self.drawn(12, draws)
        for n in range(1, 13):
            times = np.bincount(epochs[:n].ravel(), minlength=N)
            for own, of_class in zip(CLASSES, draws, strict=True):
                assert times[own].sum() == n * of_class and np.ptp(times[own]) <= 1

    def test_few_draws_still_reach_every_record(self):
        assert set(self.drawn(4, (1, 1, 1)).ravel().tolist()) == set(range(N))

    def test_every_round_of_every_class_has_its_own_order(self):
        """Two classes of five, of which two records an epoch are drawn: five epochs are two rounds."""
        records = ArrayRecords(IMAGES, np.repeat(np.arange(2, dtype=np.int32), 5), True)
        whole = loader(records, draws=(2, 2))
        epochs = [np.sort(whole.ids(step)) for step in range(10)]
        one, other = ([frozenset((ids[part] % 5).tolist()) for ids in epochs] for part in (slice(2), slice(2, 4)))
        assert one != other and one[:5] != one[5:] and other[:5] != other[5:]

    def test_a_class_without_records_is_not_drawn(self):
        records = ArrayRecords(IMAGES, RECORDS.labels * 2, True)
        ids = loader(records, draws=(4, 0, 5, 0, 1), batch_size=10, rows=10).ids(0)
        assert np.bincount(records.labels[ids], minlength=5).tolist() == [4, 0, 5, 0, 1]

    @pytest.mark.parametrize("threads", [0, 3])
    def test_batches_are_those_of_the_step_at_every_cut_and_process(self, threads):
        """9 of a class of 3 are often twice in a batch, each row with a draw of its own to be mirrored."""
        options = {"draws": DRAWS, "rows": 8, "threads": threads}
        reference = take(loader(**options).iterate(0), 9)
        assert any(len(set(b.id[b.valid].tolist())) < b.valid.sum() for b in reference)
        for cut in range(8):
            assert_same(take(loader(**options).iterate(cut), 1)[0], reference[cut])
        halves = [loader(process_index=i, process_count=2, **options).batch(3) for i in range(2)]
        assert_same(concatenated(halves), reference[3])
        assert reference[3].valid.tolist() == [True] * 2 + [False] * 6

    def test_the_order_is_the_same_for_ever(self):
        assert loader(draws=DRAWS).ids(5).tolist() == [9, 2, 7, 4]

    def test_what_decides_it_is_in_its_identity(self):
        assert loader(draws=DRAWS).identity == loader().identity | {"draws": "3,9,2"}
        assert not np.array_equal(loader(draws=DRAWS, seed=8).ids(0), loader(draws=DRAWS).ids(0))

    def test_it_is_for_training_alone(self):
        with pytest.raises(ValueError, match="shuffled records without sets"):
            loader(draws=DRAWS, shuffle=False)


class TestPadding:
    def test_the_last_batch_and_extra_rows_are_filled(self):
        padded = loader(rows=6)
        for step, real in [(0, 4), (1, 4), (2, 2), (3, 4)]:
            batch = padded.batch(step)
            assert batch.x.shape == (6, *SHAPE) and batch.x.dtype == np.uint8
            assert batch.valid.tolist() == [True] * real + [False] * (6 - real)
            assert np.all(batch.id[:real] >= 0) and np.all(batch.id[real:] == -1)
            np.testing.assert_array_equal(batch.x[real:], np.repeat(batch.x[:1], 6 - real, axis=0))
            assert np.all(batch.cond["label"][real:] == batch.cond["label"][0])

    def test_dtypes(self):
        batch = loader().batch(0)
        assert {name: str(a.dtype) for name, a in arrays(batch).items()} == {
            "x": "uint8", "id": "int32", "valid": "bool", "label": "int32",
        }  # fmt: skip

    def test_without_labels_there_is_no_condition(self):
        unlabelled = ArrayRecords(IMAGES, np.full(N, -1, np.int32), labelled=False)
        assert loader(unlabelled).batch(0).cond == {}


class TestProcesses:
    @pytest.mark.parametrize("count", [1, 2, 4])
    @pytest.mark.parametrize("bad", [(), (3, 4), range(9)])
    def test_their_rows_are_the_one_process_batch(self, count, bad):
        options = {"records": broken(*bad), "rows": 8, "leave_out": nothing if bad else None}
        for step in range(6):
            shared = [loader(process_index=i, process_count=count, **options) for i in range(count)]
            assert_same(concatenated([each.batch(step) for each in shared]), loader(**options).batch(step))

    def test_a_process_reads_only_its_rows(self):
        class Counting(ArrayRecords):
            def __getitem__(self, i):
                read.append(i)
                return super().__getitem__(i)

        read = []
        batch = loader(
            Counting(IMAGES, RECORDS.labels, True), process_index=1, process_count=2
        ).batch(0)  # fmt: skip
        assert read == batch.id.tolist() and len(read) == 2


class TestAugmentation:
    def test_it_differs_between_rows_and_steps(self):
        same = ArrayRecords(np.repeat(IMAGES[:1], 64, axis=0), np.zeros(64, np.int32), True)
        mirrored = [
            (loader(same, batch_size=64, rows=64).batch(step).x[:, 0, 0, 0] != IMAGES[0, 0, 0, 0]) for step in range(2)
        ]
        assert all(10 < m.sum() < 54 for m in mirrored)
        assert not np.array_equal(*mirrored)

    def test_the_order_and_the_draws_are_the_same_for_ever(self):
        """A run resumed under another NumPy, Grain or Python goes on with the same batches."""
        batch = loader(ArrayRecords(IMAGES, RECORDS.labels, True), batch_size=6, rows=6).batch(2)
        assert batch.id.tolist() == [3, 2, 1, 5, 7, 4]
        assert (batch.x[:, 0, 0, 0] != IMAGES[batch.id, 0, 0, 0]).tolist() == [
            True,
            True,
            False,
            True,
            True,
            True,
        ]

    def test_evaluation_is_in_order_and_as_it_is(self):
        batches = list(one_epoch(loader(shuffle=False, threads=2)))
        ids = np.concatenate([batch.id for batch in batches])
        assert ids.tolist() == [*range(N), -1, -1]
        np.testing.assert_array_equal(np.concatenate([b.x for b in batches])[:N], IMAGES)


class TestIdentity:
    def test_what_decides_a_batch_is_in_it(self):
        base = loader()
        others = {
            "records": loader(replace(RECORDS, images=IMAGES[:9], labels=RECORDS.labels[:9])),
            "batch_size": loader(batch_size=3),
            "seed": loader(seed=8),
            "shuffle": loader(shuffle=False),
            "transform": loader(transform=KEEP),
            "fingerprint": loader(replace(RECORDS, images=255 - IMAGES)),
        }
        assert set(others) == set(base.identity)
        for name, other in others.items():
            assert other.identity[name] != base.identity[name], name
        assert all(isinstance(value, int | str) for value in base.identity.values())

    def test_it_is_that_of_runs_begun_before_classes_were_balanced(self):
        assert loader().identity == {
            "records": N,
            "batch_size": 4,
            "seed": 7,
            "shuffle": 1,
            "transform": "Transform(shape=(2, 3, 1), resize=False, flip=True)",
            "fingerprint": RECORDS.fingerprint,
        }

    def test_what_does_not_is_not(self):
        other = loader(rows=8, threads=4, prefetch=2, process_index=1, process_count=2)
        assert other.identity == loader().identity


class TestErrors:
    @pytest.mark.parametrize("threads", [0, 3])
    def test_raise_names_the_record(self, threads):
        bad = loader(broken(5), threads=threads)
        message = r"record 5: file 5.png: not a readable image \(data.on_error=skip leaves it out\)"
        with pytest.raises(DataError, match=message):
            list(one_epoch(bad))

    def test_a_record_that_is_left_out_is_told_and_its_row_becomes_padding(self):
        told = []
        batches = take(loader(broken(5), leave_out=lambda *record: told.append(record)).iterate(0), 6)
        assert told == [(5, "file 5.png", "file 5.png: not a readable image")] * 2, "once an epoch"
        ids = np.concatenate([batch.id for batch in batches[:3]])
        assert sorted(ids[ids >= 0]) == [i for i in range(N) if i != 5]
        for batch, whole in zip(batches, [loader(transform=FLIP).batch(s) for s in range(6)], strict=True):
            np.testing.assert_array_equal(batch.id, np.where(whole.id == 5, -1, whole.id))
            np.testing.assert_array_equal(batch.valid, batch.id >= 0)
            np.testing.assert_array_equal(batch.x[batch.valid], whole.x[batch.valid])

    def test_the_first_row_may_be_the_bad_one(self):
        first = int(loader().batch(0).id[0])
        batch = loader(broken(first), leave_out=nothing).batch(0)
        assert batch.valid.tolist() == [False, True, True, True]
        np.testing.assert_array_equal(batch.x[0], batch.x[1])

    def test_a_batch_without_a_readable_record_is_all_padding(self):
        """A run must not end where an epoch's last batch happens to hold bad records only."""
        bad = loader().batch(2).id[:2]
        batch = loader(broken(*bad), leave_out=nothing).batch(2)
        assert not batch.valid.any() and np.all(batch.id == -1)
        first = next(i for i in range(N) if i not in bad)
        np.testing.assert_array_equal(batch.x, np.repeat(IMAGES[first : first + 1], 4, axis=0))

    def test_a_split_without_a_readable_record_is_an_error(self):
        with pytest.raises(DataError, match="none of the 10 records can be read; the first: file 0.png"):
            loader(broken(*range(N)), leave_out=nothing).batch(0)

    def test_leaving_out_may_end_the_run(self):
        def enough(record, name, reason):
            raise DataError("too many")

        with pytest.raises(DataError, match="^too many"):
            loader(broken(5), leave_out=enough, threads=2).batch(int(np.flatnonzero(loader().ids(0) == 5).size == 0))

    def test_only_bad_data_is_skipped(self):
        class Buggy(ArrayRecords):
            def __getitem__(self, i):
                raise KeyError("a bug")

        with pytest.raises(KeyError, match="a bug"):
            loader(Buggy(IMAGES, RECORDS.labels, True), leave_out=nothing).batch(0)

    def test_a_record_of_another_size_is_named(self):
        with pytest.raises(DataError, match="record .*: is 2x3 pixels, the set is 3x3; set data.size"):
            loader(transform=Transform((3, 3, 1), resize=False, flip=False)).batch(0)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"batch_size": 0}, ConfigError),
            ({"threads": -1}, ConfigError),
            ({"prefetch": 0}, ConfigError),
            ({"rows": 3}, ValueError),
            ({"rows": 5, "process_count": 2}, ValueError),
            ({"process_index": 1}, ValueError),
            ({"records": ArrayRecords(IMAGES[:0], RECORDS.labels[:0], True)}, DataError),
        ],
    )
    def test_refusals(self, options, error):
        with pytest.raises(error):
            loader(**options)


class TestPrefetch:
    def test_order_and_end(self):
        assert list(prefetch_to_device(iter(range(7)), lambda b: b * 10)) == [0, 10, 20, 30, 40, 50, 60]
        assert list(prefetch_to_device(iter(()), lambda b: b)) == []

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_no_more_than_depth_are_made_ahead(self, depth):
        made = []
        with closing(prefetch_to_device(iter(range(100)), lambda b: made.append(b) or b, depth)) as batches:
            for i in range(3):
                assert next(batches) == i
                until = time.monotonic() + 30
                while len(made) < i + 1 + depth and time.monotonic() < until:
                    time.sleep(0.001)
                time.sleep(0.02)  # one too many would come now
                assert made == list(range(i + 1 + depth))

    @pytest.mark.parametrize("where", ["batches", "put"])
    def test_an_error_comes_in_its_turn(self, where):
        def numbers():
            yield from range(3)
            if where == "batches":
                raise DataError("bad")
            yield 3

        def put(batch):
            if batch == 3:
                raise DataError("bad")
            return batch

        batches = prefetch_to_device(numbers(), put)
        assert list(islice(batches, 3)) == [0, 1, 2]
        with pytest.raises(DataError, match="bad"):
            next(batches)

    def test_closing_ends_every_thread(self):
        before = set(threading.enumerate())
        with (
            closing(loader(threads=2, prefetch=2).iterate(0)) as host,
            closing(prefetch_to_device(host, lambda batch: batch)) as batches,
        ):
            next(batches)
            started = set(threading.enumerate()) - before
            assert len(started) >= 2
        del host, batches
        for thread in started:
            thread.join(10)
        assert not any(thread.is_alive() for thread in started)

    def test_with_the_loader_and_a_device(self):
        import jax

        device = jax.devices()[-1]
        with (
            closing(loader(threads=2).iterate(2)) as host,
            closing(prefetch_to_device(host, lambda batch: jax.device_put(batch, device))) as batches,
        ):
            for step, batch in enumerate(islice(batches, 5), start=2):
                assert batch.x.devices() == {device}
                assert_same(jax.tree.map(np.asarray, batch), loader().batch(step))
