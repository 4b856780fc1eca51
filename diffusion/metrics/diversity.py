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
    20-group jackknife's. None where a row is all 0 (a black image's pixels): it has no direction to be alike in.

    Raises:
      ValueError: no rows, or one that is not finite.
    """
    x, lengths = _rows_and_lengths(x)
    n, blank = len(x), np.flatnonzero(lengths == 0)
    if blank.size:
        reason = f"{blank.size} of {n} images have features that are all 0, the first of them image {blank[0]}"
        return Figure(None, None, n, reason=reason)
    x = x / lengths
    few = n <= x.shape[1]
    gram = x @ x.T if few else x.T @ x  # both have the same eigenvalues above 0
    value = _score(gram / n)
    if n < 3:
        return Figure(value, None, n, reason="no error from fewer than 3 images")
    groups = jackknife.group_of(n)
    sizes = np.bincount(groups)
    left_out = []
    for g, size in enumerate(sizes):
        keep, out = groups != g, x[groups == g]
        rest = gram[np.ix_(keep, keep)] if few else gram - out.T @ out
        left_out.append(_score(rest / (n - size)))
    return Figure(value, float(np.sqrt(jackknife.variance(value, np.array(left_out), sizes))), n)


def _score(gram: np.ndarray) -> float:
    values = np.linalg.eigvalsh(gram)
    values = values[values > 0]  # 0 log 0 = 0; zeros are rounded to either side
    return float(np.exp(-np.sum(values * np.log(values))))


def _rows_and_lengths(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(f64[n d], f64[n 1])."""
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"the Vendi score needs features [n d], n >= 1; got shape {x.shape}")
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        row = np.flatnonzero(~np.isfinite(lengths))[0]
        raise ValueError(f"the Vendi score needs finite features; row {row} has length {lengths[row, 0]}")
    return x, lengths
