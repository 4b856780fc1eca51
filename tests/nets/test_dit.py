"""The transformer: its published sizes, scan against a loop, what remat keeps, positions, tokens before the image."""

import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.flops import flops
from diffusion.nets import stack
from diffusion.nets.backbones import NETS
from diffusion.nets.conditions import label
from diffusion.nets.dit import Mlp, dit
from diffusion.nets.model import make_net
from diffusion.nets.norms import NORMS
from diffusion.nets.patches import patched, unpatched
from diffusion.nets.positions import rotary, sincos, turned
from diffusion.nets.remat import REMATS
from diffusion.nets.seen import with_layers
from diffusion.state import count_parameters
from diffusion.types import Ports
from tests.nets.tiny_nets import C_NOISE, NO_PORTS, PORTS, RNG, X, shapes, stirred, tiny


def net_of(backbone, shape, width, classes=1000):
    return make_net(backbone, {"label": label(classes, d=width)}, shape, {"label": jnp.zeros(1, jnp.int32)})


@pytest.mark.parametrize(
    ("name", "shape", "out_channels", "width", "parameters", "products"),
    [
        # latents of 32 x 32 x 4 and a learned variance; Peebles & Xie 2023, whose Gflops are multiply-adds
        ("dit_s_2", (32, 32, 4), 8, 384, 33e6, 6.06e9),
        ("dit_b_2", (32, 32, 4), 8, 768, 130e6, 23.01e9),
        ("dit_l_2", (32, 32, 4), 8, 1024, 458e6, 80.71e9),
        ("dit_xl_2", (32, 32, 4), 8, 1152, 675e6, 118.64e9),
        ("jit_b_16", (256, 256, 3), 3, 768, 131e6, 25e9),  # Li & He 2025
    ],
)
def test_named_sizes_are_the_published_ones(name, shape, out_channels, width, parameters, products):
    net = net_of(NETS[name](shape[0], out_channels, jnp.float32), shape, width)
    params = jax.eval_shape(net.init, jax.random.key(0))
    assert count_parameters(params) == pytest.approx(parameters, rel=0.01)
    given = jnp.zeros((1, *shape)), jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)}, {"label": jnp.zeros(1, bool)}
    assert flops(net.apply, params, *given) / 2 == pytest.approx(products, rel=0.01)


def stacked_weights(loop, scanned):
    """{blocks0: w, blocks1: w, …} as {blocks: w with a leading axis}, by the names that the scanned net has."""
    names = {name for name in scanned if name.endswith("blocks")}
    numbered = {name: sorted(k for k in loop if k.rstrip("0123456789") == name) for name in names}
    return {k: v for k, v in loop.items() if k in scanned} | {
        name: jax.tree.map(lambda *each: jnp.stack(each), *(loop[k] for k in keys)) for name, keys in numbered.items()
    }


@pytest.mark.parametrize("unrolled", [False, True])
@pytest.mark.parametrize("kind", ["jit_b_16", pytest.param("dit", marks=pytest.mark.slow)])
def test_a_scan_is_the_loop_with_stacked_weights(kind, unrolled, monkeypatch):
    monkeypatch.setattr(stack, "MOST_UNROLLED", 3 if unrolled else 2)
    more = dict(depth=3, dropout=0.3)
    loop, scanned = (tiny(kind, scan=scan, **more) for scan in (False, True))
    params, keys = stirred(shapes(loop)), jax.random.split(jax.random.key(0), 2)
    stacked = stacked_weights(params, shapes(scanned))
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes(scanned))
    wanted = jax.jit(loop.apply)({"params": params}, X, C_NOISE, PORTS, keys)
    got = jax.jit(scanned.apply)({"params": stacked}, X, C_NOISE, PORTS, keys)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("depth", "remat", "unroll"), [(3, "none", 3), (3, "blocks", 1), (13, "none", 1)])
