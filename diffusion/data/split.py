"""A stratified split that is a pure function of (labels, shares, seed)."""

import numpy as np

from diffusion.errors import ConfigError, DataError


def names(val: float) -> tuple[str, ...]:
    """The splits that there are where this share is validated on."""
    return ("train", "val", "test") if val else ("train", "test")


def held_out_count(n: int, fraction: float) -> int:
    """How many of a class's ``n`` records are for testing: n * fraction rounded half up.

    A class of two or more keeps at least one record on each side; a single record is trained on.
    """
    return min(max(int(n * fraction + 0.5), 1), n - 1)


def counts_of(n: int, test: float, val: float = 0.0) -> dict[str, int]:
    """How many of a class's ``n`` records are in each split.

    As `held_out_count`; with "val", a class of three or more has at least one record in each split, one of two has none
    in "val".
    """
    if not val:
        tested = held_out_count(n, test)
        return {"train": n - tested, "test": tested}
    if n < 3:
        return {"train": min(n, 1), "val": 0, "test": n - min(n, 1)}
    tested = min(held_out_count(n, test), n - 2)
    validated = min(held_out_count(n, val), n - 1 - tested)
    return {"train": n - validated - tested, "val": validated, "test": tested}


def split_sizes(labels: np.ndarray, fraction: float, where: str) -> dict[str, int]:
    """{"train": n, "test": n} of the split of ``labels`` i32[n]; ``where`` names the set in errors.

    Raises:
      DataError: there are no two records of any class, so nothing could be held out.
    """
    return sizes_of_counts(np.unique(labels, return_counts=True)[1].tolist(), fraction, where)


def sizes_of_counts(counts: list[int], fraction: float, where: str) -> dict[str, int]:
    """As ``split_sizes``, from the number of records of each class."""
    test = sum(held_out_count(n, fraction) for n in counts)
    if test == 0:
        raise DataError(f"{where}: no class has two records, so none can be held out for testing")
    return {"train": sum(counts) - test, "test": test}


def stratified(labels: np.ndarray, fraction: float, seed: int, val: float = 0.0) -> dict[str, np.ndarray]:
    """Indices of each split, ascending: {"train": i64[n], "test": i64[n]}, and "val" where ``val`` is above 0.

    Each class is drawn with its own stream, so one class's records do not move another's. Raw PCG64 words
    are ordered instead of calling ``Generator.permutation``, whose result may change between NumPy versions.
    What is tested on comes first in a class's order, so "val" takes from "train" alone.

    Args:
      labels: i32[n]; unlabelled records are one class of -1.
      fraction: share of each class that is tested on, in (0, 1).
      seed: 0 or more.
      val: share that is validated on, 0 for none; both together below 1.
    """
    kept: dict[str, list[np.ndarray]] = {split: [] for split in names(val)}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        stream = np.random.SeedSequence(seed, spawn_key=(int(label) + 1,))
        order = members[np.argsort(np.random.PCG64(stream).random_raw(len(members)), kind="stable")]
        counts = counts_of(len(members), fraction, val)
        for split in reversed(names(val)):
            kept[split].append(order[: counts[split]])
            order = order[counts[split] :]
    return {split: np.sort(np.concatenate(parts)) for split, parts in kept.items()}


def check_fraction(field: str, fraction: float) -> None:
    """ConfigError unless 0 < fraction < 1."""
    if not 0 < fraction < 1:
        raise ConfigError(field, f"is {fraction}; a share of the records, above 0 and below 1, is held out")
