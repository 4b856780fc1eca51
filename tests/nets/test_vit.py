"""CLIP and DINOv2 against what transformers made of the same weights, frozen by ``scripts/freeze_vits.py``."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.errors import DataError
from diffusion.nets import vit
from diffusion.nets.vit_weights import IGNORED, shapes, tree
from diffusion.weight_files import check_keys
from tests.nets import tiny_vits

FROZEN = np.load(Path(__file__).parent.parent / "fixtures/vits.npz")
NETS = (*tiny_vits.CLIPS, *tiny_vits.DINOV2S)


def answer(name: str, port: str, net=None, params=None, given=None) -> np.ndarray:
    """What a net, the tiny one of that name unless another is given, makes of the tiny images or texts."""
    net, params = net or tiny_vits.net(name), params or tree(*tiny_vits.published(name))
    method = port if name in tiny_vits.CLIPS else "__call__"
    given = given if given is not None else (tiny_vits.pixels if port == "image" else tiny_vits.texts)(name)
    return np.asarray(jax.jit(lambda p, x: net.apply({"params": p}, x, method=method))(params, given))


def apart(found: np.ndarray, name: str, port: str) -> float:
    """The largest difference from the frozen answer, in sizes of that answer."""
    wanted = FROZEN[f"{name}/{port}"]
    assert found.shape == wanted.shape and found.dtype == np.float32
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_all_nets_are_frozen():
    ports = {f"{n}/{port}" for n in NETS for port in ("image", "text") if n in tiny_vits.CLIPS or port == "image"}
    assert set(FROZEN) == ports


@pytest.mark.parametrize("key", FROZEN)
def test_answers_are_those_of_transformers(key):
    name, port = key.split("/")
    assert apart(answer(name, port), name, port) < 1e-5


def changed(shape, **stack):
    """The tiny shape with another stack, in both towers."""
    if isinstance(shape, vit.VitShape):
        return replace(shape, stack=replace(shape.stack, **stack))
    return replace(shape, image=changed(shape.image, **stack), text=replace(shape.text, stack=shape.text.stack))


@pytest.mark.parametrize(
    "name, mistake",
    [
        ("clip_14", lambda shape: changed(shape, activation="gelu")),
        ("clip_14", lambda shape: changed(shape, eps=1e-6)),
        ("clip_14", lambda shape: changed(shape, heads=2)),
        ("clip_14", lambda shape: replace(shape, image=replace(shape.image, pre_norm=False))),
        ("dinov2_28", lambda shape: changed(shape, activation="quick_gelu")),
        ("dinov2_28", lambda shape: changed(shape, eps=1e-5)),
        ("dinov2_28", lambda shape: changed(shape, layer_scale=False)),
        ("dinov2_28", lambda shape: replace(shape, pre_norm=True)),
        ("dinov2_28_offset", lambda shape: replace(shape, offset=0.0)),
    ],
    ids=["gelu", "eps", "heads", "no pre-norm", "quick gelu", "eps of dinov2", "no layer scale", "pre-norm", "offset"],
)
def test_a_mistake_shows(name, mistake):
    net = tiny_vits.net(name)
    wrong = type(net)(mistake(net.shape))
    params = jax.tree.map(jnp.asarray, tree(*tiny_vits.published(name)))
    image = params["image_tower"] if name in tiny_vits.CLIPS else params
    image["patches"].setdefault("bias", jnp.zeros(32))
    image.setdefault("pre_norm", {"scale": jnp.ones(32), "bias": jnp.zeros(32)})
    assert apart(answer(name, "image", wrong, params), name, "image") > 1e-3


def test_positions_are_not_cut_out():
    """The first 2 x 2 of 5 x 5 positions in place of all, drawn together."""
    params = tree(*tiny_vits.published("dinov2_28"))
    square = params["positions"][1:].reshape(5, 5, -1)[:2, :2].reshape(4, -1)
    cut = params | {"positions": np.concatenate([params["positions"][:1], square])}
    net = vit.Vit(replace(tiny_vits.DINOV2S["dinov2_28"], table=2))
    assert apart(answer("dinov2_28", "image", net, cut), "dinov2_28", "image") > 1e-3


def test_a_text_ends_at_the_first_end():
    ids = tiny_vits.texts("clip_14")
    end = ids.max()
    filled = ids.copy()
    filled[0, 4:] = 7
    assert apart(answer("clip_14", "text", given=filled), "clip_14", "text") < 1e-5
    whole = answer("clip_14", "text")
    np.testing.assert_allclose(answer("clip_14", "text", given=ids[:2, :7]), whole[:2], rtol=0, atol=1e-5 * whole.max())
    later = ids.copy()
    later[0, 3] = 7
    assert later[0, 4] == end
    assert apart(answer("clip_14", "text", given=later), "clip_14", "text") > 1e-3


def test_interpolation_keeps_constants():
    for offset in (0.0, 0.1):
        np.testing.assert_allclose(vit.interpolation(37, 16, offset).sum(1), np.ones(16), rtol=1e-12)
    np.testing.assert_allclose(vit.interpolation(37, 16, 0.0), vit.interpolation(37, 16, 0.0)[::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(vit.interpolation(5, 5, 0.0), np.eye(5), atol=1e-12)
    # half-way between two pixels: -3/32, 19/32, 19/32, -3/32; the one that is not there is the first again
    assert vit.interpolation(4, 2, 0.0)[0] == pytest.approx([0.5, 19 / 32, -3 / 32, 0])


@pytest.mark.parametrize("name", NETS)
def test_the_tree_is_the_nets(name):
    net = tiny_vits.net(name)
    inputs = [tiny_vits.pixels(name)] + ([tiny_vits.texts(name)] if name in tiny_vits.CLIPS else [])
    wanted = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    found = tree(*tiny_vits.published(name))
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, wanted)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}


@pytest.mark.parametrize("name, unread", [("clip_14", "logit_scale"), ("dinov2_56", "embeddings.mask_token")])
def test_all_tensors_are_used_but_one(name, unread):
    places, tensors = tiny_vits.published(name)
    used = sum(tensor.size for key, tensor in tensors.items() if key != unread)
    assert sum(leaf.size for leaf in jax.tree.leaves(tree(places, tensors))) == used


def test_another_networks_file_is_refused_by_its_keys():
    places, tensors = tiny_vits.published("clip_14")
    check_keys(tensors | {"text_model.embeddings.position_ids": np.arange(9)[None]}, shapes(places), IGNORED)
    other, _ = tiny_vits.published("dinov2_56")
    with pytest.raises(DataError, match=r"43 missing \(embeddings.cls_token, .*78 unexpected"):
        check_keys(tensors, shapes(other), IGNORED)
    bigger, _ = tiny_vits.published("clip_32")
    with pytest.raises(DataError, match=r"1 of another shape \(vision_model.embeddings.patch_embedding.weight"):
        check_keys(tensors, shapes(bigger), IGNORED)
