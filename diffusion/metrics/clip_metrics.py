"""Figures of CLIP's embeddings, which come as they are and are brought to unit length here."""

from collections.abc import Sequence

import numpy as np

from diffusion.metrics import mmd
from diffusion.metrics.figure import Figure
from diffusion.metrics.stratified import Discrepancy, several, value_with_se

SIGMA = 10.0  # of CMMD's Gaussian kernel
SCALE = 1000.0  # of CMMD as published


def clip_score(images: np.ndarray, texts: np.ndarray) -> Figure:
    """CLIP score of images f[n d] with their texts f[n d]: 100 times the mean cosine, not below 0 (Hessel 2021).

    The mean is clamped, not each pair (torchmetrics); the error is that of the mean before. Hessel's own weight is
    2.5 and clamps pairs.

    Raises:
      ValueError: no pairs, sides that do not match, or an embedding of length 0 or that is not finite.
    """
    images, texts = _unit(images, "images"), _unit(texts, "texts")
    if images.shape != texts.shape:
        raise ValueError(f"each image needs its text: images have {images.shape}, texts {texts.shape}")
    cosines = np.sum(images * texts, axis=1)
    n = len(cosines)
    value = max(100 * float(cosines.mean()), 0.0)
    if n < 2:
        return Figure(value, None, n, reason="one image has no error")
    return Figure(value, 100 * float(cosines.std(ddof=1)) / n**0.5, n)


def cmmd(generated: np.ndarray, real: np.ndarray, counts: Sequence[int] = ()) -> dict[str, Figure]:
    """CMMD of embeddings f[n d] and f[m d]: {"cmmd_v": V-statistic, "cmmd_u": U-statistic}, both times 1000.

    Jayasumana 2024: squared maximum mean discrepancy of unit vectors under exp(-|x - y|^2 / (2 sigma^2)), sigma 10.
    Published figures are V, which lies above U by about (1 / n + 1 / m) (1 - k), k the mean kernel between images; U
    has mean 0 where nothing differs, and is the one to read for small n. Errors by a 20-group jackknife.

    Args:
      counts: rows of each class, in order and equal on both sides, where the classes are fixed: see ``stratified``.

    Raises:
      ValueError: fewer than three rows on a side, widths that differ, counts that do not fit, or an embedding of length
        0 or not finite.
    """
    x, y = _unit(generated, "generated images"), _unit(real, "real images")
    if min(len(x), len(y)) < 3:
        raise ValueError(f"CMMD and its error need at least 3 images on each side; got {len(x)} and {len(y)}")
    # |x - y|^2 = 2 - 2 x.y; k - 1 has the same discrepancy as k, is 0 between equals and keeps small digits
    found = _two_statistics(x, y, counts, lambda dot: np.expm1((dot - 1) / SIGMA**2))
    return {name: Figure(SCALE * value, SCALE * se, len(x), len(y)) for name, (value, se) in found.items()}


def _two_statistics(
    x: np.ndarray, y: np.ndarray, counts: Sequence[int], kernel: mmd.Kernel
) -> dict[str, tuple[float, float]]:
    if several(counts):
        found = Discrepancy.of(x, y, counts, kernel)
        replicates = {"cmmd_v": found.biased, "cmmd_u": found.unbiased}
        return {name: value_with_se(values, found.sizes) for name, values in replicates.items()}
    sums = mmd.Sums.of(x, y, kernel)
    statistics = {"cmmd_v": mmd.biased, "cmmd_u": mmd.unbiased}
    return {name: (statistic(sums), mmd.standard_error(sums, statistic)) for name, statistic in statistics.items()}


def _unit(x: np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"embeddings of {name} must be [n d] with n, d >= 1; got shape {x.shape}")
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))
    if bad.size:
        raise ValueError(f"{bad.size} embeddings of {name} are 0 or not finite; the first is {bad[0]}")
    return x / lengths
