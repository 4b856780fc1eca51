"""tr (Sx Sy)^1/2 for covariances given by factors: the nuclear norm of A B', where A'A = Sx and B'B = Sy.

Eigenvalues of the smaller square are some ten times faster than singular values, but cost half the digits of the small
ones. So they are taken only where a bound on their rounding says that this is exact enough.
"""

import numpy as np

EXACT = 1e-10  # of the traces; where the estimated rounding, a pessimist, is more, the singular values are computed


def shared(a: np.ndarray, b: np.ndarray) -> float:
    """tr (A'A B'B)^1/2 of two centred and scaled sets of rows, a [n d] and b [m d]."""
    traces = np.sum(a**2) + np.sum(b**2)
    if min(len(a), len(b)) > a.shape[1]:
        square, scale = _inner(a, b)
        null = False
    else:
        square, scale, null = gram(a @ b.T), 0.0, True
    if square is not None:
        value, rounding = root_trace(square, scale, null)
        if rounding <= EXACT * traces:
            return value
    return float(np.linalg.svd(triangle(a) @ triangle(b).T, compute_uv=False).sum())


def shared_of_roots(a: np.ndarray, b: np.ndarray) -> float:
    """The same of two [d d] roots, A'A = Sx and B'B = Sy: Sx^1/2 Sy Sx^1/2 where its eigenvalues are exact enough."""
    c = a @ b.T
    value, rounding = root_trace(c @ c.T, np.sum(a**2) * np.sum(b**2) / len(a), null=False)
    if rounding <= EXACT * (np.sum(a**2) + np.sum(b**2)):
        return value
    return float(np.linalg.svd(c, compute_uv=False).sum())


def root_trace(square: np.ndarray, scale: float, null: bool) -> tuple[float, float]:
    """(sum of the roots of the eigenvalues, an estimate of its rounding).

    Args:
      square: f[k k], symmetric and positive semi-definite.
      scale: the size of the numbers it was made from, where that is more than its largest eigenvalue.
      null: the ones are a null vector, as of a Gram matrix of centred rows; it is kept from rounding to a root.
    """
    k, own = len(square), 0.0
    if null:
        own = np.trace(square) / k
        square = square + own / k
    values = np.linalg.eigvalsh(square)
    error = np.finfo(np.float64).eps * max(scale, np.abs(values).max(), np.finfo(np.float64).tiny)
    rounding = np.sqrt(np.sum(error**2 / (4 * np.maximum(np.abs(values), error))))
    return float(np.sqrt(np.abs(values)).sum() - np.sqrt(own)), float(rounding)


def gram(c: np.ndarray) -> np.ndarray:
    """C C' or C'C, whichever is smaller."""
    return c @ c.T if len(c) <= c.shape[1] else c.T @ c


def triangle(a: np.ndarray) -> np.ndarray:
    """A factor with the same A'A and at most d rows; for n > d the triangle of a QR, which loses nothing."""
    return a if len(a) <= a.shape[1] else np.linalg.qr(a, mode="r")


def factor(a: np.ndarray) -> np.ndarray:
    """A factor with the same A'A up to rounding and at most d rows, sooner than ``triangle``."""
    if len(a) <= a.shape[1]:
        return a
    values, vectors = np.linalg.eigh(a.T @ a)
    return np.sqrt(np.abs(values))[:, None] * vectors.T


def _inner(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray | None, float]:
    """R Sa R' with R'R = Sb, and a bound on |Sa| |Sb|; None for a covariance that is singular."""
    sa, sb = a.T @ a, b.T @ b
    try:
        root = np.linalg.cholesky(sb)
    except np.linalg.LinAlgError:  # a singular covariance: its factors are still exact
        return None, 0.0
    return root.T @ sa @ root, np.linalg.norm(sa) * np.linalg.norm(sb)
