"""Which of the drawn images are used: no copies of training images, then the most realistic."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diffusion.metrics.distances import nearest
from diffusion.metrics.memorisation import COPY, neighbours


@dataclass(frozen=True, eq=False)
class Seen:
    """Images as a selection sees them: pixels f[n p], features f[n d] of the data set's classifier, labels i[n]."""

    pixels: np.ndarray
    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Judged:
    """Candidates: labels i[n], whether each is a copy bool[n], and how far it is from the real images f64[n]."""

    labels: np.ndarray
    copy: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True, eq=False)
class Chosen:
    """What an arm uses of the candidates.

    Attributes:
      rows: i[m], of the candidates, in rising order.
      asked, drawn, dropped, kept: i[k] by class; dropped are the copies among the drawn ones.
    """

    rows: np.ndarray
    asked: np.ndarray
    drawn: np.ndarray
    dropped: np.ndarray
    kept: np.ndarray


def judge(made: Seen, train: Seen) -> Judged:
    """What `choose` goes by; the training split is all that is looked at.

    A copy is an image whose distance to the nearest training image, of any class, is below a third of that one's own
    distance to the nearest other (`memorisation.COPY`), in pixels or in features. Realistic is what is near, in
    features, to a training image of its own class.

    Raises:
      ValueError: fewer than two training images, or none of a class that was drawn.
    """
    if not len(made.labels):
        return Judged(made.labels, np.zeros(0, bool), np.zeros(0))
    once = np.unique(train.pixels, axis=0, return_index=True)[1]  # a twin would hide what is copied from both
    spaces = ((made.pixels, train.pixels[once]), (made.features, train.features[once]))
    copy = np.any([neighbours(ours, theirs).ratio < COPY for ours, theirs in spaces], axis=0)
    distance = np.zeros(len(made.labels))
    for own, real in _by_class(made.labels, train.labels):
        distance[own] = nearest(made.features[own], train.features[real])[0][:, 0]
    return Judged(made.labels, copy, distance)


def choose(judged: Judged, asked: np.ndarray, oversample: float, *, drop_copies: bool) -> Chosen:
    """Of each class's first ``oversample`` times as many candidates, without copies, those nearest to real images.

    Where fewer remain than were asked for, these are taken.

    Args:
      asked: i[k].
    """
    rows, counts = [np.zeros(0, np.int64)], []
    for label, pool in enumerate(pools(asked, oversample)):
        own = np.flatnonzero(judged.labels == label)[:pool]
        left = own[~judged.copy[own]] if drop_copies else own
        near = np.argsort(judged.distance[left], kind="stable")[: asked[label]]
        rows.append(left[near])
        counts.append((asked[label], len(own), len(own) - len(left), len(near)))
    return Chosen(np.sort(np.concatenate(rows)), *np.array(counts, np.int64).T)


def pools(asked: np.ndarray, oversample: float) -> np.ndarray:
    """i[k], candidates of each class."""
    return np.ceil(np.asarray(asked) * oversample - 1e-9).astype(np.int64)


def _by_class(*labels: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows of each class of the first labels, on every side."""
    for label in np.unique(labels[0]):
        yield tuple(np.flatnonzero(side == label) for side in labels)
