"""Batches as a pure function of the step: same order at every cut, for any threads and processes."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffusion.data.episodes import Episodes, Sets
from diffusion.data.order import Balanced, Order, Plain, uniforms
from diffusion.data.records import LeaveOut, Record, Records
from diffusion.data.transforms import Transform, turned
from diffusion.errors import ConfigError, DataError
from diffusion.types import Batch, ImageSet


@dataclass(frozen=True, eq=False)
class Loader:
    """This process's rows of every global batch; made by ``make_loader``.

    Step s is batch s mod ``steps_per_epoch`` of epoch s // ``steps_per_epoch``. Every record is an example of exactly
    one batch of an epoch (with sets of which only some are targets: those; with ``draws`` as often as they say), and no
    batch holds two epochs.
    """

    records: Records
    transform: Transform
    order: Order
    rows: int
    seed: int
    shuffle: bool
    process_index: int
    process_count: int
    threads: int
    prefetch: int
    leave_out: LeaveOut | None

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    @functools.cached_property
    def identity(self) -> dict[str, int | str]:
        """What decides every batch of the run: saved with a checkpoint, compared on resume."""
        return {
            "records": len(self.records),
            **self.order.identity,
            "transform": repr(self.transform),
            "fingerprint": self.records.fingerprint,
        }

    def batch(self, step: int) -> Batch:
        """NumPy rows of a step >= 0: x u8[b h w c], label i32[b] if labelled, id i32[b], valid bool[b].

        b is rows / process_count. A padding row is a copy of a real row of the global batch with id -1; where
        none of the batch can be read, all its rows are padding, with the split's first readable record.

        Raises:
          DataError: a record cannot be read (with ``leave_out``: none of the split can).
        """
        return self._batches[step]

    def iterate(self, step: int, stop: int | None = None) -> Generator[Batch, None, None]:
        """``batch(step)``, ``batch(step + 1)``, …, up to before ``stop`` or for ever, read ahead by threads.

        Close the iterator (``contextlib.closing``) or drop it to end the threads.
        """
        if self.threads == 0:
            yield from map(self.batch, itertools.count(step) if stop is None else range(step, stop))
            return
        import grain

        batches = self._batches if stop is None else self._batches.slice(slice(0, stop))
        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.prefetch)
        ahead = iter(batches.to_iter_dataset(options))
        ahead.set_state({"next_index": step})
        try:
            yield from ahead
        finally:
            ahead.set_state({"next_index": step})  # cancels what is still queued, in every version of Grain

    @functools.cached_property
    def _batches(self) -> Any:
        """A ``grain.MapDataset``: batch by step, without end."""
        import grain

        one_epoch = grain.MapDataset.range(self.steps_per_epoch)
        return one_epoch.repeat().map_with_index(lambda step, _: self._load(step))

    def ids(self, step: int) -> np.ndarray:
        """Record numbers of the global batch's examples, i64[at most the batch size]."""
        return self.order.rows(step).ids

    def _load(self, step: int) -> Batch:
        ids, members, turns = self.order.rows(step)
        local = self.rows // self.process_count
        slots = range(self.process_index * local, (self.process_index + 1) * local)
        draws = self.transform.draws if self.shuffle else 0
        augmented = uniforms(len(ids) * draws, self.seed, 1, step).reshape(-1, draws) if draws else [None] * len(ids)
        read = functools.cache(lambda slot: self._read(int(ids[slot]), augmented[slot]))
        mine = [read(slot) if slot < len(ids) else None for slot in slots]
        valid = [example is not None for example in mine]
        filler = None if all(valid) else next(filter(None, map(read, range(len(ids)))), None) or self._first_readable
        filled = [example or filler for example in mine]
        x = np.stack([example.image for example in filled])
        cond = {"label": np.array([example.label for example in filled], np.int32)} if self.records.labelled else {}
        cond |= {name: np.stack([example.cond[name] for example in filled]) for name in filled[0].cond}
        if members is not None:
            here = [min(slot, len(ids) - 1) for slot in slots]
            cond["set"] = self._sets(members[here], turns[here])
            x = np.stack([turned(image, turn) for image, turn in zip(x, turns[here], strict=True)])
        return Batch(
            x=x,
            cond=cond,
            id=np.array([ids[s] if ok else -1 for s, ok in zip(slots, valid, strict=True)], np.int32),
            valid=np.array(valid),
        )

    def _sets(self, members: np.ndarray, turns: np.ndarray) -> ImageSet:
        """The sets i64[b n] as they are, without augmentation; a member that cannot be read is left out."""
        read = functools.cache(self._read)
        found = [[read(i) if i >= 0 else None for i in row] for row in members.tolist()]
        images = np.zeros((*members.shape, *self.transform.shape), self._dtype)
        for row, records in enumerate(found):
            for place, record in enumerate(records):
                if record is not None:
                    images[row, place] = turned(record.image, turns[row])
        return ImageSet(images, np.array([[record is not None for record in row] for row in found], bool))

    @functools.cached_property
    def _dtype(self) -> np.dtype:
        return self._first_readable.image.dtype

    def _read(self, i: int, uniforms: np.ndarray | None = None) -> Record | None:
        return read(self.records, self.transform, i, uniforms, self.leave_out)

    @functools.cached_property
    def _first_readable(self) -> Record:
        found = next(filter(None, map(self._read, range(len(self.records)))), None)
        if found is None:
            raise DataError(f"none of the {len(self.records)} records can be read; the first: {self.records.name(0)}")
        return found


