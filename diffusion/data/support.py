"""The images that a drawn image is conditioned on: sets of a split's classes, or a few images that a person gives."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffusion.types import ImageSet

KEPT = 1024  # images of supports held in memory, at most


@dataclass(frozen=True, eq=False)
class Support:
    """Sets by (class, index); the same pair always has the same set.

    Attributes:
      places: the most members of a set.
      members: (class, index) -> record numbers, at most ``places``.
      read: record number -> [h w c], as the net's own images; None where it cannot be read and is left out.
      blank: [h w c], what stands on places without a member.
    """

    places: int
    members: Callable[[int, int], np.ndarray]
    read: Callable[[int], np.ndarray | None]
    blank: np.ndarray

    def of(self, label: np.ndarray, index: np.ndarray) -> ImageSet:
        """The sets of images (label[i], index[i]) on the host."""
        images = np.broadcast_to(self.blank, (len(label), self.places, *self.blank.shape)).copy()
        valid = np.zeros((len(label), self.places), bool)
        for row, (c, i) in enumerate(zip(label, index, strict=True)):
            for place, number in enumerate(self.members(int(c), int(i))):
                image = self.read(int(number))
                if image is not None:
                    images[row, place], valid[row, place] = image, True
        return ImageSet(images, valid)

    def shown(self, label: int, index: int) -> np.ndarray:
        """[m h w c]: the members of one image's set."""
        found = self.of(np.array([label]), np.array([index]))
        return found.images[0][found.valid[0]]


def of_classes(
    labels: np.ndarray,
    read: Callable[[int], np.ndarray | None],
    blank: np.ndarray,
    *,
    places: int,
    shared: int,
    seed: int,
) -> Support:
    """Sets drawn by ``seed`` from the records of each image's class, without replacement.

    Args:
      labels: i32[n], of the records.
      shared: images (class, index) that follow each other and have the same set.
    """
    own = {int(c): np.flatnonzero(labels == c) for c in np.unique(labels)}

    @functools.lru_cache(KEPT)
    def drawn(c: int, number: int) -> np.ndarray:
        records = own.get(c, np.zeros(0, np.int64))
        return records[np.random.default_rng([seed, 5, c, number]).permutation(len(records))[:places]]

    return Support(places, lambda c, i: drawn(c, i // shared), functools.lru_cache(KEPT)(read), blank)


def of_images(images: np.ndarray, *, most: int, seed: int) -> Support:
    """One set for all images; of more than ``most`` images, every drawn image has a seeded part of them.

    Args:
      images: u8[m h w c].
    """
    everything = np.arange(len(images))

    def members(c: int, i: int) -> np.ndarray:
        if len(images) <= most:
            return everything
        return np.sort(np.random.default_rng([seed, 6, c, i]).permutation(len(images))[:most])

    return Support(min(most, len(images)), members, lambda i: images[i], np.zeros_like(images[0]))
