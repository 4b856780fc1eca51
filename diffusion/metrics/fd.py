"""Fréchet distance between two sets of features, fitted as Gaussians.

FD = |mx - my|^2 + tr Sx + tr Sy - 2 tr (Sx Sy)^1/2. With any factors A'A = Sx and B'B = Sy the last trace
is the nuclear norm of A B', so no matrix square root, no epsilon and no clamping is needed, and a singular
covariance (n <= d, a feature that never fires) is as exact as any other. Covariances have ddof 1.
"""

from dataclasses import dataclass

import numpy as np

from diffusion.metrics import jackknife

SPLITS = 10


@dataclass(frozen=True)
class Floor:
    """FD against what two halves of the real images score against each other.

    Attributes:
      n: images on each side.
      half: FD(n generated, n real), averaged over the splits.
      floor: FD(n real, n other real), averaged over the same splits.
    """

    n: int
    half: float
    floor: float

    @property
    def excess(self) -> float:
        return self.half - self.floor


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """FD of features x [n d] and y [m d], both n, m >= 2, in float64; can be -1e-15 of the trace, never NaN.

    Raises:
      ValueError: fewer than two rows on a side, or widths that differ.
    """
    x, y = _checked(x, "x"), _checked(y, "y")
    return _distance(x.mean(0), _factor(x), y.mean(0), _factor(y))


def frechet_from_statistics(mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray) -> float:
    """FD of N(mean_x [d], cov_x [d d]) and N(mean_y, cov_y).

    Raises:
      ValueError: a covariance that is not symmetric and positive semi-definite.
    """
    means = np.asarray(mean_x, np.float64), np.asarray(mean_y, np.float64)
    return _distance(means[0], _root(cov_x, "cov_x"), means[1], _root(cov_y, "cov_y"))


def frechet_se(x: np.ndarray, y: np.ndarray) -> float:
    """Standard error of ``frechet_distance(x, y)`` over draws of both sides, by a 20-group jackknife.

    Raises:
      ValueError: fewer than three rows on a side.
    """
    x, y = _checked(x, "x", least=3), _checked(y, "y", least=3)
    value = frechet_distance(x, y)
    without_x = _leave_out(x, lambda rest: frechet_distance(rest, y))
    without_y = _leave_out(y, lambda rest: frechet_distance(x, rest))
    return float(np.sqrt(sum(jackknife.variance(value, *part) for part in (without_x, without_y))))


def half_split(generated: np.ndarray, reals: np.ndarray, rng: np.random.Generator) -> Floor:
    """The real-against-real floor, averaged over ten random splits.

    Each split deals the reals into two disjoint sets and draws as many generated images. The sets are halves
    of the reals, or as large as the generated set where the reals are at least twice as many.

    Args:
      generated: f[n d].
      reals: f[m d], every real image of the class.

    Raises:
      ValueError: fewer than two images on a side.
    """
    n = min(len(generated), len(reals) // 2)
    halves, floors = [], []
    for _ in range(SPLITS):
        order = rng.permutation(len(reals))
        one, other = reals[order[:n]], reals[order[n : 2 * n]]
        halves.append(frechet_distance(generated[rng.permutation(len(generated))[:n]], one))
        floors.append(frechet_distance(one, other))
    return Floor(n, float(np.mean(halves)), float(np.mean(floors)))


def _distance(mean_x: np.ndarray, a: np.ndarray, mean_y: np.ndarray, b: np.ndarray) -> float:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features have {a.shape[1]} columns on one side and {b.shape[1]} on the other")
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(np.sum((mean_x - mean_y) ** 2) + np.sum(a**2) + np.sum(b**2) - 2 * shared)


def _factor(x: np.ndarray) -> np.ndarray:
    """A [min(n, d) d] with A'A = cov(x); for n > d the triangle of a QR, which loses nothing to squaring."""
    centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return centred if len(x) <= x.shape[1] else np.linalg.qr(centred, mode="r")


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


def _leave_out(x: np.ndarray, statistic) -> tuple[np.ndarray, np.ndarray]:
    groups = jackknife.group_of(len(x))
    sizes = np.bincount(groups)
    return np.array([statistic(x[groups != g]) for g in range(len(sizes))]), sizes


def _checked(x: np.ndarray, name: str, least: int = 2) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < least:
        raise ValueError(f"FD needs at least {least} rows of features [n d] on each side; {name} has {x.shape}")
    return x
