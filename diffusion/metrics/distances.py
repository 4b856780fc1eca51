"""Euclidean distances in float64, a chunk of rows at a time."""

from collections.abc import Callable, Iterator

import numpy as np

CHUNK = 1024  # rows of the distance matrix in memory at once, at most
BLOCK = 1 << 26  # its numbers, half a gigabyte
NEAR = 1e-6  # of the squared norms: below, the difference of large numbers is replaced by a sum of squares


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All distances of x [n d] to y [m d]: f64[n m]; exactly 0 between equal rows. See ``chunks`` for large sets."""
    return np.concatenate([block for _, block in chunks(x, y)])


def chunks(x: np.ndarray, y: np.ndarray, rows: int = 0) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (slice of x's rows, f64[rows m] distances to all of y), in order.

    |a - b|^2 = |a|^2 + |b|^2 - 2 a.b around the mean of y, which is exact to some 1e-10; for pairs so close that the
    difference would cancel, the squares of the differences are summed instead.

    Args:
      rows: at most this many rows at once; 0 is ``CHUNK``, or as many as ``BLOCK`` holds.

    Raises:
      ValueError: no rows, or widths that differ.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features have {x.shape[1]} columns on one side and {y.shape[1]} on the other")
    centre = y.mean(0)
    centred = y - centre
    norms = np.sum(centred**2, axis=1)
    rows = rows or max(1, min(CHUNK, BLOCK // len(y)))
    for start in range(0, len(x), rows):
        part = slice(start, min(start + rows, len(x)))
        squares = _squares(
            x[part] - centre, centred, norms, lambda i, j, of=x[part]: np.sum((of[i] - y[j]) ** 2, axis=1)
        )
        yield part, np.sqrt(squares, out=squares)


def nearest(x: np.ndarray, y: np.ndarray, k: int = 1, *, itself: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of y to each row of x: (distances f64[n k] in rising order, indices i[n k]).

    Args:
      itself: False when x is y: a row is then no neighbour of itself (another row that equals it is).

    Raises:
      ValueError: y has fewer than k rows to choose from.
    """
    choices = len(y) - (not itself)
    if not 1 <= k <= choices:
        raise ValueError(f"{k} nearest neighbours of {choices} rows cannot be found")
    if not itself and len(x) != len(y):
        raise ValueError("only the rows of one set can be kept from themselves")
    found, places = [], []
    for part, block in chunks(x, y):
        if not itself:
            block[np.arange(len(block)), np.arange(part.start, part.stop)] = np.inf
        near = np.argpartition(block, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(near, np.argsort(np.take_along_axis(block, near, 1), axis=1, kind="stable"), 1)
        found.append(np.take_along_axis(block, near, 1))
        places.append(near)
    return np.concatenate(found), np.concatenate(places)


def _squares(x: np.ndarray, y: np.ndarray, norms: np.ndarray, directly: Callable) -> np.ndarray:
    scale = np.sum(x * x, axis=1)[:, None] + norms
    squares = scale - 2 * (x @ y.T)
    rows, columns = np.nonzero(squares <= NEAR * scale)
    for start in range(0, len(rows), CHUNK):
        i, j = rows[start : start + CHUNK], columns[start : start + CHUNK]
        squares[i, j] = directly(i, j)
    return squares


def _checked(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"distances need rows of features [n d] on each side; got shape {x.shape}")
    return x
