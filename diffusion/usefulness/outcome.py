"""What was found: how every arm's classifiers read the test images, and the figures of that."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.usefulness.arms import COMPARED
from diffusion.usefulness.paired import Paired, compare
from diffusion.usefulness.scores import confusion, headline, of_classes
from diffusion.usefulness.selection import Chosen


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (ddof=1) over the seeds; ``reason`` where one of them is None."""

    mean: float | None
    sd: float | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """An experiment over s seeds and n test images of k classes.

    Attributes:
      names: of the classes [k]. ``small``: labels of those that are looked at by themselves.
      seeds: [s], of the classifiers, the drawn images and the bootstrap's first.
      labels: i[n] of the test images.
      real: i[k], training images.
      rows: by arm, i[k] real rows it was trained on, a repeated image counted as often as it stands there.
      chosen: by arm that has synthetic images, what was chosen for each seed [s].
      read: by arm, i[s n], as what every classifier read the test images.
      left_out: why an arm was not trained, by arm.
    """

    names: Sequence[str]
    small: Sequence[int]
    seeds: Sequence[int]
    labels: np.ndarray
    real: np.ndarray
    rows: Mapping[str, np.ndarray]
    chosen: Mapping[str, Sequence[Chosen]]
    read: Mapping[str, np.ndarray]
    left_out: Mapping[str, str]

    def matrices(self, arm: str) -> np.ndarray:
        """i64[s k k], rows the class, columns what it was read as."""
        return np.stack([confusion(self.labels, read, len(self.names)) for read in self.read[arm]])

    def values(self, arm: str) -> dict[str, np.ndarray]:
        """f64[s] by figure of `scores.HEADLINE`."""
        return headline(self.matrices(arm), self.small)

    def of_classes(self, arm: str) -> dict[str, np.ndarray]:
        """f64[s k] by figure of `scores.OF_CLASS`."""
        return of_classes(self.matrices(arm))

    def spread(self, values: np.ndarray) -> Spread:
        """Of f64[s]; no figure where one seed has none."""
        lacks = [str(seed) for seed, value in zip(self.seeds, values, strict=True) if not np.isfinite(value)]
        if lacks:
            return Spread(None, None, f"no image was read as this class with seed {', '.join(lacks)}")
        if len(values) < 2:
            return Spread(float(values[0]), None, "one seed has no spread")
        return Spread(float(values.mean()), float(values.std(ddof=1)))

    def synthetic(self, arm: str) -> np.ndarray:
        """i[s k], synthetic images that it was trained on."""
        if arm not in self.chosen:
            return np.zeros((len(self.seeds), len(self.names)), np.int64)
        return np.stack([one.kept for one in self.chosen[arm]])

    @functools.cached_property
    def comparisons(self) -> dict[tuple[str, str], dict[str, Paired]]:
        """By (arm, what it is compared with), figure by figure; only arms that were trained."""
        return {
            (arm, against): compare(
                self.labels, self.read[arm], self.read[against], len(self.names), self.small, self.seeds[0]
            )
            for arm, against in COMPARED
            if arm in self.read and against in self.read
        }