def test_a_shallow_stack_is_unrolled_on_a_cpu(depth, remat, unroll):
    net = tiny("dit", depth=depth, remat=remat)
    params = stirred(shapes(net))
    traced = jax.make_jaxpr(net.apply)({"params": params}, X, C_NOISE, PORTS)
    found = [e.params for e in traced.eqns if e.primitive.name == "scan"]
    assert [(p["length"], p["unroll"]) for p in found] == [(depth, unroll)]


def test_blocks_do_not_share_their_dropout():
    mlp, keys = Mlp("gelu", 4.0, 0.5, jnp.float32), jax.random.split(jax.random.key(0), 2)
    x = jnp.asarray(RNG.normal(size=(2, 3, 8)), jnp.float32)
    params = {"params": stirred(jax.eval_shape(mlp.init, jax.random.key(0), x, 0, None)["params"])}
    first, again, second = (mlp.apply(params, x, jnp.int32(layer), keys) for layer in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, second, atol=1e-2)


@pytest.mark.parametrize(("scan", "remat"), [(True, "none"), (True, "blocks"), (False, "blocks")])
def test_layers_are_seen_in_the_order_in_which_they_run(scan, remat):
    """As in a plain loop, by their place: in a scan ``blocks[1]``, in a loop ``blocks1``."""

    def names(**how):
        net = tiny("jit_b_16", depth=3, **how)
        look = lambda params: with_layers(net.apply, {"params": params}, X, C_NOISE, PORTS)[1]  # noqa: E731
        return [re.sub(r"\[(\d)\]", r"\1", name) for name in jax.eval_shape(look, shapes(net))]

    found = names(scan=scan, remat=remat)
    assert found == names(scan=False)
    assert [name for name in found if "locks" in name and "/" not in name] == ["early_blocks0", "blocks1", "blocks2"]
    assert found.index("blocks2/mlp/narrow") == found.index("blocks2") - 2


def lines(depth, **more):
    backbone = tiny("dit", depth=depth, **more)
    given = {"params": shapes(backbone)}, X, C_NOISE, PORTS
    return len(jax.jit(backbone.apply).lower(*given).as_text().splitlines())


def test_a_scanned_program_does_not_grow_with_the_depth():
    assert lines(stack.MOST_UNROLLED + 1) == lines(20)
    assert lines(3, scan=False) > lines(2, scan=False)


def loss_of(scan, remat):
    """(params -> a loss, params); one net's weights fit another's if both scan or neither does."""
    backbone = tiny("dit", scan=scan, remat=remat, dropout=0.3)
    keys = jax.random.split(jax.random.key(0), 2)
    return lambda p: jnp.square(backbone.apply({"params": p}, X, C_NOISE, PORTS, keys)).sum(), stirred(shapes(backbone))


@pytest.mark.parametrize("scan", [True, False])
def test_remat_computes_again_what_it_does_not_keep(scan):
    losses = {remat: loss_of(scan, remat) for remat in REMATS}
    forward = {remat: flops(loss, params) for remat, (loss, params) in losses.items()}
    both = {remat: flops(jax.grad(loss), params) for remat, (loss, params) in losses.items()}
    assert len(set(forward.values())) == 1
    assert both["none"] < both["dots"] < both["blocks"]


@pytest.mark.parametrize(
    ("scan", "remat"),
    [
        (True, "blocks"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((True, "dots"), (False, "blocks"), (False, "dots"))),
    ],
)
def test_remat_does_not_change_the_gradient(scan, remat):
    found = [jax.jit(jax.grad(loss))(params) for loss, params in (loss_of(scan, name) for name in (remat, "none"))]
    for got, wanted in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_initial_values_have_the_deviation_of_one_block(scan):
    """With a leading axis of blocks fan-in is still that of one, and no two blocks share their draws."""
    backbone = dit(8, 3, jnp.float32, d=64, depth=3, heads=4, scan=scan, context_tokens=8)
    net = net_of(backbone, (8, 8, 3), 32, classes=10)
    params = jax.jit(net.init)(jax.random.key(0))["backbone"]
    blocks = (
        params["blocks"] if scan else jax.tree.map(lambda *a: jnp.stack(a), *(params[f"blocks{i}"] for i in range(3)))
    )
    for kernel, wanted in (
        (blocks["self"]["query"]["kernel"], 1 / 8),
        (blocks["self"]["out"]["kernel"], 1 / 8),
        (blocks["mlp"]["wide"]["kernel"], 1 / 8),
        (blocks["mlp"]["narrow"]["kernel"], 1 / 16),
        (params["register"]["embedding"], 0.02),
    ):
        assert abs(float(kernel.std()) / wanted - 1) < 5 / math.sqrt(2 * kernel.size)
    assert not any(a.any() for a in jax.tree.leaves([blocks["emb"], params["out_emb"], params["out"]]))
    query = np.ravel(blocks["self"]["query"]["kernel"])
    assert len(np.unique(query)) > 0.99 * query.size


