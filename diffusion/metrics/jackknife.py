"""Standard errors by leaving out one group at a time."""

import numpy as np

GROUPS = 20


def group_of(n: int) -> np.ndarray:
    """Deals n rows to min(20, n) groups whose sizes differ by at most one: i[n]."""
    return np.arange(n) % min(GROUPS, n)


def variance(value: float, left_out: np.ndarray, sizes: np.ndarray) -> float:
    """Variance of a statistic of n rows, from its values with one group left out.

    Groups may differ in size, and a bias of order 1/n cancels.
    Busing, Meijer & Van der Leeden 1999, Delete-m jackknife for unequal m, eq. 8.

    Args:
      value: the statistic on all rows.
      left_out: f[g], the statistic without each group.
      sizes: i[g], rows in each group.
    """
    h = sizes.sum() / sizes
    pseudo = h * value - (h - 1) * left_out
    centre = len(sizes) * value - np.sum((1 - 1 / h) * left_out)
    return float(np.mean((pseudo - centre) ** 2 / (h - 1)))
