import importlib
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import classifier_fit
from diffusion.classifier_fit import Labelled, Recipe, fingerprint, fit, held_out_accuracy, labelled
from diffusion.data.sources import digits
from diffusion.data.transforms import make_transform
from diffusion.errors import ConfigError, DataError
from diffusion.extractors import EXTRACTORS, Extractor, Given
from diffusion.extractors.classifier import ASSETS
from diffusion.metrics import Features, frechet
from diffusion.tables import rows
from diffusion.weights import load_weights

MODULE = importlib.import_module("diffusion.extractors.classifier")
SHIPPED = ASSETS / "cls-digits.npz"
QUICK = {"steps": 40, "batch_size": 16, "min_accuracy": 0.0}  # one program for all tests


def classifier(dataset: str, classes: int, train: Labelled, test: Labelled, cache: Path, **keywords) -> Extractor:
    return MODULE.classifier(Given(dataset, classes, lambda: train, lambda: test, cache), **keywords)


@pytest.fixture(scope="module")
def splits() -> tuple[Labelled, Labelled]:
    """The program's default split of the digits, at their native size."""
    dataset = digits("", 0)
    transform = make_transform(0, 0, flip=False, native=dataset.image_shape)
    return labelled(dataset.open("train"), transform), labelled(dataset.open("test"), transform)


@pytest.fixture(scope="module")
def shipped(splits, tmp_path_factory) -> Extractor:
    empty = tmp_path_factory.mktemp("cache")
    extractor = classifier("digits", 10, *splits, empty)
    assert list(empty.iterdir()) == [], "the shipped weights fit, so nothing is trained"
    return extractor


def small(splits) -> tuple[Labelled, Labelled]:
    """Forty digits below six: a data set of its own."""
    kept = [(part, np.flatnonzero(part.labels < 6)[:40]) for part in splits]
    return tuple(Labelled(part.images[rows], part.labels[rows]) for part, rows in kept)


def test_the_shipped_weights_read_held_out_digits(splits, shipped):
    train, test = splits
    assert len(train.images) + len(test.images) == 1797
    read = np.asarray(jax.jit(shipped.extract)(shipped.frozen, test.images)["classes"])
    assert np.mean(read == test.labels) == pytest.approx(shipped.accuracy, abs=1.5 / len(test.labels))
    assert shipped.accuracy >= 0.97
    assert shipped.name == f"cls-digits-{load_weights(SHIPPED).sha256[:8]}"
    assert read.dtype == np.int32
    assert SHIPPED.stat().st_size < 300_000


def test_features_tell_digits_from_noise(splits, shipped):
    train, test = splits
    extract = jax.jit(shipped.extract)
    noise = np.random.default_rng(0).integers(0, 256, test.images.shape, np.uint8)
    real, held_out, random = (
        Features(np.asarray(extract(shipped.frozen, images)["features"]), None, shipped.name)
        for images in (train.images[: len(noise)], test.images, noise)
    )
    assert real.values.shape[1] == 128
    assert frechet(random, real)["fd"] > 10 * frechet(held_out, real)["fd"] > 0


@pytest.mark.parametrize(
    "images", [jnp.zeros((2, 8, 8, 1)), jnp.zeros((2, 8, 8, 1), jnp.int32), jnp.zeros((8, 8, 1), jnp.uint8)]
)
def test_anything_but_uint8_images_is_refused(shipped, images):
    with pytest.raises(TypeError, match=r"uint8 \[b h w c\].*to_uint8"):
        jax.eval_shape(shipped.extract, shipped.frozen, images)


def test_weights_are_an_argument(shipped):
    """A closure would bake the arrays into the program and keep answering with them."""
    blank = jax.tree.map(jnp.zeros_like, shipped.frozen)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    assert np.all(np.asarray(jax.jit(shipped.extract)(blank, images)["features"]) == 0)


def test_other_images_are_trained_on_once_and_cached(splits, tmp_path, caplog):
    train, test = small(splits)
    caplog.set_level(logging.INFO)
    first = classifier("my digits/6", 6, train, test, tmp_path, **QUICK)
    (path,) = tmp_path.iterdir()
    assert first.name == f"cls-my-digits-6-{load_weights(path).sha256[:8]}"
    assert "training the classifier of my digits/6 on 40 images, 40 steps" in caplog.text
    assert f"{first.name}: held-out accuracy" in caplog.text
    written = path.stat().st_mtime_ns
    assert classifier("my digits/6", 6, train, test, tmp_path, **QUICK).name == first.name
    assert path.stat().st_mtime_ns == written

    path.write_bytes(path.read_bytes()[:-100])
    assert classifier("my digits/6", 6, train, test, tmp_path, **QUICK).name == first.name
    assert "not a readable weights file" in caplog.text and "training it anew" in caplog.text
    assert load_weights(path).sha256 == first.sha256

    other = Labelled(train.images, np.roll(train.labels, 1))
    shutil.copy(path, tmp_path / f"cls-my-digits-6-{fingerprint(other, 6, Recipe(40, 16))[:16]}.npz")
    classifier("my digits/6", 6, other, test, tmp_path, **QUICK)
    assert "made from other images or otherwise" in caplog.text


