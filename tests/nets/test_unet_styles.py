"""The published styles of U-Nets: their parts against formulas in float64, their sizes, and what every one promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion.nets.backbones import NETS
from diffusion.nets.conditions import label
from diffusion.nets.edm2_unet import edm2
from diffusion.nets.model import make_net
from diffusion.nets.remat import run
from diffusion.nets.resampling import check_taps, resample
from diffusion.nets.seen import with_layers
from diffusion.nets.unet import unet
from diffusion.nets.unet_blocks import BlockStyle, ResBlock
from diffusion.state import count_parameters
from diffusion.types import Ports
from tests.nets.tiny_nets import C_NOISE, PORTS, X, shapes, tiny

RNG = np.random.default_rng(0)
FIR, AVERAGE = (1.0, 3.0, 3.0, 1.0), (1.0, 1.0)


def f32(*shape, sd=1.0):
    return jnp.asarray(RNG.normal(0, sd, shape), jnp.float32)


def resample64(x, taps, direction):
    """The sum over taps, one value at a time, of h and w."""
    taps, pad = np.asarray(taps, np.float64) / sum(taps), len(taps) // 2 - 1
    for axis in (1, 2) if direction != "keep" else ():
        x = np.moveaxis(np.asarray(x, np.float64), axis, 0)
        n = len(x)
        out = np.zeros((n // 2 if direction == "down" else 2 * n, *x.shape[1:]))
        for i in range(min(n, len(out))):
            for k, tap in enumerate(taps):
                j = 2 * i + k - pad
                if direction == "down" and 0 <= j < n:
                    out[i] += tap * x[j]
                elif direction == "up" and 0 <= j < 2 * n:
                    out[j] += 2 * tap * x[i]
        x = np.moveaxis(out, 0, axis)
    return x


@pytest.mark.parametrize("taps", [AVERAGE, FIR, (1.0, 2.0, 4.0, 3.0)], ids=str)
@pytest.mark.parametrize("direction", ["keep", "down", "up"])
def test_resample_is_the_formula(taps, direction):
    x = f32(2, 4, 6, 3)
    np.testing.assert_allclose(resample(x, taps, direction), resample64(x, taps, direction), rtol=0, atol=1e-6)
    assert resample(x.astype(jnp.bfloat16), taps, direction).dtype == jnp.bfloat16


def test_the_average_filter_averages_and_repeats():
    x = f32(1, 4, 4, 2)
    np.testing.assert_allclose(resample(x, AVERAGE, "down"), x.reshape(1, 2, 2, 2, 2, 2).mean((2, 4)), atol=1e-6)
    np.testing.assert_allclose(resample(x, AVERAGE, "up"), np.repeat(np.repeat(x, 2, 1), 2, 2), atol=1e-6)


def conv64(params, x):
    kernel, pad = params["kernel"], params["kernel"].shape[0] // 2
    padded, (h, w) = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), x.shape[1:3]
    window = range(kernel.shape[0])
    return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in window for j in window) + params["bias"]


def norm64(params, x, groups, eps):
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    unit = grouped - grouped.mean((1, 3), keepdims=True)
    unit /= np.sqrt(grouped.var((1, 3), keepdims=True) + eps)
    return unit.reshape(x.shape) * params["scale"] + params["bias"]


def silu64(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("adaptive", "direction", "taps", "project", "scale", "width", "groups"),
    [
        (False, "down", FIR, True, 0.5**0.5, 8, (2, 2)),  # DDPM++; at most c / 4 groups
        (False, "up", AVERAGE, False, 1.0, 8, (2, 2)),
        (True, "up", FIR, False, 1.0, 12, (2, 3)),
        (True, "keep", AVERAGE, True, 0.5**0.5, 8, (2, 2)),  # nothing to project
    ],
)
def test_a_residual_block_is_the_formula(adaptive, direction, taps, project, scale, width, groups):
    style = BlockStyle(jnp.float32, 1, 0, 32, 4, 1e-3, 0.0, adaptive, taps, project, scale)
    block = ResBlock(width, style, 0, direction)
    x, emb = f32(2, 4, 4, 8), f32(2, 5)
    abstract = jax.eval_shape(block.init, jax.random.key(0), x, emb, None)["params"]
    params = jax.tree.map(lambda a: f32(*a.shape, sd=0.5), abstract)
    got = jax.jit(block.apply)({"params": params}, x, emb, None)

    p, x, emb = jax.tree.map(np.float64, (params, x, emb))
    h = conv64(p["conv1"], resample64(silu64(norm64(p["norm1"], x, groups[0], 1e-3)), taps, direction))
    given = (emb @ p["emb"]["kernel"] + p["emb"]["bias"])[:, None, None, :]
    if adaptive:
        h = norm64(p["norm2"], h, groups[1], 1e-3) * (1 + given[..., :width]) + given[..., width:]
    else:
        h = norm64(p["norm2"], h + given, groups[1], 1e-3)
    x = resample64(x, taps, direction)
    assert ("skip" in p) == (width != 8 or (project and direction != "keep"))
    wanted = ((conv64(p["skip"], x) if "skip" in p else x) + conv64(p["conv2"], silu64(h))) * scale
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("c", "groups", "group_width", "wanted"),
    [(128, 32, 4, 32), (96, 32, 4, 24), (8, 32, 4, 2), (2, 32, 4, 1), (40, 32, 4, 10), (100, 32, 3, 25), (64, 8, 0, 8)],
)
def test_groups_are_no_narrower_than_asked_and_divide(c, groups, group_width, wanted):
    style = BlockStyle(jnp.float32, 1, 0, groups, group_width, 1e-5, 0.0, True, AVERAGE, False, 1.0)
    assert style.groups_of(c) == wanted


STYLES = ["unet, ddpmpp", "edm2"]


@pytest.mark.parametrize("remat", ["blocks", "dots"])
@pytest.mark.parametrize("kind", STYLES)
def test_remat_computes_blocks_again_and_changes_nothing_else(kind, remat):
    given = X, C_NOISE, PORTS
    nets = [tiny(kind, remat=remat), tiny(kind)]
    assert shapes(nets[0]) == shapes(nets[1])
    params = shapes(nets[0])
    programs = [str(jax.make_jaxpr(net.apply)({"params": params}, *given)) for net in nets]
    blocks = [name for name in params if name[:2] in ("do", "mi", "up")]
    assert [program.count("prevent_cse") for program in programs] == [len(blocks), 0]


@pytest.mark.parametrize("kind", STYLES)
def test_layers_are_seen_inside_blocks_that_are_computed_again(kind):
    def seen(remat):
        net = tiny(kind, remat=remat)
        apply = lambda params: with_layers(net.apply, {"params": params}, X, C_NOISE, PORTS)  # noqa: E731
        return list(jax.eval_shape(apply, shapes(net))[1])

    assert seen("blocks") == seen("none")
    assert "down0_half/conv1" in seen("blocks")


def test_a_block_computed_again_has_the_same_answer_and_gradient():
    class Nested(nn.Module):
        remat: str

        @nn.compact
        def __call__(self, x, emb, keys):
            style = BlockStyle(jnp.float32, 1, 0, 4, 0, 1e-5, 0.5, True, AVERAGE, False, 1.0)
            return run(ResBlock(8, style, 0, "down", name="block"), self.remat, x, emb, keys)

    keys = jax.random.split(jax.random.key(3), 3)
    given = f32(3, 4, 4, 8), f32(3, 5), keys
    params = jax.tree.map(lambda a: f32(*a.shape, sd=0.5), jax.eval_shape(Nested("none").init, keys[0], *given))

    def value_and_gradient(remat):
        loss = lambda params: jnp.square(Nested(remat).apply(params, *given)).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    plain = value_and_gradient("none")
    for again in (value_and_gradient(remat) for remat in ("blocks", "dots")):
        jax.tree.map(lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4), again, plain)


@pytest.mark.parametrize(("name", "joined"), [("unet_cifar", "noise1"), ("adm_64", "noise2")])
def test_the_vector_joins_the_noise_where_the_published_nets_have_it(name, joined):
    """DDPM++ before the embedding's two layers, where that is as wide as ``channels``; ADM after them."""
    x, ports = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), Ports(vec=jnp.zeros((1, 5)))
    backbone = NETS[name](32, 3, jnp.float32)
    params = jax.eval_shape(backbone.init, jax.random.key(0), x, jnp.zeros(1), ports)["params"]
    side = 0 if joined == "noise1" else 1
    assert params["vec"]["kernel"].shape == (5, params[joined]["kernel"].shape[side])
    assert params["noise1"]["kernel"].shape == (backbone.channels, 4 * backbone.channels)


