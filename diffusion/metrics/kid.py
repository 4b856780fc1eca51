"""Kernel distance: squared maximum mean discrepancy under a cubic kernel (Bińkowski et al. 2018, sec. 4).

``counts``, rows of each class in order and equal on both sides, says that the classes are fixed and not drawn: see
``stratified``. Without them, and of one class, rows are independent draws.
"""

from collections.abc import Sequence

import numpy as np

from diffusion.metrics import mmd
from diffusion.metrics.figure import Figure
from diffusion.metrics.stratified import Discrepancy, several, value_with_se


def kid(x: np.ndarray, y: np.ndarray, counts: Sequence[int] = ()) -> float:
    """Unbiased KID of x [n d] and y [m d] on all pairs, k(x, y) = (x.y / d + 1)^3; below 0 when they agree.

    Raises:
      ValueError: fewer than two rows on a side, or counts that do not fit.
    """
    if several(counts):
        return float(_by_class(x, y, counts).unbiased[0])
    return mmd.unbiased(_sums(x, y))


def kid_with_se(x: np.ndarray, y: np.ndarray, counts: Sequence[int] = ()) -> tuple[float, float]:
    """KID and its standard error over draws of both sides, by a 20-group jackknife.

    Raises:
      ValueError: fewer than three rows on a side, or counts that do not fit.
    """
    if min(len(x), len(y)) < 3:
        raise ValueError(f"the error of KID needs at least 3 rows on each side; got {len(x)} and {len(y)}")
    if several(counts):
        found = _by_class(x, y, counts)
        return value_with_se(found.unbiased, found.sizes)
    sums = _sums(x, y)
    return mmd.unbiased(sums), mmd.standard_error(sums, mmd.unbiased)


def kid_figure(x: np.ndarray, y: np.ndarray, classes: Sequence[int] = ()) -> Figure:
    """KID with its error; None with a reason where there are too few rows.

    Args:
      classes: the ``counts`` of the classes.
    """
    counts = (len(x), len(y))
    if min(counts) < 2:
        return Figure(None, None, *counts, reason=f"{min(counts)} images a side are too few")
    if min(counts) < 3:
        return Figure(kid(x, y, classes), None, *counts, reason="the error needs 3 images a side")
    return Figure(*kid_with_se(x, y, classes), *counts)


def _sums(x: np.ndarray, y: np.ndarray) -> mmd.Sums:
    x, y = _checked(x, "x"), _checked(y, "y")
    return mmd.Sums.of(x, y, _cubic(x.shape[1]))


def _by_class(x: np.ndarray, y: np.ndarray, counts: Sequence[int]) -> Discrepancy:
    x, y = _checked(x, "x"), _checked(y, "y")
    return Discrepancy.of(x, y, counts, _cubic(x.shape[1]))


def _cubic(d: int) -> mmd.Kernel:
    return lambda dot: (dot / d + 1) ** 3


def _checked(x: np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"KID needs at least 2 rows of features [n d] on each side; {name} has {x.shape}")
    return x
