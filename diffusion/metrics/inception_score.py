"""Inception Score: how sure and how varied a classifier's readings are (Salimans et al. 2016, sec. 4)."""

import numpy as np

from diffusion.metrics.figure import Figure

SPLITS = 10
LEAST = 100 * SPLITS  # images; with fewer to a split the score says more of their number than of the model


def inception_score(logits: np.ndarray, seed: int = 0) -> Figure:
    """exp of the mean KL(p(k | image) || mean p(k)) over each of 10 splits of all images, and the mean over splits.

    The logits are Inception's without the bias of the last layer ("logits_unbiased"), as TensorFlow's graph has them.
    The score is of all images together: within a class it is meaningless, and it grows with the number of images.

    Args:
      logits: f[n k], in the order of the samples' indices.
      seed: of the permutation before the splits, so that images in the order of their classes are spread.

    Returns:
      The mean over splits and its standard error, the standard deviation of ``scores`` over sqrt(10); papers print the
      deviation itself.

    Raises:
      ValueError: fewer than 1000 images, or logits that are not finite [n k].
    """
    by_split = scores(logits, seed)
    return Figure(float(by_split.mean()), float(by_split.std(ddof=1) / np.sqrt(SPLITS)), len(logits))


def scores(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """The score of each split: f64[10], in [1, k]."""
    logits = np.asarray(logits)
    if logits.ndim != 2 or len(logits) < LEAST:
        raise ValueError(f"the Inception Score needs logits [n k] of at least {LEAST} images; got {logits.shape}")
    if not np.isfinite(logits).all():
        raise ValueError(f"logits of image {int(np.argmin(np.isfinite(logits).all(axis=1)))} are not finite")
    order = np.random.default_rng(seed).permutation(len(logits))
    return np.array([_score(logits[rows]) for rows in np.array_split(order, SPLITS)])


def _score(logits: np.ndarray) -> float:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    mean = p.mean(axis=0)
    # of a class that no image can have, log 0 would be multiplied by 0
    cross = mean @ np.log(mean, where=mean > 0, out=np.zeros_like(mean))
    return float(np.exp((p * log_p).sum(axis=1).mean() - cross))