FFHQ = dict(mults=(1, 2, 2, 2), attention=(2,))


@pytest.mark.parametrize(
    ("name", "keywords", "channels", "classes", "published", "without"),
    [  # counted in the public code of Karras 2022 and 2024; attention blocks, and their width, with biases of q, k, v
        ("unet_cifar", {}, 3, 0, 55_732_739, [(6, 256)]),
        ("unet_cifar", FFHQ, 3, 0, 61_805_571 - 9 * 128, [(6, 256)]),  # without its layer for augmentations
        ("unet_cifar", {}, 3, 10, 55_734_147, None),
        ("adm_64", {}, 3, 1000, 295_899_267, None),
        ("edm2_xs", {}, 4, 1000, 124_713_253, None),
        ("edm2_s", {}, 4, 1000, 280_212_837, None),
    ],
)
def test_named_nets_have_the_published_number_of_parameters(name, keywords, channels, classes, published, without):
    """Exactly, less those biases; with labels, which come by a table of width 128 here, within 1 %."""
    conditioners = {"label": label(classes)} if classes else {}
    net = make_net(
        NETS[name](64, channels, jnp.float32, **keywords),
        conditioners,
        (64, 64, channels),
        {"label": jnp.zeros(1, int)},
    )
    count = count_parameters(jax.eval_shape(net.init, jax.random.key(0)))
    assert count == pytest.approx(published, rel=0.01)
    if without is not None:
        assert count == published - sum(blocks * 3 * width for blocks, width in without)


