"""Kernel distance: squared maximum mean discrepancy under a cubic kernel (Bińkowski et al. 2018, sec. 4)."""

from dataclasses import dataclass

import numpy as np

from diffusion.metrics import jackknife
from diffusion.metrics.figure import Figure

CHUNK = 1024  # rows of the kernel matrix in memory at once


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased KID of x [n d] and y [m d] on all pairs, k(x, y) = (x.y / d + 1)^3; below 0 when they agree.

    Raises:
      ValueError: fewer than two rows on a side.
    """
    return _Sums.of(x, y).value()


def kid_with_se(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """KID and its standard error over draws of both sides, by a 20-group jackknife.

    Raises:
      ValueError: fewer than three rows on a side.
    """
    if min(len(x), len(y)) < 3:
        raise ValueError(f"the error of KID needs at least 3 rows on each side; got {len(x)} and {len(y)}")
    sums = _Sums.of(x, y)
    value = sums.value()
    without_x = np.array([sums.without_x(g).value() for g in range(len(sums.nx))])
    without_y = np.array([sums.swapped().without_x(g).value() for g in range(len(sums.ny))])
    total = jackknife.variance(value, without_x, sums.nx) + jackknife.variance(value, without_y, sums.ny)
    return value, float(np.sqrt(total))


def kid_figure(x: np.ndarray, y: np.ndarray) -> Figure:
    """KID with its error; None with a reason where there are too few rows."""
    counts = (len(x), len(y))
    if min(counts) < 2:
        return Figure(None, None, *counts, reason=f"{min(counts)} images a side are too few")
    if min(counts) < 3:
        return Figure(kid(x, y), None, *counts, reason="the error needs 3 images a side")
    return Figure(*kid_with_se(x, y), *counts)


@dataclass(frozen=True)
class _Sums:
    """Sums of the kernel over pairs of jackknife groups; pairs of a row with itself are left out.

    xx [g g], yy [q q], xy [g q]: the sums; nx [g], ny [q]: rows in each group.
    """

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    nx: np.ndarray
    ny: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> "_Sums":
        x, y = _checked(x, "x"), _checked(y, "y")
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"features have {x.shape[1]} columns on one side and {y.shape[1]} on the other")
        sizes = [np.bincount(jackknife.group_of(len(z))) for z in (x, y)]
        return cls(_within(x), _within(y), _between(x, y), *sizes)

    def value(self) -> float:
        n, m = self.nx.sum(), self.ny.sum()
        within = self.xx.sum() / (n * (n - 1)) + self.yy.sum() / (m * (m - 1))
        return float(within - 2 * self.xy.sum() / (n * m))

    def without_x(self, g: int) -> "_Sums":
        keep = np.arange(len(self.nx)) != g
        return _Sums(self.xx[keep][:, keep], self.yy, self.xy[keep], self.nx[keep], self.ny)

    def swapped(self) -> "_Sums":
        return _Sums(self.yy, self.xx, self.xy.T, self.ny, self.nx)


def _within(x: np.ndarray) -> np.ndarray:
    diagonal = np.bincount(jackknife.group_of(len(x)), weights=_cube(np.sum(x * x, axis=1), x.shape[1]))
    return _between(x, x) - np.diag(diagonal)


def _between(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    gx, gy = (np.eye(min(jackknife.GROUPS, len(z)))[jackknife.group_of(len(z))] for z in (x, y))
    total = np.zeros((gx.shape[1], gy.shape[1]))
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        total += gx[rows].T @ _cube(x[rows] @ y.T, x.shape[1]) @ gy
    return total


def _cube(dot: np.ndarray, d: int) -> np.ndarray:
    return (dot / d + 1) ** 3


def _checked(x: np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"KID needs at least 2 rows of features [n d] on each side; {name} has {x.shape}")
    return x
