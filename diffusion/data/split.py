"""A stratified split that is a pure function of (labels, fraction, seed)."""

import numpy as np

from diffusion.errors import ConfigError, DataError


def held_out_count(n: int, fraction: float) -> int:
    """How many of a class's ``n`` records are for testing: n * fraction rounded half up.

    A class of two or more keeps at least one record on each side; a single record is trained on.
    """
    return min(max(int(n * fraction + 0.5), 1), n - 1)


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


def stratified(labels: np.ndarray, fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Indices of each split, ascending: {"train": i64[n], "test": i64[n]}.

    Each class is drawn with its own stream, so one class's records do not move another's. Raw PCG64 words
    are ordered instead of calling ``Generator.permutation``, whose result may change between NumPy versions.

    Args:
      labels: i32[n]; unlabelled records are one class of -1.
      fraction: share of each class that is held out, in (0, 1).
      seed: 0 or more.
    """
    test = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        stream = np.random.SeedSequence(seed, spawn_key=(int(label) + 1,))
        order = np.argsort(np.random.PCG64(stream).random_raw(len(members)), kind="stable")
        test.append(members[order[: held_out_count(len(members), fraction)]])
    held_out = np.sort(np.concatenate(test))
    return {"train": np.setdiff1d(np.arange(len(labels)), held_out), "test": held_out}


def check_fraction(field: str, fraction: float) -> None:
    """ConfigError unless 0 < fraction < 1."""
    if not 0 < fraction < 1:
        raise ConfigError(field, f"is {fraction}; a share of the records, above 0 and below 1, is held out")
