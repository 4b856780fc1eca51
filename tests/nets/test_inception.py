"""The Inception net agrees with the public PyTorch one, and each known mistake would show.

The fixture holds what torch-fidelity made of the same random weights and images (scripts/make_inception_fixture.py).
"""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.extractors import resizing
from diffusion.nets import inception
from diffusion.nets.inception import Inception, from_published, published_shapes
from scripts import inception_reference as reference

extractor = importlib.import_module("diffusion.extractors.inception")  # the package has a row of this name
MISTAKE = 1e-3


@pytest.fixture(scope="module")
def theirs() -> dict[str, np.ndarray]:
    with np.load(reference.FIXTURE) as held:
        return dict(held)


@pytest.fixture(scope="module")
def weights(theirs):
    drawn = reference.random_weights(published_shapes())
    assert reference.digest(drawn) == str(theirs["weights_sha256"]), "NumPy draws other numbers: make the fixture anew"
    return jax.tree.map(jnp.asarray, from_published(drawn))


@pytest.fixture(scope="module")
def net():
    return jax.jit(Inception().apply)


@pytest.fixture
def prepared(monkeypatch):
    """The input by a preset, at the small side of the fixture."""
    monkeypatch.setattr(extractor, "SIDE", reference.SIDE)
    return lambda preset="fid-tf": extractor.prepared(reference.images(), preset)


def difference(ours, theirs) -> dict[str, float]:
    """Largest difference at each tap, relative to the largest value there."""
    return {
        tap: float(np.abs(np.asarray(ours[tap], np.float64) - theirs[tap]).max() / np.abs(theirs[tap]).max())
        for tap in reference.TAPS
    }


def test_the_names_and_shapes_are_the_published_ones():
    shapes = published_shapes()
    learned = {name: shape for name, shape in shapes.items() if "running" not in name}
    assert sum(name.endswith(".conv.weight") for name in shapes) == 94
    assert sum(int(np.prod(shape)) for shape in learned.values()) == 23_850_960
    assert len(shapes) == 94 * 5 + 2
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert shapes["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)
    assert shapes["fc.weight"] == (1008, 2048) and shapes["fc.bias"] == (1008,)


def test_every_tap_agrees_with_the_public_network(net, weights, theirs, prepared):
    off = difference(net(weights, prepared()), theirs)
    assert max(off.values()) < 1e-5, off


def pad_inclusive(x):
    return inception.nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=True)


@pytest.mark.parametrize(
    "what, change",
    [
        ("average pools that count the padding", lambda m: m.setitem(inception.POOLS, "average", pad_inclusive)),
        ("an average in 7c", lambda m: m.setitem(inception.POOLS, "max", inception.POOLS["average"])),
        ("torch's eps of the batch statistics", lambda m: m.setattr(inception, "EPS", 1e-5)),
    ],
    ids=["padding", "average", "eps"],
)
def test_a_mistake_in_the_net_would_show(what, change, weights, theirs, prepared, monkeypatch):
    change(monkeypatch)
    changed = jax.jit(lambda weights, x: Inception().apply(weights, x))
    assert difference(changed(weights, prepared()), theirs)["2048"] > MISTAKE, what


@pytest.mark.parametrize(
    "what, field, value",
    [
        ("the other normalisation", "normalise", extractor.PRESETS["fid-pytorch"].normalise),
        ("a resize by half pixels", "matrix", resizing.half_pixel_bilinear),
        ("a bicubic resize", "matrix", resizing.pil_bicubic),
    ],
    ids=["normalisation", "half_pixel", "bicubic"],
)
def test_a_mistake_before_the_net_would_show(what, field, value, net, weights, theirs, prepared, monkeypatch):
    changed = dataclasses.replace(extractor.PRESETS["fid-tf"], **{field: value})
    monkeypatch.setitem(extractor.PRESETS, "fid-tf", changed)
    assert difference(net(weights, prepared()), theirs)["2048"] > MISTAKE, what


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 75 x 75"):
        jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, 74, 75, 3)))
