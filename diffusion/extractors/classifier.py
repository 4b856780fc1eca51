"""The data set's own classifier as extractor: for small or grey images, and without any downloaded weights."""

import logging
import re
from pathlib import Path

import jax
import jax.numpy as jnp

from diffusion.classifier_fit import Labelled, Recipe, fingerprint, fit, scaled, widened
from diffusion.cluster import barrier
from diffusion.errors import ConfigError, DataError
from diffusion.extractors.extractor import Extractor, Given, check_images
from diffusion.nets.classifier import Classifier
from diffusion.types import Array, Frozen
from diffusion.weights import Weights, load_weights, save_weights

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parent.parent / "assets"
FIT_SECONDS = 3600  # in which process 0 must have trained a classifier


def classifier(
    given: Given,
    *,
    steps: int = Recipe.steps,
    batch_size: int = Recipe.batch_size,
    lr: float = Recipe.lr,
    weight_decay: float = Recipe.weight_decay,
    shift: int = Recipe.shift,
    seed: int = Recipe.seed,
    min_accuracy: float = 0.97,
) -> Extractor:
    """The data set's own classifier: shipped, cached, or trained here on the training split.

    Weights are used only if they were made from exactly these training images, labels and recipe.

    Args:
      steps, batch_size, lr, weight_decay, shift, seed: see ``Recipe``.
      min_accuracy: held-out share below which a warning is logged.

    Raises:
      ConfigError: images without labels, or of fewer than two classes.
      DataError: shipped weights that are damaged.
    """
    dataset, classes, train, test = given.dataset, given.classes, given.train(), given.test()
    _check_labels(dataset, classes, train, test)
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", dataset)
    recipe = Recipe(steps, batch_size, lr, weight_decay, shift, seed)
    key = fingerprint(train, classes, recipe)
    cached = given.cache_dir / f"cls-{name}-{key[:16]}.npz"

    def find() -> Weights | None:
        return _shipped(name, key) or _cached(cached, key)

    weights = None
    if jax.process_index() == 0:  # machines may differ in the last bits: one trains, the others read its file
        weights = find()
        if weights is None:
            log.info("training the classifier of %s on %d images, %d steps", dataset, len(train.images), steps)
            weights = fit(train, test, classes, recipe)
            save_weights(cached, weights)
    barrier("the classifier is there", FIT_SECONDS)
    weights = weights or find()
    if weights is None:
        raise DataError(f"{cached} is not there: all processes must share the workdir of process 0")
    extractor = _extractor(f"cls-{name}-{weights.sha256[:8]}", classes, weights)
    log.info("extractor %s: held-out accuracy %.2f %%", extractor.name, 100 * weights.accuracy)
    if weights.accuracy < min_accuracy:
        log.warning(
            "extractor %s reads only %.2f %% of held-out images rightly, below eval.extractor's %.2f %%: "
            "read its distances and accuracies with care, or train it longer",
            extractor.name,
            100 * weights.accuracy,
            100 * min_accuracy,
        )
    return extractor


def _extractor(name: str, classes: int, weights: Weights) -> Extractor:
    model = Classifier(classes)

    def extract(frozen: Frozen, images: Array) -> dict[str, Array]:
        check_images(images)
        features, logits = model.apply({"params": frozen}, scaled(images))
        return {"features": features, "classes": logits.argmax(-1).astype(jnp.int32)}

    about = {"tap": "mean of the last map", "normalisation": "x / 127.5 - 1", "resize": "none", "precision": "float32"}
    return Extractor(name, weights.sha256, widened(weights.tree), extract, about, weights.accuracy)


def _check_labels(dataset: str, classes: int, train: Labelled, test: Labelled) -> None:
    if classes < 2:
        raise ConfigError("eval.extractor", f"classifier needs at least 2 classes; {dataset} has {classes}")
    for split, part in (("training", train), ("test", test)):
        if part.labels.min() < 0:
            raise ConfigError("eval.extractor", f"classifier needs labels; {dataset} ({split}) has none")
        if part.labels.max() >= classes:
            raise ConfigError(
                "eval.extractor",
                f"the {split} split of {dataset} holds label {part.labels.max()}, but only {classes} classes",
            )


def _shipped(name: str, key: str) -> Weights | None:
    path = ASSETS / f"cls-{name}.npz"
    if not path.exists():
        return None
    try:
        weights = load_weights(path)
    except DataError as error:
        raise DataError(f"{error}; a part of the program: restore it, or delete it to train anew") from error
    if weights.fingerprint == key:
        return weights
    log.info("the shipped classifier of %s was trained on other images or otherwise: not used", name)
    return None


def _cached(path: Path, key: str) -> Weights | None:
    if not path.exists():
        return None
    try:
        weights = load_weights(path)
    except DataError as error:
        log.warning("%s; training it anew", error)
        return None
    if weights.fingerprint == key:
        return weights
    log.warning("%s: made from other images or otherwise; training it anew", path)
    return None
