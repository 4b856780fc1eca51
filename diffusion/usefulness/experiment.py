"""The same classifier, for the same number of steps, on every arm and with every seed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from diffusion.classifier_fit import Labelled, Recipe, read_as, trained
from diffusion.usefulness.arms import ARMS

log = logging.getLogger(__name__)


def experiment(
    train: Labelled,
    test: Labelled,
    made: Mapping[str, Callable[[int], Labelled]],
    arms: Sequence[str],
    seeds: Sequence[int],
    recipe: Recipe,
    classes: int,
    between: Callable[[], None],
) -> dict[str, np.ndarray]:
    """{arm: i[s n], as what each seed's classifier read the test images}, each of which is read once.

    Args:
      made: the synthetic images of an arm, by the place of the seed.
      recipe: of all classifiers, but for its seed.
      between: called before every classifier; what it raises ends the experiment.
    """
    found: dict[str, list[np.ndarray]] = {arm: [] for arm in arms}
    for place, seed in enumerate(seeds):
        for arm in arms:
            between()
            images = ARMS[arm](train, made[arm](place) if arm in made else None)
            params = trained(images, classes, replace(recipe, seed=seed), quiet=True)
            read = read_as(params, test.images, classes)
            found[arm].append(read)
            right = np.mean(read == test.labels)
            log.info("seed %d, %s: %d images, accuracy %.2f %%", seed, arm, len(images.labels), 100 * right)
    return {arm: np.stack(read) for arm, read in found.items()}
