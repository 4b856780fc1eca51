"""How often the images of each class were drawn: a pure function of the step, as the order is."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion.data.order import Order

MOST = 50  # classes that are listed and logged one by one
ENDS = 5  # of more classes, so many of the smallest and of the largest are listed


@dataclass(frozen=True, eq=False)
class Tally:
    """Draws of the training records by class, counted from step 0 of the run wherever it was resumed.

    Where ``resume.allow`` let the order change, earlier steps are counted as the present order has them.

    Args:
      order: of the records in training.
      labels: i32[n], of the records.
      classes: names of all k classes.
    """

    order: Order
    labels: np.ndarray
    classes: Sequence[str]

    @functools.cached_property
    def images(self) -> np.ndarray:
        """i64[k]: records of each class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @functools.cached_property
    def of_epoch(self) -> np.ndarray:
        """i64[k]: draws in an epoch, the same in all."""
        return self._between(0, self.order.steps_per_epoch)

    def until(self, step: int) -> np.ndarray:
        """i64[k]: draws in the first ``step`` batches; a record that cannot be read counts as drawn."""
        epochs, rest = divmod(step, self.order.steps_per_epoch)
        return epochs * self.of_epoch + self._between(step - rest, step)

    def figures(self, step: int) -> dict[str, int]:
        """To be logged: ``data/drawn/CLASS``, or of many classes the least and the most drawn one's."""
        drawn, there = self.until(step), np.flatnonzero(self.images)
        if len(there) > MOST:
            own = drawn[there]
            return {"data/drawn_least": int(own.min()), "data/drawn_most": int(own.max())}
        return {f"data/drawn/{self.classes[label]}": int(drawn[label]) for label in there}

    def table(self, weights: Sequence[float]) -> list[dict[str, Any]]:
        """A row for each class that has images; of many, the smallest and the largest alone.

        Args:
          weights: of the classes' losses; () is 1 for all.
        """
        there = np.flatnonzero(self.images)
        if len(there) > MOST:
            by_size = there[np.argsort(self.images[there], kind="stable")]
            there = np.concatenate([by_size[:ENDS], by_size[-ENDS:]])
        return [
            {
                "class": self.classes[label],
                "images": int(self.images[label]),
                "draws per epoch": int(self.of_epoch[label]),
                "of each image": float(self.of_epoch[label] / self.images[label]),
                "loss weight": float(weights[label]) if weights else 1.0,
            }
            for label in there
        ]

    def _between(self, first: int, last: int) -> np.ndarray:
        ids = [self.order.rows(step).ids for step in range(first, last)]
        drawn = self.labels[np.concatenate(ids)] if ids else np.zeros(0, np.int64)
        return np.bincount(drawn, minlength=len(self.classes))
