"""Whether generated images are copies of training images."""

from dataclasses import dataclass

import numpy as np

from diffusion.metrics import jackknife
from diffusion.metrics.distances import nearest
from diffusion.metrics.fd import frechet_distance, leave_out
from diffusion.metrics.figure import Figure

COPY = 1 / 3  # Yoon et al. 2023, Diffusion probabilistic models generalize when they fail to memorize


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest training image of each generated one.

    Attributes:
      index: i[n], its row in the training set; the first of equals.
      distance: f64[n], to it; exactly 0 for a copy.
      own: f64[n], from that training image to the nearest other one.
      n_train: training images.
    """

    index: np.ndarray
    distance: np.ndarray
    own: np.ndarray
    n_train: int

    @property
    def ratio(self) -> np.ndarray:
        """f64[n], distance / own: far below 1 is nearer to a training image than another one would be.

        0 for a copy; inf where the training image has a twin and the generated one is no copy of it.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.distance == 0, 0.0, self.distance / self.own)

    def figures(self) -> dict[str, Figure]:
        """ratio_median; copied_percent (ratio below 1/3); auth_percent.

        Yoon et al. 2023 divide by the distance to the second nearest training image instead, which a twin in the
        training set hides; the threshold is theirs. AuthPct: Alaa et al. 2022, How faithful is your synthetic data?
        A generated image is authentic if it is farther from its nearest training image than that one is from its
        own nearest other.
        """
        ratio, n = self.ratio, len(self.ratio)
        return {
            "ratio_median": self._median(ratio),
            "copied_percent": _percent(ratio < COPY, n, self.n_train),
            "auth_percent": _percent(self.distance > self.own, n, self.n_train),
        }

    def suspicious(self, count: int) -> list[tuple[int, int, float]]:
        """The pairs of lowest finite ratio, the worst first: (generated index, training index, ratio)."""
        ratio = self.ratio
        worst = [i for i in np.lexsort((self.distance, ratio)) if np.isfinite(ratio[i])][:count]
        return [(int(i), int(self.index[i]), float(ratio[i])) for i in worst]

    def _median(self, ratio: np.ndarray) -> Figure:
        n, middle = len(ratio), float(np.median(ratio))
        if not np.isfinite(middle):
            reason = "half of the nearest training images have a twin in the training set, so the ratio divides by 0"
            return Figure(None, None, n, self.n_train, reason)
        return Figure(middle, None, n, self.n_train, "no error is given for a median")


def neighbours(generated: np.ndarray, train: np.ndarray) -> Neighbours:
    """Compares generated [n d] with training images [m d], m >= 2: features or pixels, Euclidean, in float64.

    Raises:
      ValueError: fewer than two training images, or widths that differ.
    """
    distance, index = nearest(generated, train)
    places, back = np.unique(index[:, 0], return_inverse=True)
    own = nearest(np.asarray(train)[places], train, k=2)[0][:, 1]  # the nearest is the row itself, or its twin, at 0
    return Neighbours(index[:, 0], distance[:, 0], own[back], len(train))


def held_out_gap(
    generated: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    rng: np.random.Generator,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """FD to held-out images less FD to training images, at equal n: above 0 where the training set is nearer.

    Of the larger real set, as many as the smaller one holds are drawn without replacement; a generator that
    learnt the distribution scores 0 within the error (a 20-group jackknife over generated and both real sets).

    Args:
      labels: classes of the training and of the held-out images, where they have some. Each class is then drawn by
        itself: a random part of one set has other shares than all of the other set, and is farther from everything.

    Raises:
      ValueError: fewer than three images on a side.
    """
    rows = _equal_rows(*(labels or (np.zeros(len(x), int) for x in (train, held_out))), rng)
    n = len(rows[0])
    if min(n, len(generated)) < 3:
        raise ValueError(f"the gap needs at least 3 images on each side; got {len(generated)}, {len(held_out)}, {n}")
    train, held_out = (np.asarray(x, np.float64)[own] for x, own in zip((train, held_out), rows, strict=True))
    generated = np.asarray(generated, np.float64)
    far, near = frechet_distance(generated, held_out), frechet_distance(generated, train)
    (without_far, sizes), (without_near, _) = leave_out(generated, held_out), leave_out(generated, train)
    without_held_out, without_train = leave_out(held_out, generated), leave_out(train, generated)
    variance = (
        jackknife.variance(far - near, without_far - without_near, sizes)
        + jackknife.variance(far, *without_held_out)
        + jackknife.variance(near, *without_train)
    )
    return Figure(far - near, float(np.sqrt(variance)), len(generated), n)


def _equal_rows(one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of both sides i[n], as many of each class as the side with fewer holds, class by class."""
    found: list[list[np.ndarray]] = [[], []]
    for label in np.intersect1d(one, other):
        own = [np.flatnonzero(side == label) for side in (one, other)]
        n = min(map(len, own))
        for drawn, rows in zip(found, own, strict=True):
            drawn.append(rows[np.sort(rng.permutation(len(rows))[:n])])
    return [np.concatenate(drawn) if drawn else np.zeros(0, int) for drawn in found]


def _percent(which: np.ndarray, n: int, n_train: int) -> Figure:
    share = which.mean()
    reason = "" if n > 1 else "no error from one image"
    se = None if reason else float(100 * np.sqrt(share * (1 - share) / (n - 1)))
    return Figure(float(100 * share), se, n, n_train, reason)
