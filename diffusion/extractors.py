"""What turns images into the features that metrics compare; each extractor is a row of a table."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from diffusion.classifier_fit import Labelled, Recipe, fingerprint, fit, scaled, widened
from diffusion.cluster import barrier
from diffusion.errors import ConfigError, DataError
from diffusion.nets.classifier import Classifier
from diffusion.types import Array, Frozen
from diffusion.weights import Weights, load_weights, save_weights

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
FIT_SECONDS = 3600  # in which process 0 must have trained a classifier


@dataclass(frozen=True, eq=False)
class Extractor:
    """A frozen network and its name.

    Attributes:
      name: kind, data set and the first 8 hex digits of the weights' sha256 ("cls-digits-1a2b3c4d").
      sha256: of the weights, hex.
      frozen: the weights, f32; always an argument of a jitted step, never a closure.
      features: (frozen, u8[b h w c]) -> f32[b d], pure, at full float32 precision; any other dtype raises.
      predict: (frozen, u8[b h w c]) -> i32[b], the class it reads; None where the network knows no classes.
      accuracy: of ``predict`` on held-out images, in [0, 1], or None.
      inception: whether the distance of its features may be called FID.
    """

    name: str
    sha256: str
    frozen: Frozen
    features: Callable[[Frozen, Array], Array]
    predict: Callable[[Frozen, Array], Array] | None
    accuracy: float | None
    inception: bool


def classifier(
    dataset: str,
    classes: int,
    train: Labelled,
    test: Labelled,
    cache_dir: Path,
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
      dataset: its name, which stands in the extractor's.
      classes: k.
      train, test: images as the diffusion model sees them (cropped, resized, not augmented).
      cache_dir: where weights trained here are kept, under their fingerprint.
      steps, batch_size, lr, weight_decay, shift, seed: see ``Recipe``.
      min_accuracy: held-out share below which a warning is logged.

    Raises:
      ConfigError: images without labels, or of fewer than two classes.
      DataError: shipped weights that are damaged.
    """
    _check_labels(dataset, classes, train, test)
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", dataset)
    recipe = Recipe(steps, batch_size, lr, weight_decay, shift, seed)
    key = fingerprint(train, classes, recipe)
    cached = cache_dir / f"cls-{name}-{key[:16]}.npz"

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


def check_images(images: Array) -> None:
    """Raises TypeError unless images are uint8 [b h w c]."""
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise TypeError(
            f"extractors take uint8 [b h w c] in [0, 255]; got {images.dtype} {tuple(images.shape)}: "
            "pass decoded images through to_uint8"
        )


def _extractor(name: str, classes: int, weights: Weights) -> Extractor:
    model = Classifier(classes)

    def features(frozen: Frozen, images: Array) -> Array:
        check_images(images)
        return model.apply({"params": frozen}, scaled(images))[0]

    def predict(frozen: Frozen, images: Array) -> Array:
        check_images(images)
        return model.apply({"params": frozen}, scaled(images))[1].argmax(-1).astype(jnp.int32)

    frozen = widened(weights.tree)
    return Extractor(name, weights.sha256, frozen, features, predict, weights.accuracy, inception=False)


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


EXTRACTORS = {"classifier": classifier}
