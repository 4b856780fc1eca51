"""Precision and recall, density and coverage: how two sets of features lie among each other's nearest neighbours.

Kynkäänniemi et al. 2019, eq. 1-2, with k = 3 and <=; Naeem et al. 2020, eq. 6-7, with k = 5 and <. A ball around an
image reaches to its k-th nearest other image of the same set. Distances are float64; ties are counted as they fall.
Errors are over draws of both sides: the spread over the images that are counted, and a 20-group jackknife over those
whose balls they are, from one matrix of distances that is made a chunk at a time. A jackknife of nearest neighbours
is wide, never narrow: here 1.2 to 2 times the spread of replicates (Efron & Stein 1981 show why it cannot be less).
"""

import numpy as np

from diffusion.metrics import jackknife
from diffusion.metrics.distances import chunks
from diffusion.metrics.figure import Figure

K_PRECISION, K_DENSITY = 3, 5


def precision_recall(generated: np.ndarray, real: np.ndarray, k: int = K_PRECISION) -> dict[str, Figure]:
    """``precision``: share of generated images inside a ball of the reals; ``recall``: of reals inside one of theirs.

    Args:
      generated: f[n d].
      real: f[m d].

    Returns:
      Both in [0, 1]; None with a reason where a side has no k-th neighbour.
    """
    counts = (len(generated), len(real))
    if min(counts) <= k:
        return dict.fromkeys(("precision", "recall"), _too_few(k, *counts))
    precision, recall = (_inside(*sides, k) for sides in ((generated, real), (real, generated)))
    return {"precision": _figure(*precision, *counts), "recall": _figure(*recall, *counts)}


def density_coverage(generated: np.ndarray, real: np.ndarray, k: int = K_DENSITY) -> dict[str, Figure]:
    """``density``: balls of the reals around a generated image, over k; ``coverage``: share of balls that hold one.

    Args:
      generated: f[n d].
      real: f[m d].

    Returns:
      density (about 1 for equal distributions, above where the generator stays near the modes), coverage in [0, 1]
      and ``coverage_expected``, what equal distributions give at these counts; None with a reason where there are no
      k-th neighbours.
    """
    counts = (len(generated), len(real))
    if counts[1] <= k or not counts[0]:
        return dict.fromkeys(("density", "coverage", "coverage_expected"), _too_few(k, *counts))
    density, coverage = _balls(generated, real, k)
    expected = Figure(expected_coverage(*counts, k), None, *counts, reason="a formula of the counts")
    return {"density": _figure(*density, *counts), "coverage": _figure(*coverage, *counts)} | {
        "coverage_expected": expected
    }


def expected_coverage(n_gen: int, n_real: int, k: int = K_DENSITY) -> float:
    """Coverage of m reals by n generated images of the same distribution: 1 - prod_{i=1..k} (m - i) / (n + m - i).

    Naeem et al. 2020, lemma 2.
    """
    i = np.arange(1, k + 1)
    return float(1 - np.prod((n_real - i) / (n_gen + n_real - i)))


