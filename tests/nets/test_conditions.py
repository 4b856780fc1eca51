"""Conditioners: labels that training never met, and sets of images at each port."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.nets.conditions import INJECT, label, set_condition
from diffusion.nets.contexts import CONTEXTS
from diffusion.nets.model import _draw
from diffusion.nets.set_encoders import SET_ENCODERS
from diffusion.types import ImageSet, Ports
from tests.nets.tiny_sets import C_NOISE, IMAGES, KEYS, SETS, VALID, condition, context, encoder, params_of

NOT_NULL = jnp.zeros(3, bool)
KINDS = [(e, c) for e in SET_ENCODERS for c in CONTEXTS if e == "vit" or c == "deterministic"]
kinds = pytest.mark.parametrize("kind", KINDS, ids="-".join)
injections = pytest.mark.parametrize("inject", INJECT)
WANTED = {
    "film": {"vec"},
    "lag": {"seq"},
    "both": {"vec", "seq"},
    "grid": {"grid"},
    "all": {"vec", "seq", "grid"},
}


@functools.cache
def built(kind, inject="both"):
    """Params, the compiled condition and its compiled encoding."""
    module = condition(*kind, inject)
    params = params_of(module, SETS, NOT_NULL, C_NOISE)
    return params, jax.jit(module.apply), jax.jit(functools.partial(module.apply, method="encode"))


def ports_of(kind, value, null=NOT_NULL, inject="both"):
    params, apply, _ = built(kind, inject)
    return apply(params, value, null, C_NOISE)


def equal(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def row(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


@injections
def test_each_injection_fills_its_ports(inject):
    ports, whole = (ports_of(("vit", "deterministic"), SETS, inject=i) for i in (inject, "all"))
    assert whole.vec.shape == (3, 6) and whole.seq.shape == (3, 4, 6) and whole.grid.shape == (3, 4, 4, 16)
    filled = {port for port in ("vec", "seq", "grid") if getattr(ports, port) is not None}
    assert filled == WANTED[inject] and (ports.seq_valid is not None) == ("seq" in filled)
    if "grid" not in filled:  # whose kernel is one of the random weights
        wanted = Ports(
            **{port: getattr(ports_of(("vit", "deterministic"), SETS), port) for port in filled},
            seq_valid=ports.seq_valid,
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ports, wanted)


@pytest.mark.parametrize("name", SET_ENCODERS)
def test_the_grid_shows_each_place_what_the_set_holds_there(name):
    module = set_condition(encoder(name), context("deterministic"), inject="grid", channels=3)
    params = params_of(module, SETS, NOT_NULL, C_NOISE)
    grid = np.asarray(module.apply(params, SETS, NOT_NULL, C_NOISE).grid)
    place = module.encoder.place
    tokens = np.asarray(module.apply(params, SETS, C_NOISE, method="encode").tokens)
    kernel, bias = (np.asarray(params["params"]["map"][leaf]) for leaf in ("kernel", "bias"))
    for y, x in np.ndindex(4, 4):
        token = tokens[:, (y // place) * (4 // place) + x // place] @ kernel + bias
        own = token.reshape(3, place, place, 3)[:, y % place, x % place]
        np.testing.assert_allclose(grid[:, y, x], own, rtol=1e-4, atol=1e-5)
    null = module.apply(params, SETS, jnp.ones(3, bool), C_NOISE).grid
    np.testing.assert_array_equal(null, np.tile(null[:1, :place, :place], (3, 4 // place, 4 // place, 1)))


@pytest.mark.parametrize("pool", ["cls", "mean", "all"])
def test_a_grid_needs_tokens_of_places(pool):
    with pytest.raises(ValueError, match="^inject is 'all', which needs tokens of places"):
        set_condition(encoder("vit", pool), context("deterministic"), inject="all")


def test_the_vector_is_the_mean_of_the_valid_tokens():
    module = set_condition(encoder("vit", "all"), context("deterministic"), inject="both")
    params = params_of(module, SETS, NOT_NULL, C_NOISE)
    ports = module.apply(params, SETS, NOT_NULL, C_NOISE)
    np.testing.assert_array_equal(ports.seq_valid, np.repeat(VALID, 4, axis=1))
    assert not ports.seq[~ports.seq_valid].any()
    for i in range(3):
        np.testing.assert_allclose(ports.vec[i], np.asarray(ports.seq)[i][ports.seq_valid[i]].mean(0), rtol=1e-5)


@kinds
def test_encoding_first_is_the_same(kind):
    params, apply, encode = built(kind)
    encoded = encode(params, SETS, C_NOISE)
    assert not encoded.empty.any()
    for null in (NOT_NULL, jnp.array([True, False, True])):
        first, at_once = apply(params, encoded, null, C_NOISE), apply(params, SETS, null, C_NOISE)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), first, at_once)


@kinds
def test_null_and_the_empty_set_are_the_learned_null_whatever_the_set(kind):
    params = built(kind)[0]
    null = jnp.array([False, True, False])
    value = replace(SETS, valid=VALID.at[2].set(False))
    ports = ports_of(kind, value, null)
    token = np.asarray(params["params"]["null"]["embedding"][0])
    first = np.arange(ports.seq.shape[1]) == 0
    for i in (1, 2):
        np.testing.assert_array_equal(ports.vec[i], token)
        np.testing.assert_array_equal(ports.seq[i], first[:, None] * token)
        np.testing.assert_array_equal(ports.seq_valid[i], first)
    assert np.abs(ports.vec[0] - token).max() > 1e-3
    other = ports_of(kind, replace(value, images=IMAGES.at[1].set(jnp.nan)), null)
    equal(other, ports)


@kinds
def test_nothing_leaks_out_of_a_masked_member(kind):
    """To the bit, gradients included; valid members do change the context, of their own row alone."""
    params, apply, _ = built(kind)

    @jax.jit
    def found(params, images):
        def loss(params, images):
            ports = apply(params, replace(SETS, images=images), NOT_NULL, C_NOISE)
            return jnp.sum(jnp.sin(ports.vec)) + jnp.sum(jnp.cos(ports.seq)), ports

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, images)

    (_, ports), gradients = found(params, IMAGES)
    assert not gradients[1][~VALID].any() and gradients[1][VALID].any()
    for hidden in (7.0, np.nan):
        equal(found(params, jnp.where(VALID[..., None, None, None], IMAGES, hidden)), ((_, ports), gradients))
    likeliest = replace(SETS, keys=None)
    ports, changed = (ports_of(kind, replace(likeliest, images=a)) for a in (IMAGES, IMAGES.at[0].multiply(-3.0)))
    assert np.abs(changed.seq[0] - ports.seq[0]).max() > 1e-3
    equal(row(changed, slice(1, 3)), row(ports, slice(1, 3)))


@kinds
def test_a_row_alone_is_the_same(kind):
    params, apply, _ = built(kind)
    alone = apply(params, row(SETS, slice(1, 2)), NOT_NULL[:1], C_NOISE[1:2])
    wanted = row(ports_of(kind, SETS), slice(1, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), alone, wanted)


@kinds
def test_gradients_of_empty_and_null_rows_are_finite_and_reach_the_null(kind):
    params, apply, _ = built(kind)
    value = ImageSet(jnp.full_like(IMAGES, jnp.nan), jnp.zeros_like(VALID), KEYS)

    def loss(params):
        ports, sown = apply_with_penalty(kind)(params, value, NOT_NULL, C_NOISE)
        return jnp.square(ports.vec).sum() + jnp.square(ports.seq).sum() + sum(a.sum() for a in jax.tree.leaves(sown))

    gradient = jax.jit(jax.grad(loss))(params)["params"]
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))
    assert gradient.pop("null")["embedding"].all()
    assert not any(a.any() for a in jax.tree.leaves(gradient))


def apply_with_penalty(kind):
    return functools.partial(condition(*kind, "both").apply, mutable=["penalty"])


@pytest.mark.parametrize("name", ["gaussian", "discrete"])
def test_a_row_that_does_not_use_its_set_pays_no_penalty(name):
    kind = ("vit", name)
    null = jnp.array([False, True, False])
    value = replace(SETS, valid=VALID.at[2].set(False))
    _, sown = apply_with_penalty(kind)(built(kind)[0], value, null, C_NOISE)
    kl = sown["penalty"]["context"]["kl"]
    assert kl[0] > 0 and not kl[1:].any()


def test_the_context_is_drawn_by_the_keys_of_the_set():
    kind = ("vit", "gaussian")
    most_probable = ports_of(kind, replace(SETS, keys=None))
    assert np.abs(most_probable.seq - ports_of(kind, SETS).seq).max((1, 2)).min() > 0.01
    one_key = ports_of(kind, replace(SETS, keys=jnp.stack([KEYS[0], KEYS[2], KEYS[2]])))
    same = [np.array_equal(a, b) for a, b in zip(one_key.seq, ports_of(kind, SETS).seq, strict=True)]
    assert same == [True, False, True]


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_integers_are_refused(dtype):
    kind = ("unet", "deterministic")
    params, apply, encode = built(kind)
    value = replace(SETS, images=jnp.zeros(IMAGES.shape, dtype))
    for call in (lambda: encode(params, value, C_NOISE), lambda: apply(params, value, NOT_NULL, C_NOISE)):
        with pytest.raises(TypeError, match=rf"images of a set are {jnp.dtype(dtype)}; .* \[-1, 1\]"):
            call()


@pytest.mark.parametrize("timed", [False, True])
def test_a_timed_encoder_needs_the_noise_level(timed):
    module = set_condition(encoder("vit", "cls", timed), context("deterministic"), inject="lag")
    assert module.timed == timed
    params = params_of(module, SETS, NOT_NULL, C_NOISE)
    if timed:
        with pytest.raises(ValueError, match="c_noise is None"):
            module.apply(params, SETS, None, method="encode")
        levels = [module.apply(params, SETS, c, method="encode").tokens for c in (C_NOISE, C_NOISE + 1)]
        assert np.abs(levels[0] - levels[1]).max((1, 2)).min() > 1e-4
    else:
        assert module.apply(params, SETS, None, method="encode").tokens.shape == (3, 1, 6)


@kinds
def test_fresh_weights_tell_sets_apart(kind):
    """Kernels and embeddings are filled by one draw; no other weight has to be random."""
    module = condition(*kind, "both")
    declared = jax.jit(module.init)(jax.random.key(0), SETS, NOT_NULL, C_NOISE)["params"]
    params = {"params": _draw(declared, jax.random.key(1))}
    encoded = module.apply(params, replace(SETS, keys=None), C_NOISE, method="encode")
    null = params["params"]["null"]["embedding"]
    for a, b in ((encoded.tokens[0], encoded.tokens[1]), (encoded.tokens[1], encoded.tokens[2])):
        assert np.abs(a - b).max() > 1e-2
    assert np.abs(null).max() > 0.1
    still = [jax.tree_util.keystr(path) for path, a in jax.tree.leaves_with_path(params)
             if path[-1].key in ("kernel", "embedding") and not a.any()]  # fmt: skip
    assert all("conv2" in name or "log_variance" in name for name in still)


def test_an_unknown_injection_is_refused():
    with pytest.raises(ValueError, match="^inject is 'concat'; it is one of: film, lag, both, grid, all"):
        set_condition(encoder("unet"), context("deterministic"), inject="concat")


TABLE = {"params": {"table": {"embedding": jnp.arange(12, dtype=jnp.float32).reshape(6, 2)}}}


@pytest.mark.parametrize(
    ("trained", "rows"),
    [
        (None, [5, 0, 1, 2, 3, 4]),
        ((1, 3), [5, 5, 1, 5, 3, 5]),
        ((0, 1, 2, 3, 4), [5, 0, 1, 2, 3, 4]),
        ((), [5, 5, 5, 5, 5, 5]),
    ],
)
def test_a_class_that_was_not_trained_is_the_null(trained, rows):
    module, labels = label(5, trained, d=2), jnp.arange(-1, 5)
    vec = lambda null: module.apply(TABLE, labels, null, C_NOISE).vec  # noqa: E731
    np.testing.assert_array_equal(vec(jnp.zeros(6, bool)), TABLE["params"]["table"]["embedding"][np.array(rows)])
    np.testing.assert_array_equal(vec(jnp.ones(6, bool)), np.tile([10.0, 11.0], (6, 1)))
    np.testing.assert_array_equal(module.apply(TABLE, labels, None, method="encode"), labels)
    shapes = jax.eval_shape(module.init, jax.random.key(0), labels, labels < 0)["params"]
    assert jax.tree.map(lambda a: a.shape, shapes) == {"table": {"embedding": (6, 2)}}


@pytest.mark.parametrize("trained", [(0, 5), (-1,)])
def test_trained_classes_that_there_are_not_are_refused(trained):
    with pytest.raises(ValueError, match=rf"^trained holds {trained[-1]}; the classes are 0 to 4"):
        label(5, trained)
