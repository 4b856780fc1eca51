import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.leaves import _device_sum, by_path, fingerprints, rebuild
from diffusion.lr_schedules import plateau_state
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.state import count_parameters, create, fingerprint, run_key

PARAMS = {"conv": {"kernel": jnp.arange(24.0).reshape(2, 3, 4), "bias": jnp.ones((4,))}}
TX = make_optimizer(OPTIMIZERS["adamw"](), CLIPS["global_norm"]())

LEAVES = {
    "float32": jnp.linspace(-1, 1, 30).reshape(2, 3, 5),
    "bfloat16": jnp.linspace(-1, 1, 30).astype(jnp.bfloat16).reshape(5, 6),
    "float16": jnp.linspace(-1, 1, 7).astype(jnp.float16),
    "int32": jnp.int32(7),
    "uint32": jax.random.key_data(jax.random.key(3)),
    "uint8": jnp.arange(11, dtype=jnp.uint8),
    "bool": jnp.asarray([True, False, True]),
    "empty": jnp.zeros((0, 3)),
}


def flipped(leaf, bit):
    """The leaf with one bit of its bytes flipped; a bool changes its value."""
    if leaf.dtype == jnp.bool_:
        return leaf.at[0].set(~leaf[0])
    raw = bytearray(np.asarray(leaf).tobytes())
    raw[bit // 8] ^= 1 << bit % 8
    return jnp.asarray(np.frombuffer(bytes(raw), leaf.dtype).reshape(leaf.shape))


def test_create_counts_from_zero_and_names_its_leaves():
    state = create(PARAMS, TX, plateau_state(), seed=5)
    paths = by_path(state)
    assert {int(paths[name]) for name in ("step", "updates", "bad_in_row", "bad_total")} == {0}
    assert {"params/conv/kernel", "ema/ema/conv/bias", "plateau/scale"} < set(paths)
    assert jax.random.key_data(run_key(state)).tolist() == jax.random.key_data(jax.random.key(5)).tolist()
    assert count_parameters(state.params) == 28


def test_create_runs_abstractly_and_its_buffers_can_be_donated():
    make = lambda params: create(params, TX, plateau_state(), 0)  # noqa: E731
    abstract = jax.eval_shape(make, PARAMS)
    assert count_parameters(abstract.params) == 28
    step = jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)
    first, second = (made(jax.tree.map(jnp.array, PARAMS)) for made in (make, jax.jit(make)))
    assert fingerprint(step(first)) == fingerprint(step(second))


def test_rebuild_is_the_inverse_of_by_path():
    state = create(PARAMS, TX, plateau_state(), 0)
    again = rebuild(state, by_path(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert fingerprint(again) == fingerprint(state)


@pytest.mark.parametrize("name", [name for name in LEAVES if name != "empty"])
def test_one_flipped_bit_changes_both_fingerprints(name):
    leaf = LEAVES[name]
    bits = range(0, leaf.nbytes * 8, 7) if leaf.dtype != jnp.bool_ else [0]
    exact, sha = fingerprints(leaf), fingerprint(leaf)
    for bit in bits:
        changed = flipped(leaf, bit)
        assert fingerprints(changed) != exact, bit
        assert fingerprint(changed) != sha, bit


@pytest.mark.parametrize("name", LEAVES)
def test_the_devices_and_the_host_count_the_same_integers(name):
    assert int(_device_sum(LEAVES[name])) == fingerprints(LEAVES)[name]


def test_exchanged_words_are_seen():
    assert fingerprints(jnp.asarray([1.0, 2.0, 3.0])) != fingerprints(jnp.asarray([2.0, 1.0, 3.0]))


def test_a_sharding_does_not_change_the_fingerprint():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(
        jnp.arange(64.0).reshape(16, 4), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    )
    whole = jnp.arange(64.0).reshape(16, 4)
    assert int(_device_sum(sharded)) == int(_device_sum(whole))
    assert fingerprints(sharded) == fingerprints(whole) and fingerprint(sharded) == fingerprint(whole)


def test_sha_sees_type_shape_and_path():
    zeros = jnp.zeros((4,), jnp.int32)
    other = [{"a": zeros.astype(jnp.float32)}, {"a": zeros.reshape(2, 2)}, {"b": zeros}]
    assert len({fingerprint(tree) for tree in [{"a": zeros}, *other]}) == 4
