import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.optim import CLIPS, OPTIMIZERS, apply, decay_mask, make_optimizer

PARAMS = {
    "conv": {"kernel": jnp.linspace(-1, 1, 24).reshape(2, 3, 4), "bias": jnp.ones((4,))},
    "dense": {"kernel": jnp.linspace(0.5, 1, 12).reshape(4, 3), "bias": jnp.ones((2, 2))},
    "norm": {"scale": jnp.ones((4,))},
    "embed": {"embedding": jnp.ones((5, 4))},
    "odd": {"kernel": jnp.ones((4,))},
}


def gradients(step):
    return jax.tree.map(lambda p: jnp.sin(p + step), PARAMS)


def walk(tx, rate, steps=5):
    params, state = PARAMS, tx.init(PARAMS)
    for step in range(steps):
        direction, state = tx.update(gradients(step), state, params)
        params = apply(params, direction, jnp.float32(rate))
    return params


def test_adamw_is_optax_adamw_with_the_rate_outside():
    ours = walk(OPTIMIZERS["adamw"](b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.1), 0.01)
    tx = optax.adamw(0.01, 0.8, 0.95, 1e-6, weight_decay=0.1, mask=decay_mask)
    params, state = PARAMS, tx.init(PARAMS)
    for step in range(5):
        updates, state = tx.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7, rtol=0), ours, params)


REFERENCES = {
    "adamw": optax.adamw(1.0, weight_decay=0.01, mask=decay_mask),
    "adam": optax.adam(1.0),
    "radam": optax.radam(1.0),
    "lion": optax.lion(1.0, weight_decay=0.1, mask=decay_mask),
    "rmsprop": optax.rmsprop(1.0, decay=0.99),
    "sgd": optax.sgd(1.0, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_direction_is_minus_the_update_of_optax_at_rate_one(name):
    ours, theirs = OPTIMIZERS[name](), REFERENCES[name]
    state, reference = ours.init(PARAMS), theirs.init(PARAMS)
    for step in range(2):
        direction, state = ours.update(gradients(step), state, PARAMS)
        update, reference = theirs.update(gradients(step), reference, PARAMS)
        jax.tree.map(lambda d, u: np.testing.assert_allclose(d, -u, atol=1e-6), direction, update)


def test_weight_decay_acts_on_kernels_of_rank_two_and_more():
    decayed = {path for path, mask in jax.tree_util.tree_leaves_with_path(decay_mask(PARAMS)) if mask}
    assert {jax.tree_util.keystr(path, simple=True, separator="/") for path in decayed} == {
        "conv/kernel",
        "dense/kernel",
    }


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd"])
def test_a_parameter_outside_the_mask_feels_no_decay(name):
    plain, decayed = (
        walk(OPTIMIZERS[name](weight_decay=0.0), 0.1),
        walk(OPTIMIZERS[name](weight_decay=0.5), 0.1),
    )
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), plain, decayed)
    assert jax.tree.leaves(same) == [not decays for decays in jax.tree.leaves(decay_mask(PARAMS))]


def clipped(name, scale, **keywords):
    tx = make_optimizer(OPTIMIZERS["sgd"](momentum=0.0), CLIPS[name](**keywords))
    grads = jax.tree.map(lambda g: scale * g, gradients(0))
    return grads, tx.update(grads, tx.init(PARAMS), PARAMS)[0]


def test_global_norm_clip():
    _, direction = clipped("global_norm", 100.0, max_norm=2.0)
    norm = np.sqrt(sum(float(jnp.sum(d**2)) for d in jax.tree.leaves(direction)))
    np.testing.assert_allclose(norm, 2.0, rtol=1e-6)
    small, direction = clipped("global_norm", 1e-3)
    jax.tree.map(np.testing.assert_array_equal, direction, small)


@pytest.mark.parametrize("scale", [1e-3, 100.0, float("nan")])
def test_the_global_norm_is_clipped_as_optax_clips_it(scale):
    grads, direction = clipped("global_norm", scale, max_norm=2.0)
    theirs = optax.clip_by_global_norm(2.0)
    wanted, _ = theirs.update(grads, theirs.init(PARAMS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), direction, wanted)


def test_adaptive_clip_limits_each_unit_by_its_weights():
    _, direction = clipped("adaptive", 100.0, clipping=0.02)
    got = np.linalg.norm(direction["dense"]["kernel"], axis=0)
    np.testing.assert_allclose(got, 0.02 * np.linalg.norm(PARAMS["dense"]["kernel"], axis=0), rtol=1e-4)


def test_no_clip_changes_nothing():
    grads, direction = clipped("none", 100.0)
    jax.tree.map(np.testing.assert_array_equal, direction, grads)


BAD = [
    (OPTIMIZERS, "adamw", "b1", 1.0),
    (OPTIMIZERS, "adam", "b2", -0.1),
    (OPTIMIZERS, "radam", "eps", 0.0),
    (OPTIMIZERS, "lion", "weight_decay", -1.0),
    (OPTIMIZERS, "rmsprop", "decay", 1.5),
    (OPTIMIZERS, "sgd", "momentum", float("nan")),
    (CLIPS, "global_norm", "max_norm", 0.0),
    (CLIPS, "adaptive", "clipping", float("inf")),
]


@pytest.mark.parametrize(("table", "name", "field", "value"), BAD)
def test_an_illegal_number_is_named(table, name, field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        table[name](**{field: value})


def test_the_type_of_the_params_stays():
    params = {"w": jnp.ones((2,), jnp.bfloat16)}
    assert apply(params, {"w": jnp.ones((2,), jnp.float32)}, jnp.float32(0.1))["w"].dtype == jnp.bfloat16
