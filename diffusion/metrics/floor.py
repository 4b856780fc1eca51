"""What real images score against other real images at the same counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.metrics.fd import frechet_distance

SPLITS = 10


@dataclass(frozen=True)
class Floor:
    """FD against what two halves of the real images score against each other.

    Attributes:
      n: images on each side.
      half: FD(n generated, n real), averaged over the splits.
      floor: FD(n real, n other real), averaged over the same splits.
    """

    n: int
    half: float
    floor: float

    @property
    def excess(self) -> float:
        return self.half - self.floor


def half_split(generated: np.ndarray, reals: np.ndarray, rng: np.random.Generator) -> Floor:
    """The real-against-real floor, averaged over ten random splits.

    Each split deals the reals into two disjoint sets and draws as many generated images. The sets are halves
    of the reals, or as large as the generated set where the reals are at least twice as many.

    Args:
      generated: f[n d].
      reals: f[m d], every real image of the class.

    Raises:
      ValueError: fewer than two images on a side.
    """
    return half_split_of([(generated, reals)], rng)


def half_split_of(strata: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> Floor:
    """``half_split`` of several classes together: each is dealt by itself, so that all sets hold the same mixture.

    Args:
      strata: (generated f[n d], reals f[m d]) by class.

    Raises:
      ValueError: fewer than two images on a side, over all classes.
    """
    halves, floors = [], []
    for _ in range(SPLITS):
        dealt = [_deal(generated, reals, rng) for generated, reals in strata]
        made, one, other = (np.concatenate(side) for side in zip(*dealt, strict=True))
        halves.append(frechet_distance(made, one))
        floors.append(frechet_distance(one, other))
    return Floor(len(one), float(np.mean(halves)), float(np.mean(floors)))


def _deal(generated: np.ndarray, reals: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    n = min(len(generated), len(reals) // 2)
    order = rng.permutation(len(reals))
    return generated[rng.permutation(len(generated))[:n]], reals[order[:n]], reals[order[n : 2 * n]]
