"""Squared maximum mean discrepancy between two samples under any kernel, with its error (Gretton et al. 2012)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffusion.metrics import jackknife

CHUNK = 1024  # rows of the kernel matrix in memory at once
Kernel = Callable[[np.ndarray], np.ndarray]  # of the inner products of rows, f64[n m] -> f64[n m]


@dataclass(frozen=True)
class Sums:
    """Sums of the kernel over pairs of jackknife groups.

    xx [g g], yy [q q], xy [g q]: the sums, without the pairs of a row with itself; nx [g], ny [q]: rows in each group.
    """

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    nx: np.ndarray
    ny: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, kernel: Kernel) -> "Sums":
        """Of x [n d] and y [m d], both with at least one row; ValueError for widths that differ."""
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"features have {x.shape[1]} columns on one side and {y.shape[1]} on the other")
        sizes = [np.bincount(jackknife.group_of(len(z))) for z in (x, y)]
        return cls(_within(x, kernel), _within(y, kernel), _between(x, y, kernel), *sizes)

    def without_x(self, g: int) -> "Sums":
        keep = np.arange(len(self.nx)) != g
        return Sums(self.xx[keep][:, keep], self.yy, self.xy[keep], self.nx[keep], self.ny)

    def swapped(self) -> "Sums":
        return Sums(self.yy, self.xx, self.xy.T, self.ny, self.nx)


def unbiased(sums: Sums) -> float:
    """The U-statistic (eq. 3): mean 0 where both samples are of one distribution; at least 2 rows on each side."""
    n, m = sums.nx.sum(), sums.ny.sum()
    within = sums.xx.sum() / (n * (n - 1)) + sums.yy.sum() / (m * (m - 1))
    return float(within - 2 * sums.xy.sum() / (n * m))


def biased(sums: Sums) -> float:
    """The V-statistic (eq. 5) of a kernel that is 0 between a row and itself.

    Any kernel with one value there may be so shifted: a constant falls out of the difference.
    """
    n, m = sums.nx.sum(), sums.ny.sum()
    within = sums.xx.sum() / n**2 + sums.yy.sum() / m**2
    return float(within - 2 * sums.xy.sum() / (n * m))


def standard_error(sums: Sums, statistic: Callable[[Sums], float]) -> float:
    """Of ``unbiased`` or ``biased`` over draws of both sides, by a 20-group jackknife; at least 3 rows on each side."""
    value = statistic(sums)
    without_x = np.array([statistic(sums.without_x(g)) for g in range(len(sums.nx))])
    without_y = np.array([statistic(sums.swapped().without_x(g)) for g in range(len(sums.ny))])
    total = jackknife.variance(value, without_x, sums.nx) + jackknife.variance(value, without_y, sums.ny)
    return float(np.sqrt(total))


def _within(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    own = np.bincount(jackknife.group_of(len(x)), weights=kernel(np.sum(x * x, axis=1)))
    return _between(x, x, kernel) - np.diag(own)


def _between(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> np.ndarray:
    gx, gy = (np.eye(min(jackknife.GROUPS, len(z)))[jackknife.group_of(len(z))] for z in (x, y))
    total = np.zeros((gx.shape[1], gy.shape[1]))
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        total += gx[rows].T @ kernel(x[rows] @ y.T) @ gy
    return total
