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

    xx [g g], yy [q q]: without the pairs of a row with itself; xy [g q]; own_x [g], own_y [q]: of those pairs;
    nx [g], ny [q]: rows in each group.
    """

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    own_x: np.ndarray
    own_y: np.ndarray
    nx: np.ndarray
    ny: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, kernel: Kernel) -> "Sums":
        """Of x [n d] and y [m d], both with at least one row; ValueError for widths that differ."""
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"features have {x.shape[1]} columns on one side and {y.shape[1]} on the other")
        own_x, own_y = (np.bincount(jackknife.group_of(len(z)), kernel(np.sum(z * z, axis=1))) for z in (x, y))
        xx, yy = _between(x, x, kernel) - np.diag(own_x), _between(y, y, kernel) - np.diag(own_y)
        sizes = [np.bincount(jackknife.group_of(len(z))) for z in (x, y)]
        return cls(xx, yy, _between(x, y, kernel), own_x, own_y, *sizes)

    def without_x(self, g: int) -> "Sums":
        keep = np.arange(len(self.nx)) != g
        xx, xy, own_x, nx = self.xx[keep][:, keep], self.xy[keep], self.own_x[keep], self.nx[keep]
        return Sums(xx, self.yy, xy, own_x, self.own_y, nx, self.ny)

    def swapped(self) -> "Sums":
        return Sums(self.yy, self.xx, self.xy.T, self.own_y, self.own_x, self.ny, self.nx)


def unbiased(sums: Sums) -> float:
    """The U-statistic (eq. 3): mean 0 where both samples are of one distribution; at least 2 rows on each side."""
    n, m = sums.nx.sum(), sums.ny.sum()
    within = sums.xx.sum() / (n * (n - 1)) + sums.yy.sum() / (m * (m - 1))
    return float(within - 2 * sums.xy.sum() / (n * m))


def biased(sums: Sums) -> float:
    """The V-statistic (eq. 5): never below 0, and above it by about 1 / n + 1 / m for small samples."""
    n, m = sums.nx.sum(), sums.ny.sum()
    within = (sums.xx.sum() + sums.own_x.sum()) / n**2 + (sums.yy.sum() + sums.own_y.sum()) / m**2
    return float(within - 2 * sums.xy.sum() / (n * m))


def standard_error(sums: Sums, statistic: Callable[[Sums], float]) -> float:
    """Of ``unbiased`` or ``biased`` over draws of both sides, by a 20-group jackknife; at least 3 rows on each side."""
    value = statistic(sums)
    without_x = np.array([statistic(sums.without_x(g)) for g in range(len(sums.nx))])
    without_y = np.array([statistic(sums.swapped().without_x(g)) for g in range(len(sums.ny))])
    total = jackknife.variance(value, without_x, sums.nx) + jackknife.variance(value, without_y, sums.ny)
    return float(np.sqrt(total))


def _between(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> np.ndarray:
    gx, gy = (np.eye(min(jackknife.GROUPS, len(z)))[jackknife.group_of(len(z))] for z in (x, y))
    total = np.zeros((gx.shape[1], gy.shape[1]))
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        total += gx[rows].T @ kernel(x[rows] @ y.T) @ gy
    return total