def radii(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(f[n] distance of each row to its k-th nearest other row, f[g n] the same without each jackknife group).

    Without a group, its own rows keep a radius that means nothing. Where fewer than k others are left, it is infinite.
    """
    groups = jackknife.GROUPS if len(x) >= jackknife.GROUPS else len(x)
    whole, without = np.empty(len(x)), np.empty((groups, len(x)))
    for part, block in chunks(x, x):
        block[np.arange(len(block)), np.arange(part.start, part.stop)] = np.inf
        # the k nearest of every group: whichever group is left out, the k nearest of the others are among them
        near = np.stack([_smallest(block[:, g::groups], k) for g in range(groups)])  # [g rows k]
        whole[part] = _kth(near, k)
        for g in range(groups):
            without[g, part] = _kth(np.delete(near, g, axis=0), k)
    return whole, without


def _inside(points: np.ndarray, centres: np.ndarray, k: int) -> tuple[float, float | None]:
    """Share of points inside a ball around a centre, and its error."""
    radius, without = radii(centres, k)
    groups = jackknife.group_of(len(centres))
    held = np.zeros(len(points), np.int64)  # balls that hold each point
    change = np.zeros((len(without), len(points)), np.int64)
    for part, block in chunks(centres, points):
        hit = block <= radius[part, None]
        held += hit.sum(0)
        for g in range(len(without)):
            own = groups[part] == g
            change[g] -= hit[own].sum(0)
            grown = ~own & (without[g, part] != radius[part])
            change[g] += ((block[grown] <= without[g, part][grown, None]) & ~hit[grown]).sum(0)
    own_sizes = np.bincount(groups)
    inside = held > 0
    left = [np.mean(held + change[g] > 0) for g in range(len(without))]
    return float(inside.mean()), _error(inside.mean(), inside, np.array(left), own_sizes)


def _balls(generated: np.ndarray, real: np.ndarray, k: int) -> tuple[tuple[float, float | None], ...]:
    """Density and coverage, each with its error."""
    radius, without = radii(real, k)
    n, m = len(generated), len(real)
    of_real, of_made = jackknife.group_of(m), jackknife.group_of(n)
    made_groups, real_groups = of_made.max() + 1, len(without)
    held = np.zeros(n, np.int64)
    in_ball, covered = np.zeros(real_groups, np.int64), np.zeros(real_groups, np.int64)
    lost = np.zeros(made_groups, np.int64)  # reals covered by generated images of that group alone
    total = 0
    for part, block in chunks(real, generated):
        hit = block < radius[part, None]
        held += hit.sum(0)
        total += hit.any(1).sum()
        per_group = np.stack([hit[:, of_made == h].any(1) for h in range(made_groups)])
        lost += (per_group & (per_group.sum(0) == 1)).sum(1)
        for g in range(real_groups):
            kept = of_real[part] != g
            grown = kept & (without[g, part] != radius[part])
            now = block[grown] < without[g, part][grown, None]
            same = kept & ~grown
            in_ball[g] += hit[same].sum() + now.sum()
            covered[g] += hit[same].any(1).sum() + now.any(1).sum()
    rest = m - np.bincount(of_real)
    density, coverage = 1 / k * held.mean(), total / m
    sizes = np.bincount(of_real), np.bincount(of_made)
    density_error = _error(density, held / k, in_ball / (k * n), sizes[0])
    coverage_error = _both(
        jackknife.variance(coverage, covered / rest, sizes[0]),
        jackknife.variance(coverage, (total - lost) / m, sizes[1]),
    )
    return (float(density), density_error), (float(coverage), coverage_error)


def _error(value: float, each: np.ndarray, left_out: np.ndarray, sizes: np.ndarray) -> float | None:
    """Of a mean over points (independent given the balls), plus that of the balls by the jackknife."""
    if len(each) < 2:
        return None
    return _both(float(each.var(ddof=1)) / len(each), jackknife.variance(value, left_out, sizes))


def _both(*variances: float) -> float:
    return float(np.sqrt(sum(variances)))


def _smallest(block: np.ndarray, k: int) -> np.ndarray:
    """The k smallest of each row, in any order; infinite where a row is shorter."""
    if block.shape[1] <= k:
        return np.pad(block, ((0, 0), (0, k - block.shape[1])), constant_values=np.inf)
    return np.partition(block, k - 1, axis=1)[:, :k]


def _kth(near: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest over groups: f[g rows k] -> f[rows]."""
    rows = np.moveaxis(near, 1, 0).reshape(near.shape[1], -1)
    return np.partition(rows, k - 1, axis=1)[:, k - 1]


def _figure(value: float, se: float | None, n_gen: int, n_real: int) -> Figure:
    return Figure(value, se, n_gen, n_real, "" if se is not None else "the error needs two images a side")


def _too_few(k: int, n_gen: int, n_real: int) -> Figure:
    return Figure(None, None, n_gen, n_real, f"{k} nearest neighbours need more than {k} images: {n_gen} and {n_real}")
