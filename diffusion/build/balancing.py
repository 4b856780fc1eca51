"""How often classes are drawn and what their losses weigh: the one place of a build that counts labels."""

import numpy as np
from ml_collections import ConfigDict

from diffusion.build.choices import choose, known
from diffusion.data.balance import BALANCES, CLASS_WEIGHTS
from diffusion.data.records import Dataset
from diffusion.errors import ConfigError, DataError
from diffusion.nets.conditions import SET


def balancing(config: ConfigDict, dataset: Dataset, training: bool) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """(draws of each class in an epoch, weight of each class's loss): () for what is none, or in no training.

    Raises:
      ConfigError: classes that cannot be balanced so. DataError: the labels cannot be read.
    """
    c, tables = config.balance, {"sampling": BALANCES, "loss": CLASS_WEIGHTS}
    for field, table in tables.items():
        known(table, f"balance.{field}", c[field])
    asked = [field for field in tables if c[field] != "none"]
    if not asked:
        return (), ()
    field = f"balance.{asked[0]}"
    if not dataset.classes:
        raise ConfigError(field, f"is {c[asked[0]]}, and {dataset.name} has no labels: take none")
    if SET in config.cond.names:
        raise ConfigError(field, f"is {c[asked[0]]}, and cond.names=set draws sets of images in its own way: take none")
    if not training:
        return (), ()
    counts = _counts(dataset)
    draws = choose(BALANCES, "balance", c, "sampling", counts, dataset.classes)
    weights = choose(CLASS_WEIGHTS, "balance", c, "loss", counts, dataset.classes, draws)
    return tuple(map(int, draws)) if c.sampling != "none" else (), tuple(map(float, weights))


def _counts(dataset: Dataset) -> np.ndarray:
    """i64[k], records of each class in the split that is trained on."""
    try:
        labels = dataset.open(dataset.train_split).labels
    except DataError as error:
        error.status = 2  # found before step 0
        raise
    return np.bincount(labels, minlength=len(dataset.classes))
