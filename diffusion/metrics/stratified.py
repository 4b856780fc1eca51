"""Squared maximum mean discrepancy of two samples that hold the same count of each class.

The U-statistic of ``mmd`` takes its rows for independent draws of the mixture. Where the count of each class is fixed,
a row meets its own class less often within its side (n_c - 1 of n - 1) than on the other one (n_c of n), and the mean
under equal distributions is not 0 but -2 / (n - 1) times the spread of the classes' mean embeddings. So the means of
the kernel are taken class by class, with the shares p_c = n_c / n:

    sum_cd p_c p_d (mean k(x_c, x_d) + mean k(y_c, y_d) - 2 mean k(x_c, y_d)),   a row and itself left out where c = d.

A class of one image has no pair within a side. Its own term (c = d) is left out on both sides and between them: the
mean stays 0 under equal distributions, and of the discrepancy p_c^2 times the class's own is not seen. Where all
classes are so, this is (n - 1) / n times eq. 4 of Gretton et al. 2012, whose pairs are images of one class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.metrics import jackknife
from diffusion.metrics.mmd import CHUNK, Kernel


@dataclass(frozen=True)
class Discrepancy:
    """Both statistics on all rows [0] and without each jackknife group [1:].

    unbiased f[1 + g], biased f[1 + g]: the last of a kernel that is 0 between a row and itself; sizes i[g]: of groups.
    """

    unbiased: np.ndarray
    biased: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, counts: Sequence[int], kernel: Kernel) -> "Discrepancy":
        """Of x [n d] and y [n d], n >= 3, whose rows are ``counts[0]`` of one class, then ``counts[1]`` of the next.

        Raises:
          ValueError: widths that differ, or counts that do not add up to the rows of both sides.
        """
        if x.shape != y.shape or sum(counts) != len(x):
            raise ValueError(f"classes of {list(counts)} rows on both sides; there are {x.shape} and {y.shape}")
        groups, label = jackknife.group_of(len(x)), np.repeat(np.arange(len(counts)), counts)
        weights = _weights(groups, label, len(counts))
        within = _form(x, x, kernel, weights) + _form(y, y, kernel, weights)
        biased = within - 2 * _form(x, y, kernel, weights)
        unbiased = biased.copy()
        for c in range(len(counts)):
            own = label == c
            unbiased += _own_class(x[own], y[own], kernel, weights[own])
        return cls(unbiased, biased, np.bincount(groups))


def several(counts: Sequence[int]) -> bool:
    """Whether more than one class has rows; of a single one the rows are independent draws, and ``mmd`` is right."""
    return sum(count > 0 for count in counts) > 1


def value_with_se(replicates: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """One of the statistics of a ``Discrepancy``, and its error over draws of both sides.

    A group takes rows of the same classes out of both sides, so each replicate compares equal counts again.
    """
    return float(replicates[0]), float(np.sqrt(jackknife.variance(replicates[0], replicates[1:], sizes)))


def _weights(groups: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """f[n 1 + g]: each row's, which add up to the class's share; 0 in the group that is left out.

    Whatever is left out, the classes keep their shares. Rows stand class by class, so each is dealt evenly to groups.
    """
    kept = np.ones((len(groups), groups.max() + 2))
    kept[np.arange(len(groups)), 1 + groups] = 0
    own = label[:, None] == np.arange(classes)
    left = own.T @ kept  # [c 1 + g]
    share = own.sum(0)[:, None] / np.maximum(left, 1)
    weights = kept * share[label]
    return weights / weights.sum(0)  # a class that is left out whole leaves its share to the others


def _own_class(x: np.ndarray, y: np.ndarray, kernel: Kernel, weights: np.ndarray) -> np.ndarray:
    """f[r]: what the unbiased term of one class has over the biased one; with one row there is no unbiased one."""
    left = np.sum(weights > 0, axis=0)
    within = _form(x, x, kernel, weights) + _form(y, y, kernel, weights)
    with_itself = sum(kernel(np.sum(z * z, axis=1)) for z in (x, y)) @ weights**2
    unbiased = (within - left * with_itself) / np.maximum(left - 1, 1)
    return np.where(left > 1, unbiased, 2 * _form(x, y, kernel, weights) - within)


def _form(x: np.ndarray, y: np.ndarray, kernel: Kernel, weights: np.ndarray) -> np.ndarray:
    """f[r]: sum_ij w_i w_j k(x_i, y_j) of each column w of f[n r]."""
    total = np.zeros(weights.shape[1])
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        total += np.sum(weights[rows] * (kernel(x[rows] @ y.T) @ weights), axis=0)
    return total
