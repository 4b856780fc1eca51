"""Fréchet distance between two sets of features, fitted as Gaussians.

FD = |mx - my|^2 + tr Sx + tr Sy - 2 tr (Sx Sy)^1/2. With any factors A'A = Sx and B'B = Sy the last trace
is the nuclear norm of A B', so no matrix square root, no epsilon and no clamping is needed, and a singular
covariance (n <= d, a feature that never fires) is as exact as any other. Covariances have ddof 1.
"""

import numpy as np

from diffusion.metrics import jackknife
from diffusion.metrics.figure import Figure
from diffusion.metrics.nuclear import factor, root_trace, shared, shared_of_roots


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """FD of features x [n d] and y [m d], both n, m >= 2, in float64; can be -1e-10 of the trace, never NaN.

    Raises:
      ValueError: fewer than two rows on a side, or widths that differ.
    """
    x, y = _checked(x, y)
    a, b = _scaled(x), _scaled(y)
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * shared(a, b))


def frechet_from_statistics(mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray) -> float:
    """FD of N(mean_x [d], cov_x [d d]) and N(mean_y, cov_y).

    Raises:
      ValueError: a covariance that is not symmetric and positive semi-definite, or widths that differ.
    """
    mean_x, mean_y = np.asarray(mean_x, np.float64), np.asarray(mean_y, np.float64)
    a, b = _root(cov_x, "cov_x"), _root(cov_y, "cov_y")
    if not len(mean_x) == len(mean_y) == a.shape[1] == b.shape[1]:
        raise ValueError(f"means have {len(mean_x)} and {len(mean_y)} columns, covariances {len(a)} and {len(b)}")
    return float(np.sum((mean_x - mean_y) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * shared_of_roots(a, b))


def frechet(x: np.ndarray, y: np.ndarray) -> Figure:
    """``frechet_distance`` with its error; with two rows on a side there is none."""
    value = frechet_distance(x, y)
    few = min(len(x), len(y)) < 3
    return Figure(
        value,
        None if few else frechet_se(x, y, value),
        *(len(x), len(y)),
        reason="the error needs 3 images a side" if few else "",
    )


def frechet_se(x: np.ndarray, y: np.ndarray, value: float | None = None) -> float:
    """Standard error of ``frechet_distance(x, y)`` over draws of both sides, by a 20-group jackknife.

    Args:
      value: the distance, where it is known already.

    Raises:
      ValueError: fewer than three rows on a side, or widths that differ.
    """
    x, y = _checked(x, y, least=3)
    value = frechet_distance(x, y) if value is None else value
    return float(np.sqrt(sum(jackknife.variance(value, *leave_out(*sides)) for sides in ((x, y), (y, x)))))


def leave_out(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(f[g] FD(x, y) without each jackknife group of x's rows, to some 1e-7 of the traces; i[g] rows in each group).

    With B'B = Sy the shared trace is the sum of the roots of the eigenvalues of B Sx B', the covariance of z = B x.
    What leaving a group out changes is taken off sums that are made once.
    """
    groups = jackknife.group_of(len(x))
    sizes = np.bincount(groups)
    centre, own = x.mean(0), _scaled(y)
    x, shift, trace_y = x - centre, centre - y.mean(0), np.sum(own**2)
    sums = np.array([x[groups == g].sum(0) for g in range(len(sizes))])
    squares = np.bincount(groups, weights=np.sum(x**2, axis=1))
    few = len(x) <= min(own.shape)
    z = x @ factor(own).T
    roots = _few_rows(z, groups) if few else _many_rows(z, groups, null=len(y) <= y.shape[1])
    rest = len(x) - sizes
    means = -sums / rest[:, None]
    traces = (squares.sum() - squares - rest * np.sum(means**2, axis=1)) / (rest - 1)
    return np.sum((means + shift) ** 2, axis=1) + traces + trace_y - 2 * roots, sizes


def _few_rows(z: np.ndarray, groups: np.ndarray) -> np.ndarray:
    inner, found = z @ z.T, []
    for g in range(groups.max() + 1):
        keep = groups != g
        part = inner[np.ix_(keep, keep)]
        part = part - part.mean(0) - part.mean(1)[:, None] + part.mean()
        found.append(root_trace(part / (len(part) - 1), 0.0, null=True)[0])
    return np.array(found)


def _many_rows(z: np.ndarray, groups: np.ndarray, null: bool) -> np.ndarray:
    whole, found = z.T @ z, []
    for g in range(groups.max() + 1):
        out = z[groups == g]
        rest = len(z) - len(out)
        mean = -out.sum(0) / rest
        part = (whole - out.T @ out - rest * np.outer(mean, mean)) / (rest - 1)
        found.append(root_trace(part, 0.0, null)[0])
    return np.array(found)


def _scaled(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / np.sqrt(len(x) - 1)


def _root(cov: np.ndarray, name: str) -> np.ndarray:
    cov = np.asarray(cov, np.float64)
    scale = max(np.abs(cov).max(), np.finfo(np.float64).tiny)
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1] or np.abs(cov - cov.T).max() > 1e-8 * scale:
        raise ValueError(f"{name} must be a symmetric [d d] matrix; got shape {cov.shape}")
    values, vectors = np.linalg.eigh(cov)
    if values[0] < -1e-8 * scale * len(cov):
        raise ValueError(f"{name} must be positive semi-definite; its least eigenvalue is {values[0]:.3g}")
    # Eigenvalues of a singular covariance are zero up to the rounding of eigh, on either side.
    return np.sqrt(np.abs(values))[:, None] * vectors.T


def _checked(x: np.ndarray, y: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    for name, side in (("x", x), ("y", y)):
        if side.ndim != 2 or len(side) < least:
            raise ValueError(f"FD needs at least {least} rows of features [n d] on each side; {name} has {side.shape}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features have {x.shape[1]} columns on one side and {y.shape[1]} on the other")
    return x, y
