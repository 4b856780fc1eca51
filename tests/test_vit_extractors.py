"""CLIP and DINOv2 as extractors: full-size ones without weights, tiny ones from files."""

import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from diffusion.errors import ConfigError
from diffusion.extractors import EXTRACTORS, Given
from diffusion.extractors.clip import MODELS as CLIPS
from diffusion.extractors.dinov2 import MODELS as DINOV2S
from diffusion.extractors.hub import on_hub
from diffusion.nets.clip import Clip
from diffusion.nets.vit import Vit
from diffusion.nets.vit_weights import clip_places, dinov2_places, shapes
from tests.nets import tiny_vits

GIVEN = Given("any", 0, lambda: pytest.fail("no data is needed"), lambda: pytest.fail("no data is needed"), Path("."))
MODELS = {"clip": CLIPS, "dinov2": DINOV2S}
TINY = {"clip": "clip_14", "dinov2": "dinov2_28_offset"}
STATISTICS = {
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch, tmp_path):
    for name in ("HOME", "DIFFUSION_WEIGHTS", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))


@pytest.fixture(params=TINY)
def tiny(request, tmp_path, monkeypatch):
    """(family, extractor) of tiny nets, read from a file under their published names."""
    name = TINY[request.param]
    shape = tiny_vits.CLIPS.get(name) or tiny_vits.DINOV2S[name]
    monkeypatch.setitem(MODELS[request.param], "tiny", (shape, on_hub("nobody/tiny")))
    file = tmp_path / "model.safetensors"
    save_file(tiny_vits.published(name)[1], file)
    return request.param, EXTRACTORS[request.param](GIVEN, weights=str(file), model="tiny")


@pytest.mark.parametrize(
    "family, model, parameters, unread",
    [
        ("clip", "vit_b_32", 151_277_313, 1),
        ("clip", "vit_l_14", 427_616_513, 1),
        ("clip", "vit_l_14_336", 427_944_193, 1),
        ("dinov2", "vit_l_14", 304_368_640, 1024),
    ],
)
def test_published_sizes(family, model, parameters, unread):
    """Counts are those of transformers' classes (tests/second_opinion); logit_scale or mask_token is not read."""
    shape, _ = MODELS[family][model]
    image = shape.image if family == "clip" else shape
    x, ids = jnp.zeros((1, image.size, image.size, 3)), jnp.zeros((1, 77), jnp.int32)
    net, inputs = (Clip(shape), (x, ids)) if family == "clip" else (Vit(shape), (x,))
    params = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters - unread
    places = clip_places(shape) if family == "clip" else dinov2_places(shape)
    assert sum(map(math.prod, shapes(places).values())) == parameters
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_all_models_are_counted():
    assert {family: set(models) for family, models in MODELS.items()} == {
        "clip": {"vit_b_32", "vit_l_14", "vit_l_14_336"},
        "dinov2": {"vit_l_14"},
    }


@pytest.mark.parametrize("family", MODELS)
def test_missing_weights_and_models(family):
    with pytest.raises(ConfigError, match=rf"^eval.{family}.weights: no .*; run `hf download .*docs/weights.md"):
        EXTRACTORS[family](GIVEN)
    with pytest.raises(ConfigError, match=rf"^eval.{family}.model: 'vit_x' is not one of vit_"):
        EXTRACTORS[family](GIVEN, model="vit_x")


def test_another_models_file(tiny, tmp_path):
    family, _ = tiny
    model = next(iter(MODELS[family]))
    with pytest.raises(ConfigError, match=rf"^eval.{family}.weights: .*missing .* of another shape"):
        EXTRACTORS[family](GIVEN, weights=str(tmp_path / "model.safetensors"), model=model)


def in_two_steps(picture: Image.Image, sides: tuple[int, int]) -> Image.Image:
    """Across first, whatever the sides (Pillow 13 does not always)."""
    across = picture.resize((sides[0], picture.height), Image.Resampling.BICUBIC)
    return across.resize(sides, Image.Resampling.BICUBIC)


def prepared(family: str, image: np.ndarray) -> np.ndarray:
    """By Pillow, as in the originals: CLIP cuts a square after the resize, DINOv2's distance squeezes."""
    h, w, _ = image.shape
    picture = Image.fromarray(image)
    if family == "clip":
        sides = (28, 28 * h // w) if w < h else (28 * w // h, 28)
        picture = in_two_steps(picture, sides)
        left, top = (picture.width - 28) // 2, (picture.height - 28) // 2
        picture = picture.crop((left, top, left + 28, top + 28))
    else:
        picture = in_two_steps(picture, (28, 28))
    mean, std = np.array(STATISTICS[family], np.float32)
    return (np.asarray(picture, np.float32) / 255 - mean) / std


@pytest.mark.parametrize("size", [(45, 30), (20, 30)])
def test_features_are_the_nets(tiny, size):
    family, extractor = tiny
    assert extractor.name == f"{family}-tiny-{extractor.sha256[:8]}" and len(extractor.sha256) == 64
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    found = jax.jit(extractor.extract)(extractor.frozen, images)["features"]
    net = tiny_vits.net(TINY[family])
    method = "image" if family == "clip" else "__call__"
    x = np.stack([prepared(family, image) for image in images])
    wanted = jax.jit(lambda p, x: net.apply({"params": p}, x, method=method))(extractor.frozen, x)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert found.dtype == jnp.float32


def test_grey_is_repeated_and_other_images_are_refused(tiny):
    _, extractor = tiny
    grey = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    extract = jax.jit(extractor.extract)
    one, three = (extract(extractor.frozen, x)["features"] for x in (grey, np.repeat(grey, 3, axis=3)))
    np.testing.assert_allclose(one, three, rtol=0, atol=1e-5 * np.abs(three).max())
    for wrong in (grey.astype(np.float32), grey[0], np.repeat(grey, 4, axis=3)):
        with pytest.raises(TypeError, match=r"uint8 \[b h w c\]|1 or 3 channels; got 4"):
            extractor.extract(extractor.frozen, wrong)


def test_what_decides_the_features_is_said(tiny):
    family, extractor = tiny
    about = json.loads(json.dumps(extractor.about))
    assert {"model", "tap", "normalisation", "channels", "resize", "precision"} <= set(about)
    assert (extractor.text is not None) == (extractor.tokenise is not None) == (family == "clip")


def test_texts_live_in_the_space_of_the_features(tmp_path, monkeypatch):
    shape = tiny_vits.CLIPS["clip_14"]
    monkeypatch.setitem(CLIPS, "tiny", (shape, on_hub("nobody/tiny")))
    save_file(tiny_vits.published("clip_14")[1], tmp_path / "model.safetensors")
    extractor = EXTRACTORS["clip"](GIVEN, weights=str(tmp_path), model="tiny")
    found = jax.jit(extractor.text)(extractor.frozen, tiny_vits.texts("clip_14"))
    frozen = np.load(Path(__file__).parent / "fixtures/vits.npz")["clip_14/text"]
    np.testing.assert_allclose(found, frozen, rtol=0, atol=1e-5 * np.abs(frozen).max())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"^eval.clip.weights: texts need .* pip install tokenizers$"):
        extractor.tokenise(["a cat"])
