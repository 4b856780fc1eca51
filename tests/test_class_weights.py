"""A class's weight is a factor on its rows' training loss: exact under padding, on any devices, and nowhere else."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.batch_losses import batch_losses
from diffusion.mesh import make_mesh
from diffusion.objective import WEIGHTINGS
from diffusion.steps import make_train_step, make_validation_step, terms
from diffusion.types import Batch
from tests.test_steps import (
    CLASSES,
    OPTIMISER,
    ROWS,
    assert_same_update,
    diffusion,
    host_batch,
    losses,
    no_stop,
    put,
    start,
    toy_net,
    toy_params,
)

WEIGHTS = (0.25, 4.0, 1.0, 0.5, 2.0, 0.1, 1.5, 3.0, 0.7, 1.2)
PLAIN = diffusion(toy_net())
WEIGHTED = replace(PLAIN, class_weights=WEIGHTS)


@functools.cache
def step_on(devices: int, d=WEIGHTED, **changed):
    return make_train_step(d, replace(OPTIMISER, **changed), make_mesh(devices))


def update(devices: int, batch, d=WEIGHTED, **changed):
    return step_on(devices, d, **changed)(start("toy", devices), None, put(devices, batch), no_stop(devices))


def of_rows(d, batch, params=None, key=3):
    """Losses of a whole batch in training, each f32[b]."""
    key = jax.random.key(key) if isinstance(key, int) else key

    @jax.jit
    def found(params, batch, key):
        n = len(batch.valid)
        return batch_losses(d, params, None, batch, key, jnp.arange(n), n, drop=True)[0]

    return found(params or toy_params(), batch, key)


@pytest.mark.parametrize("weighting", ["unit", "uncertainty"])
def test_a_rows_whole_loss_is_multiplied_and_what_a_density_learns_from_is_not(weighting):
    """A row without a class, label -1, weighs 1."""
    row, batch = WEIGHTINGS[weighting](), host_batch(ROWS)
    learned = {"uncertainty": {"weights": np.linspace(-1, 1, 128, dtype=np.float32)}} if row.init else {}
    batch.cond["label"][5] = -1
    bare, found = (
        of_rows(replace(PLAIN, weighting=row, class_weights=weights), batch, toy_params() | learned)
        for weights in ((), WEIGHTS)
    )
    wanted = np.take(np.float32(WEIGHTS), np.maximum(batch.cond["label"], 0))
    wanted[5] = 1.0
    np.testing.assert_allclose(found.loss, bare.loss * wanted, rtol=1e-5)
    np.testing.assert_allclose(found.plain, bare.plain, rtol=1e-5)
    np.testing.assert_array_equal(found.t, bare.t)


def test_the_logged_loss_is_the_mean_of_weighted_ones_over_valid_rows():
    """It is divided by their number, not by the sum of their weights."""
    batch = host_batch(21)
    total, count = losses(update(1, batch)[1].sums)["train/loss"]
    (_, (_, key, *_)), _ = terms(start("toy", 1), None, jax.tree.map(jnp.asarray, batch))
    bare = of_rows(PLAIN, jax.tree.map(lambda a: a[:21], batch), key=key).loss
    weights = np.take(WEIGHTS, batch.cond["label"][:21])
    assert count == 21 and total == pytest.approx(float(np.sum(np.asarray(bare) * weights)), rel=1e-5)
    assert abs(weights.mean() - 1) > 0.05


def test_a_padded_batch_gives_the_update_of_the_unpadded_one():
    """What fills the shape has labels beyond every class."""
    padded = host_batch(11)
    unpadded = jax.tree.map(lambda a: a[:11], padded)
    assert_same_update(update(1, padded), update(1, unpadded))


@pytest.mark.parametrize("n_valid", [ROWS, 2])
def test_devices_and_micro_batches_give_the_update_of_one_device(n_valid):
    batch = host_batch(n_valid)
    one = update(1, batch)
    for devices, parts in ((2, 1), (8, 4)):
        assert_same_update(update(devices, batch, micro_batches=parts), one)


def test_a_class_weighed_twice_has_the_gradient_of_one_drawn_twice():
    """Rows 0 and 1 with weights 4/3 and 2/3, against row 0 twice and row 1 once; noise and time go with the image."""
    quiet, x = diffusion(toy_net(rate=0.0), drop=0.0, drop_all=0.0), host_batch(2).x
    middle = PLAIN.density._replace(draw=lambda state, key, slot, n: (jnp.full(slot.shape, 0.5), None))

    def gradient(images, weights):
        d = replace(quiet, density=middle, class_weights=weights)
        chosen = np.int32(images)
        batch = Batch(x[chosen], {"label": chosen}, chosen, np.ones(len(chosen), bool))

        def mean(params):
            given = (params, None, batch, jax.random.key(0), chosen, len(images))
            return batch_losses(d, *given, drop=True)[0].loss.mean()

        return jax.jit(jax.grad(mean))(toy_params())

    weighed = gradient([0, 1], (4 / 3, 2 / 3, *[1.0] * (CLASSES - 2)))
    for a, b in zip(jax.tree.leaves(weighed), jax.tree.leaves(gradient([0, 0, 1], ())), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_validation_weighs_nothing():
    batch, key = put(8, host_batch(20)), jax.random.key(5)
    params = jax.tree.map(jnp.asarray, toy_params())
    found = [make_validation_step(d, make_mesh(8), 20)(params, None, batch, key) for d in (PLAIN, WEIGHTED)]
    assert losses(found[0]) == losses(found[1])


def test_without_weights_the_step_has_no_operation_more():
    """The table of weights is looked up where there are some alone."""

    def gathers(d):
        shapes = jax.eval_shape(lambda: start("toy", 1)), None, host_batch(ROWS), np.zeros(1, np.int32)
        return str(jax.make_jaxpr(make_train_step(d, OPTIMISER, make_mesh(1)))(*shapes)).count(" gather[")

    assert gathers(WEIGHTED) == gathers(PLAIN) + 1