def test_blocks_of_a_fresh_net_get_a_gradient_once_the_output_is_not_zero():
    """Gates are 0, so the layers that they multiply must not be: two zeros would keep each other for ever."""
    backbone = tiny("dit")
    fresh = net_of(backbone, X.shape[1:], 8, classes=3).init(jax.random.key(0))["backbone"]
    fresh["out"] = stirred(fresh["out"])
    vec = jnp.asarray(RNG.normal(size=(2, 8)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.square(backbone.apply({"params": params}, X, C_NOISE, Ports(vec=vec))).sum()

    gates = jnp.split(gradient(fresh)["blocks"]["emb"]["kernel"], 6, axis=-1)
    assert all(np.abs(gates[i]).max(axis=(1, 2)).min() > 1e-6 for i in (2, 5))


def test_patches_are_squares_in_rows_and_come_back():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    tokens = patched(x, 2)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[1, 4], x[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(unpatched(tokens, 2, 3, 2), x)


def test_sincos_is_the_formula_column_first():
    h, w, d = 3, 5, 16
    omega = 10_000.0 ** (-np.arange(d // 4) / (d / 4))
    got = np.asarray(sincos(h, w, d)).reshape(h, w, d)
    for row in range(h):
        for column in range(w):
            wanted = [f(place * omega) for place in (column, row) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(got[row, column], np.concatenate(wanted), atol=1e-6)


def test_rotary_turns_pairs_by_row_and_column():
    h, w, e, before = 2, 3, 8, 1
    x = RNG.normal(size=(1, before + h * w, 2, e))
    got = np.asarray(turned(jnp.asarray(x, jnp.float32), rotary(h, w, e, before)))
    np.testing.assert_array_equal(got[:, :before], x[:, :before].astype(np.float32))
    for i in range(h * w):
        angles = np.concatenate([place * 10_000.0 ** (-np.arange(2) / 2) for place in divmod(i, w)])
        pairs = x[0, before + i, :, : e // 2] + 1j * x[0, before + i, :, e // 2 :]
        wanted = pairs * np.exp(1j * angles)
        np.testing.assert_allclose(got[0, before + i], np.concatenate([wanted.real, wanted.imag], -1), atol=1e-6)


def test_rotary_logits_depend_on_the_distance_alone():
    q, k = (jnp.asarray(RNG.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))
    q, k = (turned(jnp.tile(a, (1, 16, 1, 1)), rotary(4, 4, 8))[0, :, 0] for a in (q, k))
    logits = np.asarray(q @ k.T).reshape(4, 4, 4, 4)
    np.testing.assert_allclose(logits[0, 0, 1, 2], logits[2, 1, 3, 3], rtol=1e-4)
    assert abs(logits[0, 0, 1, 2] - logits[0, 0, 2, 1]) > 1e-2


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_tokens_know_their_place(positions):
    """Without positions a net of patches would answer moved patches with its answer moved."""
    backbone = tiny("dit", positions=positions, patch=1)
    params, apply = {"params": stirred(shapes(backbone, False))}, jax.jit(backbone.apply)
    swapped = lambda a: a.at[:, 0, 0].set(a[:, 3, 2]).at[:, 3, 2].set(a[:, 0, 0])  # noqa: E731
    answer, moved = apply(params, X, C_NOISE, NO_PORTS), apply(params, swapped(X), C_NOISE, NO_PORTS)
    assert jnp.abs(moved - swapped(answer)).max() > 1e-2


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_their_formulas(name):
    x = RNG.normal(3.0, 2.0, (2, 5, 8))
    centred = x - x.mean(-1, keepdims=True) if name == "layer" else x
    wanted = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(NORMS[name](jnp.asarray(x, jnp.float32)), wanted, rtol=1e-5, atol=1e-5)


def test_tokens_before_the_image_come_with_their_block():
    """JiT: the first blocks see the image alone. What stands there is in the weights and the FLOPs."""
    without, from0, from1 = (
        tiny("dit", depth=2, **more)
        for more in (dict(), dict(context_tokens=4), dict(context_tokens=4, context_from=1))
    )
    assert "register" not in shapes(without) and shapes(from0)["register"]["embedding"].shape == (4, 8)
    assert "early_blocks" not in shapes(from0)
    assert shapes(from1)["early_blocks"]["self"]["query"]["kernel"].shape == (1, 8, 8)
    counts = [flops(net.apply, {"params": shapes(net)}, X, C_NOISE, PORTS) for net in (without, from1, from0)]
    assert counts[1] - counts[0] == counts[2] - counts[1] > 0


@pytest.mark.parametrize("seq_as", ["cross", "context"])
def test_the_sequence_has_the_layers_of_its_way_in(seq_as):
    params = shapes(tiny("dit", seq_as=seq_as))
    assert ("cross" in params["blocks"], "seq" in params) == (seq_as == "cross", seq_as == "context")
    params = shapes(tiny("dit", seq_as=seq_as), False)
    assert "cross" not in params["blocks"] and "seq" not in params


def test_a_token_that_is_not_valid_is_as_if_it_were_not_there():
    backbone = tiny("dit, seq as context")
    params, apply = {"params": stirred(shapes(backbone))}, jax.jit(backbone.apply)
    padded = replace(PORTS, seq_valid=jnp.tile(jnp.array([True, True, False]), (2, 1)))
    short = replace(PORTS, seq=PORTS.seq[:, :2], seq_valid=None)
    np.testing.assert_allclose(*(apply(params, X, C_NOISE, p) for p in (padded, short)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "keywords", "message"),
    [
        (8, dict(patch=3), "patch is 3; it must divide the image size, 8"),
        (8, dict(patch=0), "patch is 0; it must be 1 or more"),
        (8, dict(depth=0), "depth is 0; "),
        (8, dict(heads=0), "heads is 0; "),
        (8, dict(d=10, heads=5), r"d is 10; .* divisible by 20"),
        (8, dict(d=24, heads=4, positions="rotary"), r"d is 24; with 4 heads and rotary positions .* by 16"),
        (8, dict(patch_width=-1), "patch_width is -1; it must be 0 or more"),
        (8, dict(context_tokens=-1), "context_tokens is -1"),
        (8, dict(context_from=12), "context_from is 12; the blocks are 0 to 11"),
        (8, dict(mlp_ratio=0.0), "mlp_ratio is 0.0; it must be positive"),
        (8, dict(dropout=1.0), r"dropout is 1.0; it must lie in \[0, 1\)"),
        (8, dict(mlp="relu"), "mlp is 'relu'; it is one of: gelu, swiglu"),
        (8, dict(norm="group"), "norm is 'group'; it is one of: layer, rms"),
        (8, dict(positions="learned"), "positions is 'learned'; it is one of: sincos, rotary, both"),
        (8, dict(seq_as="prefix"), "seq_as is 'prefix'; it is one of: cross, context"),
        (8, dict(remat="all"), "remat is 'all'; it is one of: none, blocks, dots"),
        (8, dict(attention="flash"), "attention is 'flash'; it is one of: auto, einsum, xla, cudnn"),
        (8, dict(attention="cudnn"), "attention is 'cudnn', which takes half precision alone"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(size, keywords, message):
    with pytest.raises(ValueError, match=message):
        dit(size, 1, jnp.float32, **keywords)
