"""Two arms of the same seeds and the same test images, compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.usefulness.scores import confusion, headline

RESAMPLES = 2000
ENDS = (2.5, 97.5)  # percentiles
SAME = 1e-12  # figures that differ by less are equal up to rounding


@dataclass(frozen=True)
class Paired:
    """The difference of a figure between two arms, the first less the second.

    Attributes:
      mean, sd: over the seeds; sd with ddof=1.
      t, p: paired t-test over the seeds, two-sided. It covers what a seed changes: the classifier's start and order,
        and which images were drawn. It does not cover the test images, the training images or the generator, which
        all seeds share.
      low, high: 95 % percentile bootstrap over the test images of each class, of the mean over the seeds. It covers
        which test images there happen to be, and not the seeds, the training images or the generator. A class of one
        test image adds no spread.
      reason: why sd, t or p are None, "" where they are not.
    """

    mean: float
    sd: float | None
    t: float | None
    p: float | None
    low: float
    high: float
    reason: str = ""


def compare(
    labels: np.ndarray, one: np.ndarray, other: np.ndarray, classes: int, small: Sequence[int], seed: int
) -> dict[str, Paired]:
    """{figure of `scores.HEADLINE`: one less other}.

    Args:
      labels: i[n] of the test images; every class has some.
      one, other: i[s n], as what each seed's classifier read them.
      small: see `scores.headline`.
      seed: of the bootstrap, which does not depend on the order of the images.
    """
    a, b = (_over_seeds([confusion(labels, read, classes) for read in arm], small) for arm in (one, other))
    ends = _intervals(labels, one, other, classes, small, seed)
    return {name: _paired(a[name] - b[name], *ends[name]) for name in a}


def _over_seeds(matrices: Sequence[np.ndarray], small: Sequence[int]) -> Mapping[str, np.ndarray]:
    return headline(np.stack(matrices), small)


def _paired(difference: np.ndarray, low: float, high: float) -> Paired:
    """Of differences f64[s], one for each seed."""
    from scipy.stats import ttest_1samp

    mean, low, high = (0.0 if abs(value) < SAME else float(value) for value in (difference.mean(), low, high))
    if len(difference) < 2:
        return Paired(mean, None, None, None, low, high, "one seed has no spread")
    if np.ptp(difference) < SAME:
        reason = f"the {len(difference)} seeds' differences are all equal"
        return Paired(mean, 0.0, None, None, low, high, reason)
    t, p = ttest_1samp(difference, 0.0)
    return Paired(mean, float(difference.std(ddof=1)), float(t), float(p), low, high)


def _intervals(
    labels: np.ndarray, one: np.ndarray, other: np.ndarray, classes: int, small: Sequence[int], seed: int
) -> dict[str, tuple[float, float]]:
    weights, order = _resampled(labels, np.concatenate([one, other]), classes, seed)
    sums: dict[str, np.ndarray] = {}
    for sign, arm in ((1, one), (-1, other)):
        for read in arm:
            found = headline(_weighted(weights, read[order], labels[order], classes), small)
            for name, values in found.items():
                sums[name] = sums.get(name, 0.0) + sign * values / len(arm)
    return {name: tuple(np.percentile(values, ENDS).tolist()) for name, values in sums.items()}


def _resampled(labels: np.ndarray, read: np.ndarray, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(how often each image is drawn f32[B n], the order i[n] in which the images stand there).

    Each class is drawn with replacement from itself, at its own size. Images are ordered by class and by what was read
    of them, so that their own order does not matter.
    """
    order = np.lexsort((*read, labels))
    counts = np.bincount(labels, minlength=classes)
    drawn = [
        np.random.default_rng([seed, c]).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(np.float32)
        for c, n in enumerate(counts)
    ]
    return np.concatenate(drawn, axis=1), order


def _weighted(weights: np.ndarray, read: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrices f64[B k k] of the resampled images, which stand class by class."""
    ends = np.searchsorted(labels, np.arange(classes + 1))
    as_read = np.eye(classes, dtype=np.float32)[read]
    rows = [weights[:, i:j] @ as_read[i:j] for i, j in zip(ends, ends[1:], strict=False)]
    return np.stack(rows, axis=1).astype(np.float64)
