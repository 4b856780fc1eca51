"""What the images of a program are conditioned on where its net sees sets."""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from diffusion import feed
from diffusion.data import support
from diffusion.data.loader import read
from diffusion.data.support import Support
from diffusion.errors import ConfigError
from diffusion.nets.conditions import SET
from diffusion.program import Program
from diffusion.start_images import support_images


def needed(program: Program) -> bool:
    return SET in program.diffusion.net.conditions


def places(program: Program) -> int:
    """The most images of a support set."""
    return program.eval.support_size or program.loading.sets.places


@functools.cache
def of_split(program: Program, seed: int) -> Support:
    """Sets of the classes of ``eval.support_split``; as many images share one as a set of the training holds."""
    split = program.eval.support_split
    records, leave_out = program.dataset.open(split), feed.leave_out(program, split)

    def image(i: int) -> np.ndarray | None:
        record = read(records, program.transform, i, leave_out=leave_out)
        return None if record is None else record.image

    blank = np.zeros(program.transform.shape, np.float32 if program.dataset.latent else np.uint8)
    how = dict(places=places(program), shared=program.loading.sets.size, seed=seed)
    return support.of_classes(records.labels, image, blank, **how)


def of_path(program: Program, path: str, seed: int) -> tuple[Support, np.ndarray]:
    """The set of the images at ``path``, and these u8[m h w c] as the net sees them.

    Raises:
      ConfigError: no image there, or a net that sees no sets.
    """
    if not needed(program):
        raise ConfigError("sample.support", "is for nets with the condition set; this one has none of it (cond.names)")
    images = support_images(path, program.transform)
    return support.of_images(images, most=places(program), seed=seed), images


def pictures(program: Program, images: np.ndarray) -> np.ndarray:
    """u8[m h w c] of members of a set, which may be latents."""
    if not program.dataset.latent:
        return images
    codec = program.diffusion.codec
    return np.asarray(codec.decode(codec.frozen, codec.encode(codec.frozen, images)))


def about(program: Program) -> dict[str, Any]:
    """Plain JSON of all that decides the sets of an evaluation; empty where there are none."""
    if not needed(program):
        return {}
    split = program.eval.support_split
    return {
        "support": {
            "dataset": program.dataset.name,
            "split": split,
            "size": places(program),
            "shared_by": program.loading.sets.size,
            "seed": program.eval.seed,
            "content_sha256": program.dataset.open(split).fingerprint,
        }
    }


def check(program: Program, classes: Iterable[int], chosen_by: str) -> None:
    """Raises ConfigError where one of the classes, which the field ``chosen_by`` names, has no image to be shown."""
    split = program.eval.support_split
    there = np.unique(program.dataset.open(split).labels)
    absent = [program.dataset.classes[c] for c in classes if c not in there]
    if absent:
        raise ConfigError(
            "eval.support_split",
            f"{split} has no image of {', '.join(absent[:5])}{', …' * (len(absent) > 5)} to condition on; take another "
            f"split, or leave these classes out with {chosen_by}",
        )
