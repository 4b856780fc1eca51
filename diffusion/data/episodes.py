"""Sets of images of one class, from which few-shot training takes its targets and their contexts."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from diffusion.data.order import Rows, permuted, uniforms
from diffusion.errors import DataError


@dataclass(frozen=True)
class Sets:
    """How sets are made of a class; fields are those of ``sets``.

    Attributes:
      size: images of a set, the target among them.
      min_size: where it is above 0, every set shows a number of images drawn from min_size to size.
      targets: images of a set that are learned in an epoch, drawn by the seed; 0 all of them.
      leave_one_out: a target's context is the rest of its set; otherwise the whole set, the target included.
      symmetries: each set is shown in one of the 8 symmetries of the square, which makes new classes of old ones
        (Santoro 2016 turns Omniglot's characters so); never where upright and turned must mean the same.
    """

    size: int
    min_size: int = 0
    targets: int = 0
    leave_one_out: bool = True
    symmetries: bool = False

    def __post_init__(self):
        least = 2 if self.leave_one_out else 1
        why = ": leave_one_out takes the target out" if self.leave_one_out else ""
        if self.size < least:
            raise ValueError(f"size is {self.size}; at least {least} is needed{why}")
        if self.min_size and not least <= self.min_size <= self.size:
            raise ValueError(f"min_size is {self.min_size}; it must lie in [{least}, size={self.size}]{why}, or be 0")
        if not 0 <= self.targets <= self.size:
            raise ValueError(f"targets is {self.targets}; a set of {self.size} has 1 to {self.size}, 0 takes them all")

    @property
    def places(self) -> int:
        """The most images that a context holds: the compiled shape."""
        return self.size - self.leave_one_out

    def targets_of(self, counts: np.ndarray) -> int:
        """Examples of an epoch over classes of i[k] records each."""
        most = self.targets or self.size
        whole, rest = np.divmod(np.asarray(counts, np.int64), self.size)
        return int(np.sum(whole * min(most, self.size) + np.minimum(rest, most)))


@dataclass(frozen=True, eq=False)
class Episodes:
    """Every class cut into sets anew each epoch; a class's last, smaller set is filled up with others of its records.

    With ``sets.targets=0`` every record is an example once in an epoch. A set's examples follow each other. Without
    ``shuffle`` all of that is fixed, sets are upright, and every record is an example.

    Attributes:
      labels: i32[n], of the records.
    """

    labels: np.ndarray
    batch_size: int
    seed: int
    shuffle: bool
    sets: Sets

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        counts = np.unique(self.labels, return_counts=True)[1]
        return -(-(self.sets.targets_of(counts) if self.shuffle else len(self.labels)) // self.batch_size)

    @property
    def identity(self) -> dict[str, int | str]:
        sets = {f"sets.{name}": value for name, value in asdict(self.sets).items()}
        return {"batch_size": self.batch_size, "seed": self.seed, "shuffle": int(self.shuffle), **sets}

    def rows(self, step: int) -> Rows:
        epoch, first = divmod(step, self.steps_per_epoch)
        window = slice(first * self.batch_size, (first + 1) * self.batch_size)
        whole = _epoch(self, epoch if self.shuffle else 0)
        return Rows(whole.ids[window], whole.members[window], whole.turns[window])


@functools.lru_cache(maxsize=4)
def _epoch(of: Episodes, epoch: int) -> Rows:
    """All rows of an epoch."""
    sets, found = of.sets, []
    for label in np.unique(of.labels):
        own = np.flatnonzero(of.labels == label)
        order = own[permuted(len(own), of.seed, 2, epoch, int(label) + 1)]
        for first in range(0, len(order), sets.size):
            fresh = order[first : first + sets.size]
            others = order[: min(sets.size, len(order)) - len(fresh)]
            found.append((fresh[: sets.targets or None] if of.shuffle else fresh, np.concatenate([fresh, others])))
    if of.shuffle:
        found = [found[i] for i in permuted(len(found), of.seed, 3, epoch)]
    draws = uniforms(2 * len(found), of.seed, 4, epoch).reshape(-1, 2)
    least = sets.min_size or sets.size
    shown = least + np.floor(draws[:, 0] * (sets.size - least + 1)).astype(np.int64)
    turns = np.floor(draws[:, 1] * 8).astype(np.int64) * (sets.symmetries and of.shuffle)
    counts = [len(targets) for targets, _ in found]
    members = [_contexts(sets, *one, s) for one, s in zip(found, shown, strict=True)]
    return Rows(np.concatenate([targets for targets, _ in found]), np.concatenate(members), np.repeat(turns, counts))


def _contexts(sets: Sets, targets: np.ndarray, members: np.ndarray, shown: int) -> np.ndarray:
    """i64[t places]: the records that each target is learned from, -1 where there are no more.

    Each of the targets i64[t] is one of the members i64[m], which differ.
    """
    apart = members[None, :] != targets[:, None]
    found = np.broadcast_to(members, apart.shape)[apart].reshape(len(targets), -1)[:, : shown - 1]
    if not sets.leave_one_out:
        found = np.concatenate([targets[:, None], found], axis=1)
    return np.pad(found, ((0, 0), (0, sets.places - found.shape[1])), constant_values=-1)


def check_classes(labels: np.ndarray, sets: Sets, names: Sequence[str]) -> None:
    """Raises DataError where a class has too few records to be learned from a set."""
    found, counts = np.unique(labels, return_counts=True)
    if len(found) == 0 or found[0] < 0:
        raise DataError("sets are made of the images of a class, and these have no labels")
    alone = [names[c] for c in found[counts < 2]] if sets.leave_one_out else []
    if alone:
        raise DataError(
            f"{', '.join(alone[:5])}{', …' * (len(alone) > 5)}: one image to train on, and a set needs two, a target "
            "and its context: add images, or name the classes to train on in data.train_classes"
        )
