"""Which records the rows of a step are made of, a pure function of the step: here without sets, in `episodes` with."""

import functools
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class Rows(NamedTuple):
    """Of one global batch.

    Attributes:
      ids: i64[m], record numbers of the examples, at most the batch size.
      members: i64[m n], record numbers of each example's set, -1 on places without a member; None without sets.
      turns: i64[m] in [0, 8), the symmetry in which an example and its set are shown (`transforms.turned`).
    """

    ids: np.ndarray
    members: np.ndarray | None = None
    turns: np.ndarray | None = None


class Order(Protocol):
    """Rows by step, epoch after epoch; no batch holds rows of two epochs.

    Attributes:
      steps_per_epoch: batches of an epoch, of which the last may be incomplete.
      identity: what decides the order, as plain JSON, beside the records.
    """

    steps_per_epoch: int

    @property
    def identity(self) -> dict[str, int | str]: ...

    def rows(self, step: int) -> Rows: ...


@dataclass(frozen=True)
class Plain:
    """Every one of ``n`` records once in an epoch, in a new order each epoch where ``shuffle``."""

    n: int
    batch_size: int
    seed: int
    shuffle: bool

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n // self.batch_size)

    @property
    def identity(self) -> dict[str, int | str]:
        return {"batch_size": self.batch_size, "seed": self.seed, "shuffle": int(self.shuffle)}

    def rows(self, step: int) -> Rows:
        epoch, first = divmod(step, self.steps_per_epoch)
        window = slice(first * self.batch_size, (first + 1) * self.batch_size)
        return Rows(_shuffled(self.n, self.seed, epoch)[window] if self.shuffle else np.arange(self.n)[window])


@dataclass(frozen=True, eq=False)
class Balanced:
    """So many rows of each class in an epoch, shuffled together.

    A class's rows are the next ones of an endless sequence of permutations of its own records, from epoch to epoch: at
    the end of each, two records of a class were drawn equally often up to one, and none is left out for ever.

    Attributes:
      labels: i32[n], of the records.
      draws: of each class in an epoch; 0 for a class without records.
    """

    labels: np.ndarray
    draws: tuple[int, ...]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-sum(self.draws) // self.batch_size)

    @property
    def identity(self) -> dict[str, int | str]:
        how = {"batch_size": self.batch_size, "seed": self.seed, "shuffle": 1}
        return how | {"draws": ",".join(map(str, self.draws))}

    @functools.cached_property
    def members(self) -> list[np.ndarray]:
        """Record numbers of each class, ascending."""
        counts = np.bincount(self.labels, minlength=len(self.draws))
        return np.split(np.argsort(self.labels, kind="stable"), np.cumsum(counts)[:-1])

    def rows(self, step: int) -> Rows:
        epoch, first = divmod(step, self.steps_per_epoch)
        return Rows(_balanced(self, epoch)[first * self.batch_size : (first + 1) * self.batch_size])


@functools.lru_cache(maxsize=4)
def _balanced(of: Balanced, epoch: int) -> np.ndarray:
    """Record numbers of an epoch in their order."""
    drawn = [
        own[_next(len(own), epoch * draws, draws, of.seed, label)]
        for label, (own, draws) in enumerate(zip(of.members, of.draws, strict=True))
        if draws
    ]
    ids = np.concatenate(drawn)
    return ids[permuted(len(ids), of.seed, 6, epoch)]


def _next(n: int, first: int, number: int, seed: int, label: int) -> np.ndarray:
    """``number`` places from ``first`` on in the endless permutations of n records of a class, i64[number]."""
    cycles = range(first // n, -(-(first + number) // n))
    places = np.concatenate([permuted(n, seed, 5, label, cycle) for cycle in cycles])
    return places[first % n :][:number]


@functools.lru_cache(maxsize=4)
def _shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """Order of an epoch, i64[n].

    Grain's own shuffle needs no memory, but takes up to 50 us a record on small sets: more than reading them.
    """
    return permuted(n, seed, 0, epoch)


def permuted(n: int, seed: int, *key: int) -> np.ndarray:
    """A permutation i64[n]; from raw words, so no version of a library changes a resumed run's order."""
    return np.argsort(stream(seed, *key).random_raw(n), kind="stable")


def uniforms(n: int, seed: int, *key: int) -> np.ndarray:
    """f64[n] in [0, 1), from raw words."""
    return (stream(seed, *key).random_raw(n) >> 11) * 2.0**-53


def stream(seed: int, *key: int) -> np.random.PCG64:
    """The words of a purpose: 0 orders of epochs, 1 augmentation by step, 2 sets, 3 orders of sets, 4 set draws,
    5 records of a balanced class, 6 orders of balanced epochs; of a split's seed, 7 draws the digits that are kept.
    """
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))
