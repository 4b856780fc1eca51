"""The Inception row: its weights are found or asked for, its images prepared as the reference programs do."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from diffusion.errors import ConfigError
from diffusion.extractors import EXTRACTORS, Extractor, Given
from diffusion.extractors.inception import PRESETS, inception, prepared
from diffusion.extractors.resizing import half_pixel_bilinear, pil_bicubic, resized, tf1_bilinear
from diffusion.nets.inception import published_shapes
from diffusion.tables import rows
from diffusion.weight_files import WeightFile
from scripts import inception_reference as reference

MODULE = importlib.import_module("diffusion.extractors.inception")
SIZES = [(32, 48), (299, 299), (300, 31), (1, 520), (640, 299)]


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    counters = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.array(0)}
    save_file(reference.random_weights(published_shapes()) | counters, path)
    return path


@pytest.fixture
def unpinned(monkeypatch):
    monkeypatch.setattr(MODULE, "WEIGHTS", WeightFile(("random.safetensors",)))


def row(**keywords) -> Extractor:
    unread = pytest.fail  # Inception needs no data
    return inception(Given("any", 0, unread, unread, cache_dir=None), **keywords)


def image(h, w, c=3):
    return np.random.default_rng(h).integers(0, 256, (2, h, w, c), dtype=np.uint8)


def test_the_row_is_in_the_table():
    assert EXTRACTORS["inception"] is inception
    assert rows(EXTRACTORS)["inception"] == {"weights": "", "preset": "fid-tf", "tap": 2048}


def test_missing_weights_are_asked_for_by_field_and_name():
    with pytest.raises(ConfigError, match="pt_inception-2015-12-05-6726825d.pth from https://github.com/mseitzer") as e:
        row()
    assert e.value.field == "eval.inception.weights"


def test_other_weights_are_refused_by_their_hash(random_file):
    with pytest.raises(ConfigError, match="has 6726825d0af5f729"):
        row(weights=str(random_file))


def test_another_network_is_refused_by_its_keys(tmp_path, unpinned):
    save_file({"conv1.weight": np.zeros(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(ConfigError, match="472 missing .*; 1 unexpected .conv1.weight"):
        row(weights=str(tmp_path / "resnet.safetensors"))


@pytest.mark.parametrize("field, value", [("preset", "fid"), ("tap", 1024)])
def test_an_unknown_choice_is_named(field, value):
    with pytest.raises(ConfigError, match=f"{value}.* is not one of") as e:
        row(**{field: value})
    assert e.value.field == f"eval.inception.{field}"


def test_features_and_logits_are_those_of_the_public_network(random_file, unpinned, monkeypatch):
    monkeypatch.setattr(MODULE, "SIDE", reference.SIDE)
    theirs = np.load(reference.FIXTURE)
    extractor = row(weights=str(random_file), tap=768)
    found = jax.jit(extractor.extract)(extractor.frozen, reference.images())
    np.testing.assert_allclose(found["features"], theirs["768"], atol=1e-5 * np.abs(theirs["768"]).max())
    unbiased = theirs["logits_unbiased"]
    np.testing.assert_allclose(found["logits"], unbiased, atol=1e-5 * np.abs(unbiased).max())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_name_says_preset_tap_and_weights(random_file, unpinned, preset):
    extractor = row(weights=str(random_file), preset=preset)
    assert extractor.name == f"inception-{preset}-{extractor.sha256[:8]}"
    assert (
        row(weights=str(random_file), preset=preset, tap=768).name
        == f"inception-{preset}-tap768-{extractor.sha256[:8]}"
    )
    assert extractor.about["tap"] == 2048 and extractor.about["side"] == 299
    leaves = jax.tree.leaves(extractor.frozen)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    shapes = jax.eval_shape(extractor.extract, extractor.frozen, jax.ShapeDtypeStruct((5, 32, 32, 3), jnp.uint8))
    assert {name: s.shape for name, s in shapes.items()} == {"features": (5, 2048), "logits": (5, 1008)}
    with pytest.raises(TypeError, match="uint8"):
        extractor.extract(extractor.frozen, np.zeros((1, 32, 32, 3), np.float32))


def test_about_differs_between_presets(random_file, unpinned):
    abouts = [row(weights=str(random_file), preset=preset).about for preset in PRESETS]
    assert all(a != b for i, a in enumerate(abouts) for b in abouts[:i])


@pytest.mark.parametrize("preset", PRESETS)
def test_grey_images_are_repeated_and_others_refused(preset):
    grey = image(40, 30, 1)
    np.testing.assert_array_equal(prepared(grey, preset), prepared(grey.repeat(3, axis=-1), preset))
    with pytest.raises(ValueError, match="1 or 3 channels; got 4"):
        prepared(image(8, 8, 4), preset)


@pytest.mark.parametrize("h, w", SIZES)
def test_fid_clean_is_pillows_bicubic(h, w):
    images = image(h, w)
    channels = [
        [Image.fromarray(x[..., c].astype(np.float32)).resize((299, 299), Image.BICUBIC) for c in range(3)]
        for x in images
    ]
    theirs = np.stack([np.stack([np.asarray(c) for c in cs], axis=-1) for cs in channels]).clip(0, 255)
    np.testing.assert_allclose(prepared(images, "fid-clean"), (theirs - 128) / 128, atol=2e-6)


@pytest.mark.parametrize("h, w", SIZES)
@pytest.mark.parametrize(
    "matrix, place",
    [
        (tf1_bilinear, lambda i, n: i * n / 299),
        (half_pixel_bilinear, lambda i, n: max((i + 0.5) * n / 299 - 0.5, 0.0)),
    ],
    ids=["tf1", "half_pixel"],
)
def test_a_bilinear_resize_reads_two_neighbours(matrix, place, h, w):
    x = image(h, w).astype(np.float32)
    ours = np.asarray(resized(jnp.asarray(x), matrix(h, 299), matrix(w, 299)))
    for i, j in [(0, 0), (1, 2), (17, 290), (150, 149), (298, 298), (297, 3)]:
        (y0, y1, dy), (x0, x1, dx) = (neighbours(place(k, n), n) for k, n in ((i, h), (j, w)))
        top = x[:, y0, x0] * (1 - dx) + x[:, y0, x1] * dx
        bottom = x[:, y1, x0] * (1 - dx) + x[:, y1, x1] * dx
        # the reference programs reckon the place in float32, which at 640 pixels is 3e-5 of a pixel
        np.testing.assert_allclose(ours[:, i, j], top * (1 - dy) + bottom * dy, atol=0.02)


def neighbours(at, n):
    low = min(int(at + 1e-9), n - 1)
    return low, min(low + 1, n - 1), at - low


def test_normalisations():
    flat = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 128, 255)])
    for preset, values in {
        "fid-tf": (-1, 0, 127 / 128),
        "fid-pytorch": (-1, 1 / 255, 1),
        "fid-clean": (-1, 0, 127 / 128),
    }.items():
        for seen, value in zip(np.asarray(prepared(flat, preset)), values, strict=True):
            np.testing.assert_allclose(seen, value, atol=1e-6)


@pytest.mark.parametrize("matrix", [tf1_bilinear, half_pixel_bilinear, pil_bicubic])
def test_an_image_of_the_right_size_stays_as_it_is(matrix):
    np.testing.assert_array_equal(matrix(299, 299), np.eye(299))
