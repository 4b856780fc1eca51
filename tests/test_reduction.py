"""Sums in a fixed order: the same bits on 2, 4 and 8 devices, and the ordinary sums to rounding."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion.batch_losses import Diffusion
from diffusion.ema import EMAS
from diffusion.lr_schedules import LR_SCHEDULES, plateau_state
from diffusion.mesh import make_mesh, put_replicated, put_rows
from diffusion.nets.codec import CODECS
from diffusion.nets.conditions import label
from diffusion.nets.dit import dit
from diffusion.nets.layers import Conv, noise_embedding
from diffusion.nets.model import make_net
from diffusion.nets.unet import AttentionBlock, ResBlock, unet
from diffusion.objective import DENSITIES, WEIGHTINGS
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.process import TARGETS, Process
from diffusion.reduction import strict
from diffusion.schedules import SCHEDULES
from diffusion.state import create, fingerprint
from diffusion.steps import Optimiser, make_train_step
from diffusion.types import Batch

CLASSES, SHAPE, ROWS, SLICES, STEPS = 10, (8, 8, 1), 32, 16, 20
SIZES = (ROWS, 29, ROWS, 5, ROWS)  # valid rows, in turn
OPTIMISER = Optimiser(
    make_optimizer(OPTIMIZERS["adamw"](), CLIPS["global_norm"]()),
    LR_SCHEDULES["warmup_cosine"](2e-3, 60, warmup_steps=5),
    EMAS["constant"](decay=0.9),
    ema_every=1,
    micro_batches=1,
    strict=SLICES,
    max_loss=0.0,
)


class Blocks(nn.Module):
    """One residual block with dropout and one of attention between two convolutions."""

    @nn.compact
    def __call__(self, x, c_noise, ports, keys):
        emb = noise_embedding(c_noise, 8) + ports.vec
        x = Conv(8, (3, 3), name="in")(x)
        style = unet(8, 1, jnp.float32, channels=8, heads=2, groups=2, dropout=0.1).style
        x = ResBlock(8, style, layer=0, name="block")(x, emb, keys)
        x = AttentionBlock(style, name="attention")(x, ports)
        return Conv(1, (3, 3), name="out")(x)


BACKBONES = {
    "blocks": Blocks(),
    "unet": unet(8, 1, jnp.float32, channels=8, groups=2, heads=2, mults=(1, 2), attention=(1,), dropout=0.1),
    "dit": dit(8, 1, jnp.float32, d=8, depth=2, heads=2, remat="dots", dropout=0.1),  # a loop of blocks in the loop
}


@functools.cache
def diffusion(name: str) -> Diffusion:
    net = make_net(BACKBONES[name], {"label": label(CLASSES, d=8)}, SHAPE, {"label": jnp.zeros(1, jnp.int32)})
    process = Process(SCHEDULES["cosine"](), TARGETS["v"]())
    density, weighting = DENSITIES["stratified"](process), WEIGHTINGS["unit"]()
    return Diffusion(net, process, density, weighting, CODECS["pixels"](), 0.2, 0.1)


@functools.cache
def host_state(name: str):
    """Weights of which none is 0, so that a gradient reaches every leaf."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(diffusion(name).net.init, jax.random.key(0))
    deviation = lambda a: 0.5 / np.sqrt(max(np.prod(a.shape[:-1]), 1))  # noqa: E731
    params = jax.tree.map(lambda a: rng.normal(0, deviation(a), a.shape).astype(np.float32), shapes)
    return jax.device_get(create(jax.tree.map(jnp.asarray, params), OPTIMISER.tx, plateau_state(), seed=3))


def batch_of(n_valid: int, seed: int, rows: int) -> Batch:
    """The first rows are the same whatever fills the shape, which is as bad as can be."""
    rng = np.random.default_rng(seed)
    row = np.arange(rows, dtype=np.int32)
    x = np.full((rows, *SHAPE), np.nan, np.float32)
    x[:n_valid] = rng.uniform(-1, 1, (ROWS, *SHAPE))[:n_valid]
    return Batch(x, {"label": row % CLASSES}, row, row < n_valid)


@functools.cache
def trained(devices: int, slices: int = SLICES, rows: int = ROWS, sizes=SIZES, steps: int = STEPS, name="blocks"):
    """(sha256 of the last state, the state, [loss of each step])."""
    mesh, found = make_mesh(devices), []
    step = make_train_step(diffusion(name), replace(OPTIMISER, strict=slices), mesh)
    go_on, state = put_rows(mesh, np.zeros(devices, np.int32)), put_replicated(mesh, host_state(name))
    for i in range(steps):
        batch = put_rows(mesh, batch_of(sizes[i % len(sizes)], seed=i, rows=rows))
        state, metrics = step(state, None, batch, go_on)
        found.append(jax.device_get((metrics.suspect.loss, metrics.suspect.grad_norm, metrics.sums)))
    return fingerprint((state, found)), jax.device_get(state), [float(loss) for loss, _, _ in found]


@pytest.mark.parametrize("name", ["blocks", *(pytest.param(name, marks=pytest.mark.slow) for name in ("unet", "dit"))])
def test_two_four_and_eight_devices_give_the_same_bits(name):
    """20 steps, two in five of them incomplete: state, losses, their quarters, and the gradient's norm."""
    prints = {devices: trained(devices, name=name)[0] for devices in (2, 4, 8)}
    assert len(set(prints.values())) == 1, prints
    _, state, losses = trained(2, name=name)
    assert int(state.updates) == STEPS
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])


def test_the_ordinary_sums_are_the_same_to_rounding():
    np.testing.assert_allclose(trained(2)[2], trained(2, slices=0)[2], rtol=1e-5)


@pytest.mark.slow
def test_a_batch_padded_by_whole_slices_gives_the_same_bits():
    """16 rows in 8 slices, and the same 16 of 32 rows in 16 slices."""
    sizes, steps = (ROWS // 2, 11), 4
    plain = trained(2, SLICES // 2, ROWS // 2, sizes, steps)
    padded = trained(2, SLICES, ROWS, sizes, steps)
    assert plain[2] == padded[2]
    assert fingerprint(plain[1]) == fingerprint(padded[1])


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_sums_go_along_one_tree_and_rows_keep_their_order(devices):
    """Terms of very different size, so that any other order of additions is seen."""
    rng = np.random.default_rng(0)
    terms = (rng.normal(size=(16, 5)) * 10.0 ** rng.integers(-6, 6, (16, 5))).astype(np.float32)
    mesh = make_mesh(devices)
    rows = put_rows(mesh, {"term": terms, "id": np.arange(16, dtype=np.int32)})

    def term(shared, rows):
        return jnp.sum(rows["term"], 0) * shared, rows["id"]

    sums, ids = jax.jit(lambda shared, rows: strict(term, shared, rows, slices=16, mesh=mesh))(
        put_replicated(mesh, np.float32(1)), rows
    )
    while len(terms) > 1:
        terms = terms[0::2] + terms[1::2]
    np.testing.assert_array_equal(sums, terms[0])
    assert ids.tolist() == list(range(16))
    assert {shard.data.tobytes() for shard in sums.addressable_shards} == {terms[0].tobytes()}
