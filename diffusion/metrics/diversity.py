"""How different images of one condition are: mean distance of disjoint pairs, and the Vendi score."""

import numpy as np

from diffusion.metrics import jackknife
from diffusion.metrics.figure import Figure


def disjoint_pairs(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pairs of images of one condition that share no image: i64[p 2], rows of ``labels``, condition by condition.

    Within a condition they are (2i, 2i + 1) after a random permutation; of an odd number one image stays alone.

    Args:
      labels: i[n], the condition of each image; all equal where there is none.
    """
    pairs = [np.empty((0, 2), np.int64)]
    for label in np.unique(labels):
        order = rng.permutation(np.flatnonzero(labels == label))
        pairs.append(order[: len(order) // 2 * 2].reshape(-1, 2))
    return np.concatenate(pairs)


def mean_distance(distances: np.ndarray) -> Figure:
    """Mean of p distances of disjoint pairs, f[p]; its error is std / sqrt(p), for pairs share no image.

    n_gen counts images, 2p. The same on pairs of real images is the ceiling.

    Raises:
      ValueError: a distance that is not finite and >= 0.
    """
    distances = np.asarray(distances, np.float64)
    if distances.ndim != 1:
        raise ValueError(f"diversity takes distances of pairs, [p]; got shape {distances.shape}")
    bad = np.flatnonzero(~(np.isfinite(distances) & (distances >= 0)))
    if bad.size:
        raise ValueError(f"distances must be finite and >= 0; pair {bad[0]} has {distances[bad[0]]}")
    pairs = len(distances)
    if not pairs:
        return Figure(None, None, 0, reason="no condition has two images")
    if pairs == 1:
        return Figure(float(distances[0]), None, 2, reason="no error from one pair")
    return Figure(float(distances.mean()), float(distances.std(ddof=1) / np.sqrt(pairs)), 2 * pairs)


def vendi(x: np.ndarray) -> Figure:
    """Vendi score of features x [n d], in [1, n]: how many different images would be as diverse.

    exp of the Shannon entropy of the eigenvalues of K / n, K the cosine similarities.
    Friedman & Dieng 2023, The Vendi score, def. 3.1. It grows with n: only equal n compare. The error is a
    20-group jackknife's.

    Raises:
      ValueError: no rows, or one without direction (all zeros).
    """
    x = _unit_rows(x)
    value, n = _score(x), len(x)
    if n < 3:
        return Figure(value, None, n, reason="no error from fewer than 3 images")
    groups = jackknife.group_of(n)
    sizes = np.bincount(groups)
    left_out = np.array([_score(x[groups != g]) for g in range(len(sizes))])
    return Figure(value, float(np.sqrt(jackknife.variance(value, left_out, sizes))), n)


def _score(x: np.ndarray) -> float:
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x  # XX' and X'X have the same eigenvalues above 0
    values = np.linalg.eigvalsh(gram / len(x))
    values = values[values > 0]  # 0 log 0 = 0; zeros are rounded to either side
    return float(np.exp(-np.sum(values * np.log(values))))


def _unit_rows(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"the Vendi score needs features [n d], n >= 1; got shape {x.shape}")
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        row = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0]
        raise ValueError(f"the Vendi score needs features of finite length above 0; row {row} has {norms[row, 0]}")
    return x / norms
