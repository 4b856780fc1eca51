"""The probe of a bad step, on a net of four layers whose weights are spoilt one at a time."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion.batch_losses import Diffusion
from diffusion.ema import EMAS
from diffusion.inspection import first_nonfinite, make_inspection_step
from diffusion.leaves import by_path, rebuild
from diffusion.lr_schedules import LR_SCHEDULES, plateau_state
from diffusion.mesh import make_mesh, put_replicated, put_rows
from diffusion.nets.codec import CODECS
from diffusion.nets.conditions import label
from diffusion.nets.dit import dit
from diffusion.nets.layers import Dense, dropout
from diffusion.nets.model import make_net
from diffusion.objective import DENSITIES, WEIGHTINGS
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.process import TARGETS, Process
from diffusion.schedules import SCHEDULES
from diffusion.state import create
from diffusion.steps import Optimiser, make_train_step
from diffusion.types import Batch

CLASSES, SHAPE, ROWS, DEVICES = 3, (4, 4, 1), 8, 2


class Root(nn.Module):
    """A layer inside, then sqrt(scale * h^2): at scale 0 it is finite and its derivative is not."""

    @nn.compact
    def __call__(self, h):
        h = Dense(4, name="inner")(h)
        return jnp.sqrt(self.param("scale", nn.initializers.ones_init(), ()) * jnp.square(h))


class Backbone(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise, ports, keys):
        h = Dense(4, name="first")(x) + Dense(4, name="cond")(ports.vec)[:, None, None, :]
        h = Root(name="block")(dropout(h, keys, 0.2, 0))
        return Dense(1, name="last")(h)


OPTIMISER = Optimiser(
    make_optimizer(OPTIMIZERS["sgd"](), CLIPS["none"]()),
    LR_SCHEDULES["constant"](1e-3, 10),
    EMAS["constant"](),
    ema_every=1,
    micro_batches=1,
    strict=0,
    max_loss=0.0,
)
MESH = make_mesh(DEVICES)


BACKBONES = {
    "layers": Backbone(),
    "dit": dit(4, 1, jnp.float32, d=8, depth=3, heads=2, context_from=1, dropout=0.2, remat="blocks"),
}


@functools.cache
def diffusion(backbone: str = "layers"):
    net = make_net(BACKBONES[backbone], {"label": label(CLASSES, d=4)}, SHAPE, {"label": jnp.zeros(1, jnp.int32)})
    process = Process(SCHEDULES["cosine"](), TARGETS["v"]())
    density, weighting = DENSITIES["stratified"](process), WEIGHTINGS["unit"]()
    return Diffusion(net, process, density, weighting, CODECS["pixels"](), 0.5, 0.0)


@functools.cache
def inspection_step(backbone: str = "layers", **changed):
    return make_inspection_step(diffusion(backbone), replace(OPTIMISER, **changed), MESH)


@functools.cache
def host_params(backbone: str = "layers"):
    return jax.device_get(diffusion(backbone).net.init(jax.random.key(0)))


def state_of(step: int = 0, backbone: str = "layers", **spoilt):
    """``backbone__last__kernel=f`` replaces that weight w by f(w)."""
    leaves = by_path(host_params(backbone))
    for name, change in spoilt.items():
        path = name.replace("__", "/")
        leaves[path] = np.float32(change(leaves[path]))
    state = create(rebuild(host_params(backbone), leaves), OPTIMISER.tx, plateau_state(), seed=4)
    return put_replicated(MESH, replace(jax.device_get(state), step=np.int32(step)))


def batch_of(n_valid: int = ROWS, pixel: float = 0.0):
    x = np.random.default_rng(0).uniform(-1, 1, (ROWS, *SHAPE)).astype(np.float32)
    x[0, 0, 0] = pixel
    row = np.arange(ROWS, dtype=np.int32)
    return put_rows(MESH, Batch(x, {"label": row % CLASSES}, row, row < n_valid))


def inf(weight):
    return np.full_like(weight, np.inf)


SPOILT = [
    (dict(conditioners_label__table__embedding=inf), "the output of conditioners_label/table is the first"),
    (dict(backbone__first__kernel=inf), "the output of backbone/first is the first"),
    (dict(backbone__block__inner__bias=inf), "the output of backbone/block/inner is the first"),
    (dict(backbone__block__scale=inf), "the output of backbone/block is the first"),
    (dict(backbone__last__bias=inf), "the output of backbone/last is the first"),
    (dict(backbone__last__kernel=lambda w: w * 1e25), "every layer is finite; the loss is not"),
    (dict(backbone__block__scale=np.zeros_like), "every layer is finite; the gradient of backbone/block/scale is not"),
    ({}, "everything is finite"),
]


@pytest.mark.parametrize("spoilt, said", SPOILT, ids=lambda v: v if isinstance(v, str) else "")
def test_the_first_that_is_not_finite_is_named(spoilt, said):
    assert first_nonfinite(inspection_step()(state_of(**spoilt), None, batch_of())).startswith(said)


def of_block(i, change):
    """Changes the weight of one block in a stack."""
    return lambda stack: np.concatenate([stack[:i], change(stack[i : i + 1]), stack[i + 1 :]])


def huge(weight):
    return np.full_like(weight, 1e25)


IN_A_STACK = [
    (dict(backbone__blocks__mlp__wide__bias=of_block(1, inf)), "the output of backbone/blocks[2]/mlp/wide is the"),
    (dict(backbone__blocks__self__value__kernel=of_block(0, inf)), "the output of backbone/blocks[1]/self/value is"),
    (dict(backbone__early_blocks__emb__bias=inf), "the output of backbone/early_blocks[0]/emb is the first"),
    (dict(backbone__out__kernel=inf), "the output of backbone/out is the first"),
    # what block 1's MLP answers is gated by 0 and finite; times the 1e20 that comes back, the gate's gradient is not
    (
        dict(
            backbone__out__kernel=lambda w: np.linspace(-1e10, 1e10, w.size).reshape(w.shape),
            backbone__blocks__mlp__narrow__kernel=of_block(0, huge),
        ),
        "every layer is finite; the gradient of backbone/blocks[1]/emb/",
    ),
    ({}, "everything is finite"),
]


@pytest.mark.parametrize("spoilt, said", IN_A_STACK, ids=lambda v: v if isinstance(v, str) else "")
def test_a_layer_of_a_scanned_stack_is_named_by_its_place(spoilt, said):
    """Inside a scan and a checkpoint, whose values do not get out by themselves; block 0 is a stack of its own."""
    found = inspection_step("dit")(state_of(backbone="dit", **spoilt), None, batch_of())
    assert first_nonfinite(found).startswith(said)


@pytest.mark.parametrize("changed", [dict(micro_batches=2), dict(strict=4)], ids=str)
def test_it_is_named_however_the_batch_is_reduced(changed):
    """One row holds the class whose embedding is spoilt: one part of the batch alone is bad."""

    def spoil(table):
        table = table.copy()
        table[2] = np.nan
        return table

    state = state_of(conditioners_label__table__embedding=spoil, step=0)
    found = inspection_step(**changed)(state, None, batch_of(n_valid=3))
    assert first_nonfinite(found) == "the output of conditioners_label/table is the first that is not finite"


def test_a_bad_image_is_told_from_a_bad_layer():
    assert "images of this batch" in first_nonfinite(inspection_step()(state_of(), None, batch_of(pixel=np.nan)))


def test_the_draws_are_those_of_the_train_step():
    """The learned null is spoilt, and the only row meets it or not by its draw: the two agree at every step."""

    def spoil(table):
        return np.concatenate([table[:-1], inf(table[-1:])])

    step, bad = make_train_step(diffusion(), OPTIMISER, MESH), []
    for i in range(12):
        spoilt = dict(conditioners_label__table__embedding=spoil, step=i)
        found = inspection_step()(state_of(**spoilt), None, batch_of(n_valid=1))
        metrics = step(state_of(**spoilt), None, batch_of(n_valid=1), put_rows(MESH, np.zeros(DEVICES, np.int32)))[1]
        bad.append(int(metrics.control[1]))
        assert first_nonfinite(found).startswith("the output" if bad[-1] else "everything"), i
    assert 3 <= sum(bad) <= 9
