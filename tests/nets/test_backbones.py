"""What every backbone promises, whichever row it is: shapes, ports, precision, dropout, and rows on their own."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.nets.tiny_nets import C_NOISE, KINDS, NO_PORTS, PORTS, RNG, X, shapes, stirred, tiny

kinds = pytest.mark.parametrize("kind", KINDS)
PROBE = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)


@functools.cache
def jitted(kind: str, **more):
    """(params, x, c_noise, ports, keys) -> the answer, compiled."""
    return jax.jit(tiny(kind, **more).apply)


def params_of(kind: str, ports: bool = True, **more):
    return {"params": stirred(shapes(tiny(kind, **more), ports))}


# Of the largest answer. On some processors XLA's convolution adds up a row in another order in another slot (3.6e-7 on
# an AMD EPYC, 0 on others); what one row takes from another is far above it.
ULPS = 2e-6


@kinds
@pytest.mark.parametrize("ports", [NO_PORTS, PORTS], ids=["no ports", "all ports"])
def test_output_shape(kind, ports):
    backbone = tiny(kind, out_channels=5, dtype=jnp.bfloat16)
    params = jax.eval_shape(backbone.init, jax.random.key(0), X, C_NOISE, ports)
    out = jax.eval_shape(backbone.apply, params, X, C_NOISE, ports)
    assert (out.shape, out.dtype) == ((2, 4, 4, 5), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@kinds
def test_a_fresh_net_answers_zero(kind):
    params = jax.jit(tiny(kind).init)(jax.random.key(0), X, C_NOISE, PORTS)
    assert not jitted(kind)(params, X, C_NOISE, PORTS).any()


@kinds
def test_every_port_reaches_every_image_and_masked_tokens_reach_none(kind):
    """Not even NaN in them, which would spoil any gradient."""
    apply, params = tiny(kind).apply, params_of(kind)

    @jax.jit
    def value_and_gradient(params, given):
        def probed(params, given):
            vec, seq, grid, c_noise, x = given
            ports = replace(PORTS, vec=vec, seq=seq, grid=grid)
            return jnp.sum(PROBE * apply(params, x, c_noise, ports))

        return jax.value_and_grad(probed, argnums=(0, 1))(params, given)

    def found(hidden):
        seq = jnp.where(PORTS.seq_valid[..., None], PORTS.seq, hidden)
        return value_and_gradient(params, (PORTS.vec, seq, PORTS.grid, C_NOISE, X))

    _, (to_params, (vec, seq, grid, c_noise, x)) = found(0.0)
    for part in (vec, seq[PORTS.seq_valid], grid, c_noise, x):
        assert np.abs(part).min() > 1e-9
    assert not seq[~PORTS.seq_valid].any()
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(to_params)), "a weight that nothing uses"
    for hidden in (1e4, np.nan, np.inf):
        jax.tree.map(np.testing.assert_array_equal, found(hidden), found(0.0))


@kinds
def test_the_sequence_is_a_set(kind):
    """Tokens of ``seq`` have no place of their own (a conditioner may add one), so their order says nothing."""
    params, order = params_of(kind), jnp.array([2, 0, 1])
    moved = replace(PORTS, seq=PORTS.seq[:, order], seq_valid=PORTS.seq_valid[:, order])
    answers = [jitted(kind)(params, X, C_NOISE, ports) for ports in (PORTS, moved)]
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-5)


@kinds
def test_bfloat16_computes_nearly_the_same_from_float32_weights(kind):
    params = params_of(kind)
    half, full = (jitted(kind, dtype=dtype)(params, X, C_NOISE, PORTS) for dtype in (jnp.bfloat16, jnp.float32))
    assert half.dtype == full.dtype == jnp.float32
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, rtol=0, atol=2e-2 * float(jnp.abs(full).max()))


@kinds
def test_dropout_belongs_to_the_keys(kind):
    """The same image twice: rows differ by their keys alone, and a row keeps its answer in another slot."""
    params, keys = params_of(kind, ports=False), jax.random.split(jax.random.key(0), 3)
    x, c_noise = jnp.stack([X[0]] * 2), C_NOISE[:1].repeat(2)
    apply = jitted(kind, dropout=0.5)
    first, second, third = (
        apply(params, x, c_noise, NO_PORTS, keys[jnp.array(rows)]) for rows in ((0, 1), (2, 0), (0, 2))
    )
    np.testing.assert_array_equal(first[0], third[0])
    np.testing.assert_allclose(first[0], second[1], rtol=0, atol=ULPS * np.abs(first).max())
    assert not np.allclose(first[0], first[1], atol=1e-2)


@kinds
@pytest.mark.parametrize("order", [(1, 0), (0, 0), (1, 1)])
def test_an_image_is_the_same_in_every_slot_and_next_to_any_other(kind, order):
    """Next to another image in its own slot to the bit."""
    params, given = params_of(kind), (X, C_NOISE, PORTS)
    moved = jax.tree.map(lambda a: a[jnp.array(order)], given)
    found, wanted = jitted(kind)(params, *moved), jitted(kind)(params, *given)[jnp.array(order)]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ULPS * np.abs(wanted).max())
    stayed = np.array(order) == np.arange(2)
    np.testing.assert_array_equal(found[stayed], wanted[stayed])