def test_a_poor_classifier_is_announced(splits, tmp_path, caplog):
    train, test = small(splits)
    classifier("six", 6, train, test, tmp_path, **QUICK | {"min_accuracy": 1.01})
    assert [r.levelname for r in caplog.records if "of held-out images rightly" in r.message] == ["WARNING"]


def test_shipped_weights_serve_their_own_split_alone(splits, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(MODULE, "fit", lambda *a: pytest.fail("reached training"))
    caplog.set_level(logging.INFO)
    train, test = splits
    fewer = Labelled(train.images[1:], train.labels[1:])
    for images, keywords in ((fewer, {}), (train, {"seed": 1})):
        with pytest.raises(pytest.fail.Exception, match="reached training"):
            classifier("digits", 10, images, test, tmp_path, **keywords)
    assert caplog.text.count("trained on other images or otherwise: not used") == 2


def test_damaged_shipped_weights_are_refused(splits, tmp_path, monkeypatch):
    (tmp_path / SHIPPED.name).write_bytes(SHIPPED.read_bytes()[:-50])
    monkeypatch.setattr(MODULE, "ASSETS", tmp_path)
    with pytest.raises(DataError, match=r"cls-digits.npz.*restore it"):
        classifier("digits", 10, *splits, tmp_path)


@pytest.mark.parametrize(
    "labels, classes, said",
    [
        (np.full(4, -1), 3, "needs labels; toy .training. has none"),
        (np.array([0, 1, 2, 3]), 3, "holds label 3, but only 3 classes"),
        (np.zeros(4, int), 1, "at least 2 classes; toy has 1"),
    ],
)
def test_sets_that_no_classifier_fits(labels, classes, said, tmp_path):
    images = np.zeros((4, 8, 8, 1), np.uint8)
    with pytest.raises(ConfigError, match=f"eval.extractor: .*{said}"):
        classifier("toy", classes, Labelled(images, labels), Labelled(images, labels), tmp_path)


def test_float_images_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        Labelled(np.zeros((4, 8, 8, 1), np.float32), np.zeros(4, int))


def test_fingerprint_sees_images_labels_network_and_recipe(splits):
    train, _ = small(splits)
    base = fingerprint(train, 6, Recipe())
    brighter = train.images.copy()
    brighter[0, 0, 0, 0] += 1
    swapped = train.labels.copy()
    swapped[0] = (swapped[0] + 1) % 6
    others = [
        fingerprint(Labelled(brighter, train.labels), 6, Recipe()),
        fingerprint(Labelled(train.images, swapped), 6, Recipe()),
        fingerprint(train, 7, Recipe()),
        fingerprint(train, 6, Recipe(steps=801)),
    ]
    assert len({base, *others}) == 5
    assert fingerprint(Labelled(train.images, train.labels.astype(np.int64)), 6, Recipe()) == base


def test_training_learns_and_repeats(splits):
    train, test = small(splits)
    recipe = Recipe(steps=40, batch_size=16)
    one = fit(train, train, 6, recipe)
    assert one.accuracy > 0.8
    assert fit(train, test, 6, recipe).sha256 == one.sha256


def test_held_out_accuracy_counts_each_image_once(splits, shipped, monkeypatch):
    """In batches of 7, the last of 20 is padded with one repeated row; padding must not count."""
    monkeypatch.setattr(classifier_fit, "EVAL_BATCH", 7)
    test = Labelled(splits[0].images[:20], splits[0].labels[:20])
    wrong = Labelled(test.images, np.where(np.arange(20) < 14, test.labels, (test.labels + 1) % 10))
    assert held_out_accuracy(shipped.frozen, test, 10) == 1.0
    assert held_out_accuracy(shipped.frozen, wrong, 10) == 14 / 20


def test_keywords_are_config_fields():
    assert rows(EXTRACTORS)["classifier"]["steps"] == Recipe().steps
    recipe = {key: value for key, value in rows(EXTRACTORS)["classifier"].items() if key != "min_accuracy"}
    assert Recipe(**recipe) == Recipe()