def read(
    records: Records,
    transform: Transform,
    i: int,
    uniforms: np.ndarray | None = None,
    leave_out: LeaveOut | None = None,
) -> Record | None:
    """Record ``i``, its image transformed with ``uniforms`` f64[draws]; None where it cannot be read and is left out.

    Raises:
      DataError: it cannot be read, and there is no ``leave_out``, or that one has had enough.
    """
    try:
        record = records[i]
        return replace(record, image=transform(record.image, uniforms))
    except DataError as error:
        if leave_out is None:
            raise DataError(f"record {i}: {error} (data.on_error=skip leaves it out)") from error
        leave_out(i, records.name(i), str(error))
        return None


def make_loader(
    records: Records,
    transform: Transform,
    *,
    batch_size: int,
    rows: int,
    seed: int,
    shuffle: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    prefetch: int = 8,
    leave_out: LeaveOut | None = None,
    sets: Sets | None = None,
    draws: Sequence[int] = (),
) -> Loader:
    """A loader of ``records``.

    Args:
      transform: see ``make_transform``; its repr is part of the loader's identity.
      batch_size: records of a full global batch.
      rows: compiled rows of the global batch, >= batch_size and divisible by process_count; the rest is
        padding, as is what an epoch's last batch lacks.
      seed: of order and augmentation, 0 or more.
      shuffle: a new order each epoch, and augmentation. False, for evaluation: neither.
      process_index: whose rows; process_count of them share the rows in contiguous blocks.
      threads: reading batches ahead; 0 reads when asked.
      prefetch: batches read ahead on the host.
      leave_out: told of a record that cannot be read each time it is met (from several threads); its row is
        then padding. None: such a record is an error.
      sets: give every example a set of its class, under "set" of the conditions.
      draws: how often each class is drawn in an epoch, in place of every record once; not with ``sets``.
    Raises:
      ConfigError: a value out of range. DataError: no records.
    """
    if batch_size < 1:
        raise ConfigError("data.batch_size", f"is {batch_size}; at least 1")
    if threads < 0 or prefetch < 1:
        raise ConfigError("data.threads", f"{threads} threads and {prefetch} batches ahead; at least 0 and 1")
    if rows < batch_size or rows % process_count or not 0 <= process_index < process_count:
        raise ValueError(f"{rows=} must hold {batch_size=} and divide by {process_count=} > {process_index=}")
    if len(records) == 0:
        raise DataError("the split holds no records")
    if draws and (sets or not shuffle):
        raise ValueError("draws are for shuffled records without sets")
    if sets is not None:
        order = Episodes(records.labels, batch_size, seed, shuffle, sets)
    elif draws:
        order = Balanced(records.labels, tuple(draws), batch_size, seed)
    else:
        order = Plain(len(records), batch_size, seed, shuffle)
    return Loader(
        records, transform, order, rows, seed, shuffle, process_index, process_count, threads, prefetch, leave_out
    )


def one_epoch(loader: Loader) -> Generator[Batch, None, None]:
    """Every record once: the batches of the first epoch."""
    return loader.iterate(0, loader.steps_per_epoch)


def prefetch_to_device(
    batches: Iterator[Batch], put: Callable[[Batch], Batch], depth: int = 2
) -> Generator[Batch, None, None]:
    """``map(put, batches)`` in order, with up to ``depth`` results made ahead by one thread.

    What ``batches`` or ``put`` raises is raised here, in its turn. Closing this iterator (or dropping it)
    ends the thread; ``batches`` stays the caller's to close, afterwards. ``put`` runs in the thread: it must
    name its devices, because JAX's context managers are local to the thread that entered them.
    """
    end = object()

    def make() -> Any:
        batch = next(batches, end)
        return end if batch is end else put(batch)

    pool = ThreadPoolExecutor(1, thread_name_prefix="to-device")
    try:
        ahead = deque(pool.submit(make) for _ in range(depth))
        while (ready := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(make))
            yield ready
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
