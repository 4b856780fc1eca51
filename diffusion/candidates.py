"""Synthetic images for a classifier to learn from: drawn or given, and which of them each arm takes."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np

from diffusion.classifier_fit import EVAL_BATCH, Labelled
from diffusion.cluster import of_first
from diffusion.errors import ConfigError
from diffusion.extractors import Extractor
from diffusion.generate import images
from diffusion.given_images import GivenImages
from diffusion.plan import indices
from diffusion.program import Program
from diffusion.types import Params
from diffusion.usefulness.selection import Chosen, Seen, choose, judge, pools


@dataclass(frozen=True, eq=False)
class Candidates:
    """The images that some arm takes, and what each arm takes of all that were drawn, by arm.

    Attributes:
      images: that any arm takes, ``places`` i[m] of them among the drawn ones, in rising order.
    """

    images: Labelled | None
    places: np.ndarray
    chosen: Mapping[str, Chosen]

    def of(self, arm: str) -> Labelled:
        """The arm's images; it must have some."""
        rows = np.searchsorted(self.places, self.chosen[arm].rows)
        return Labelled(self.images.images[rows], self.images.labels[rows])


def drawn(program: Program, params: Params, counts: np.ndarray, seed: int, between: Callable[[], None]) -> Labelled:
    """Images of each class i[k] from ``params``; another seed's are others."""
    label = np.repeat(np.arange(len(counts)), counts)
    made = images(program, params, label, indices(label), seed=seed, purpose="usefulness", between=between)
    return Labelled(made, label)


def given(found: GivenImages, counts: np.ndarray, seed: int) -> Labelled:
    """At most so many images of each class i[k] that another program made; of more, a subset drawn by the seed.

    Raises:
      ConfigError: there is none. DataError: one cannot be read, or has another size.
    """
    drawn_of = [
        np.random.default_rng([seed, 5, c]).permutation(np.flatnonzero(found.labels == c))[:n]
        for c, n in enumerate(counts)
    ]
    rows = np.concatenate(drawn_of)
    if not len(rows):
        raise ConfigError("usefulness.images", f"{found.path} holds no image of the classes that are asked for")
    read = np.concatenate([part for _, part in found.chunks(EVAL_BATCH, rows)])
    return Labelled(read, found.labels[rows])


def candidates(
    made: Labelled, train: Seen, network: Extractor, needed: Mapping[str, np.ndarray], oversample: float, drop: bool
) -> Candidates:
    """What each arm takes of the images that were made; process 0's choice on every process."""
    judged = judge(seen(network, made), train)
    chosen = {arm: _agreed(choose(judged, asked, oversample, drop_copies=drop)) for arm, asked in needed.items()}
    places = np.unique(np.concatenate([one.rows for one in chosen.values()]))
    taken = Labelled(made.images[places], made.labels[places]) if len(places) else None
    return Candidates(taken, places, chosen)


def most(needed: Mapping[str, np.ndarray], oversample: float) -> np.ndarray:
    """Images i[k] of each class that any arm chooses from."""
    return np.max([pools(asked, oversample) for asked in needed.values()], axis=0)


def seen(network: Extractor, some: Labelled) -> Seen:
    """Pixels u8[n p] and the network's features f32[n d]; an image's are the same in any company."""
    step, found = _extract(network), []
    for start in range(0, len(some.images), EVAL_BATCH):
        part = some.images[start : start + EVAL_BATCH]
        padded = np.resize(part, (EVAL_BATCH, *part.shape[1:]))
        found.append(np.asarray(step(network.frozen, padded)["features"])[: len(part)])
    return Seen(some.images.reshape(len(some.images), -1), np.concatenate(found), some.labels)


@functools.cache
def _extract(network: Extractor) -> Callable:
    return jax.jit(network.extract)


def _agreed(chosen: Chosen) -> Chosen:
    names = ("rows", "asked", "drawn", "dropped", "kept")
    return Chosen(*(np.array(one, np.int64) for one in of_first([getattr(chosen, name).tolist() for name in names])))