def attended(backbone, size):
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    abstract = jax.eval_shape(backbone.init, jax.random.key(0), x, jnp.zeros(1), Ports())["params"]
    return {name.removesuffix("_attention") for name in abstract if name.endswith("_attention")}


def test_attention_is_where_the_published_nets_have_it():
    assert attended(NETS["unet_cifar"](32, 3, jnp.float32), 32) == {
        "middle0",
        "up1_4",
        *(f"down1_{i}" for i in range(4)),
    }
    adm = NETS["adm_64"](64, 3, jnp.float32)
    down, up = ({f"{way}{level}_{i}" for level in (1, 2, 3) for i in range(n)} for way, n in (("down", 3), ("up", 4)))
    assert attended(adm, 64) == {"middle0"} | down | up
    assert [adm.style.heads_of(c) for c in (192, 384, 576, 768)] == [3, 6, 9, 12]


@pytest.mark.parametrize(
    ("row", "size", "keywords", "message"),
    [
        (
            unet,
            8,
            dict(channels=24, groups=4, head_width=16),
            r"channels is 24; it must be divisible by head_width \(16\)",
        ),
        (unet, 8, dict(head_width=-1), "head_width -1"),
        (unet, 8, dict(group_width=-4), "group_width -4"),
        (unet, 8, dict(emb_mult=0), "emb_mult 0"),
        (unet, 8, dict(norm_eps=0.0), "norm_eps is 0.0"),
        (unet, 8, dict(skip_scale=0.0), r"skip_scale 0.0"),
        (unet, 8, dict(channels=2, heads=1, groups=1, embedding="ddpmpp"), "channels is 2; .* ddpmpp 4 or more"),
        (unet, 8, dict(channels=5, heads=1, group_width=1), "channels is 5; .* even"),
        (unet, 8, dict(resample="pool"), "resample is 'pool'; it must be one of: conv, block"),
        (unet, 8, dict(embedding="rotary"), "embedding is 'rotary'; it must be one of: adm, ddpmpp"),
        (unet, 8, dict(vec="never"), "vec is 'never'"),
        (unet, 8, dict(middle="none"), "middle is 'none'; it must be one of: auto, attention, plain"),
        (unet, 8, dict(up_attention="first"), "up_attention is 'first'"),
        (unet, 8, dict(remat="all"), "remat is 'all'; it must be one of: none, blocks, dots"),
        (unet, 8, dict(resample_filter=(1.0, 2.0, 1.0)), "resample_filter is .* even number of taps"),
        (edm2, 8, dict(mults=()), "mults is"),
        (edm2, 10, dict(mults=(1, 2, 3)), "mults has 3 levels: the image size must be divisible by 4; it is 10"),
        (edm2, 8, dict(attention=(2,)), r"attention is \(2,\); the levels are \(0, 1\)"),
        (edm2, 8, dict(blocks=0), "blocks 0, "),
        (edm2, 8, dict(channels=24), r"channels is 24; it must be divisible by head_width \(16\)"),
        (edm2, 8, dict(dropout=1.0), r"dropout is 1.0; it must lie in \[0, 1\)"),
        (edm2, 8, dict(remat="all"), "remat is 'all'"),
        (NETS["unet_cifar"], 30, {}, "must be divisible by 4; it is 30"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(row, size, keywords, message):
    with pytest.raises(ValueError, match=message):
        row(size, 1, jnp.float32, **keywords)


@pytest.mark.parametrize("taps", [(), (1.0,), (1.0, -1.0)])
def test_filters_that_cannot_be_are_refused(taps):
    with pytest.raises(ValueError, match="even number of taps with a positive sum"):
        check_taps("resample_filter", taps)
