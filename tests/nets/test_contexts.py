"""Contexts of a set: what each draws, what it costs, and rows on their own."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.nets.contexts import CONTEXTS, Discrete, Gaussian, categorical_kl, gaussian_kl, straight_through
from tests.nets.tiny_sets import KEYS, RNG, context, params_of

contexts = pytest.mark.parametrize("name", CONTEXTS)
drawn = pytest.mark.parametrize("name", [name for name in CONTEXTS if name != "deterministic"])
TOKENS = jnp.asarray(RNG.normal(size=(3, 4, 6)), jnp.float32)
VALID = jnp.asarray([[True] * 4, [True, False, True, False], [False] * 4])


@functools.cache
def built(name):
    """Params and the compiled context, which answers ``(tokens, penalty f32[b] or None)``."""
    module = context(name)

    @jax.jit
    def call(params, tokens, valid, keys):
        answer, sown = module.apply(params, tokens, valid, keys, mutable=["penalty"])
        return answer, sown["penalty"]["kl"] if sown else None

    params = params_of(module, TOKENS, VALID, KEYS) if name != "deterministic" else {}
    return params, call


def drawing(name, tokens=TOKENS, valid=VALID, keys=KEYS):
    params, call = built(name)
    return call(params, tokens, valid, keys)


def numbers(params):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])


@contexts
def test_without_keys_it_is_the_same_again_and_with_keys_it_is_theirs(name):
    first, again = drawing(name, keys=None)[0], drawing(name, keys=None)[0]
    assert (first.shape, first.dtype) == (TOKENS.shape, jnp.float32)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(drawing(name)[0], drawing(name)[0])
    other = drawing(name, keys=jax.random.split(jax.random.key(9), 3))[0]
    assert np.array_equal(drawing(name)[0], other) == (name == "deterministic")


@contexts
def test_a_row_does_not_depend_on_the_others(name):
    answer, penalty = drawing(name)
    others = jnp.array([0, 2])
    keys = jnp.stack([KEYS[2], KEYS[1], KEYS[0]])
    changed, changed_penalty = drawing(name, TOKENS.at[others].add(1.0), VALID.at[others].set(True), keys)
    np.testing.assert_array_equal(changed[1], answer[1])
    alone, alone_penalty = drawing(name, TOKENS[1:2], VALID[1:2], KEYS[1:2])
    np.testing.assert_allclose(alone[0], answer[1], rtol=1e-5, atol=1e-6)
    if penalty is not None:
        np.testing.assert_array_equal(changed_penalty[1], penalty[1])
        np.testing.assert_allclose(alone_penalty[0], penalty[1], rtol=1e-5)


def test_the_deterministic_context_is_the_tokens_and_costs_nothing():
    answer, penalty = drawing("deterministic")
    np.testing.assert_array_equal(answer, TOKENS)
    assert penalty is None


@drawn
def test_the_penalty_is_of_valid_tokens_and_an_array_that_adds_up(name):
    params, _ = built(name)
    _, penalty = drawing(name)
    assert (penalty.shape, penalty.dtype) == ((3,), jnp.float32)
    assert (penalty[:2] > 0).all() and penalty[2] == 0
    hidden = jnp.where(VALID[..., None], TOKENS, 30.0)
    np.testing.assert_array_equal(drawing(name, hidden)[1], penalty)
    _, twice = context(name).apply(params | {"penalty": {"kl": penalty}}, TOKENS, VALID, None, mutable=["penalty"])
    np.testing.assert_allclose(twice["penalty"]["kl"], 2 * penalty, rtol=1e-6)
    _, free = context(name, weight=0.0).apply(params, TOKENS, VALID, None, mutable=["penalty"])
    assert not free["penalty"]["kl"].any()
    # nothing is kept, and nothing fails, where nobody asks
    assert context(name).apply(params, TOKENS, VALID, None).shape == TOKENS.shape


@drawn
def test_every_weight_learns_from_the_answer_and_from_the_penalty(name):
    params, call = built(name)

    def loss(params, part):
        answer, penalty = call(params, TOKENS, VALID, KEYS)
        return jnp.square(answer - 1.0).sum() if part == "answer" else penalty.sum()

    for part in ("answer", "penalty"):
        gradient = jax.grad(loss)(params, part)
        still = [jax.tree_util.keystr(path) for path, a in jax.tree.leaves_with_path(gradient) if not a.any()]
        assert still == (["['params']['codebook']['embedding']"] if (name, part) == ("discrete", "penalty") else [])
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


def test_gaussian_divergence_is_the_formula():
    """Per token log(1/s) + (s^2 + m^2) / 2 - 1/2 summed over features; the mean over tokens; times the weight."""
    params, _ = built("gaussian")
    p, x = numbers(params), np.asarray(TOKENS, np.float64)
    mean, raw = (x @ p[name]["kernel"] + p[name]["bias"] for name in ("mean", "log_variance"))
    s = np.exp(8 * np.tanh(raw / 8) / 2)
    kl = (np.log(1 / s) + (s**2 + mean**2) / 2 - 0.5).sum(-1)
    np.testing.assert_allclose(drawing("gaussian")[1][:2], [0.1 * kl[0].mean(), 0.1 * kl[1, [0, 2]].mean()], rtol=1e-5)


@pytest.mark.parametrize("size", [1e-4, 1.0, 30.0])
def test_divergences_are_never_negative(size):
    a, b = (jnp.asarray(size * RNG.normal(size=(50, 6)), jnp.float32) for _ in range(2))
    assert gaussian_kl(a, jnp.clip(b, -8, 8)).min() >= 0
    assert categorical_kl(a).min() >= -1e-6
    assert categorical_kl(a).max() <= np.log(6) + 1e-6


def test_gaussian_draws_have_the_moments_they_declare():
    params, call = built("gaussian")
    b = 4_000
    tokens = jnp.broadcast_to(TOKENS[:1], (b, 4, 6))
    answer, _ = call(params, tokens, jnp.ones((b, 4), bool), jax.random.split(jax.random.key(0), b))
    p, x = numbers(params), np.asarray(TOKENS[0], np.float64)
    mean, raw = (x @ p[name]["kernel"] + p[name]["bias"] for name in ("mean", "log_variance"))
    deviation = np.exp(8 * np.tanh(raw / 8) / 2)
    z = (np.asarray(answer, np.float64) - mean) / deviation
    assert np.abs(z.mean(0)).max() < 5 / np.sqrt(b)
    assert np.abs(z.std(0) - 1).max() < 5 / np.sqrt(2 * b)
    flat = z.reshape(b, -1)
    assert np.abs(np.corrcoef(flat.T) - np.eye(24)).max() < 5 / np.sqrt(b)
    np.testing.assert_allclose(call(params, TOKENS, VALID, None)[0][0], mean, rtol=1e-5, atol=1e-5)


def test_an_extreme_variance_is_bounded():
    module = Gaussian(6, 1.0)
    params = params_of(module, TOKENS, VALID, KEYS)
    params["params"]["log_variance"]["bias"] += 1e4
    loss = lambda params: module.apply(params, TOKENS, VALID, KEYS).sum()  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(params)
    assert np.isfinite(value) and all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


def test_discrete_answers_are_rows_of_the_codebooks():
    params, _ = built("discrete")
    books = np.asarray(params["params"]["codebook"]["embedding"]).reshape(2, 4, 3)
    p = numbers(params)
    logits = (np.asarray(TOKENS, np.float64) @ p["logits"]["kernel"] + p["logits"]["bias"]).reshape(3, 4, 2, 4)
    likeliest = books[np.arange(2), logits.argmax(-1)].reshape(3, 4, 6)
    np.testing.assert_array_equal(drawing("discrete", keys=None)[0], likeliest)
    answer = np.asarray(drawing("discrete")[0]).reshape(3, 4, 2, 3)
    for group in range(2):
        matches = (answer[:, :, group, None, :] == books[group]).all(-1)
        assert (matches.sum(-1) == 1).all()
    q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    kl = (q * np.log(q * 4)).sum((-1, -2))
    np.testing.assert_allclose(drawing("discrete")[1][:2], [0.1 * kl[0].mean(), 0.1 * kl[1, [0, 2]].mean()], rtol=1e-5)


def test_discrete_draws_have_the_chances_they_declare():
    params, call = built("discrete")
    b = 4_000
    tokens = jnp.broadcast_to(TOKENS[:1], (b, 4, 6))
    answer, _ = call(params, tokens, jnp.ones((b, 4), bool), jax.random.split(jax.random.key(0), b))
    books = np.asarray(params["params"]["codebook"]["embedding"]).reshape(2, 4, 3)
    matches = (np.asarray(answer).reshape(b, 4, 2, 1, 3) == books).all(-1)
    p = numbers(params)
    logits = (np.asarray(TOKENS[0], np.float64) @ p["logits"]["kernel"] + p["logits"]["bias"]).reshape(4, 2, 4)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert (np.abs(matches.mean(0) - chances) < 5 * np.sqrt(chances * (1 - chances) / b)).all()


def test_a_choice_has_the_gradient_of_its_softmax():
    logits, weights = (jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32) for _ in range(2))
    np.testing.assert_array_equal(straight_through(logits), np.eye(4)[np.argmax(logits, axis=-1)])
    gradients = [jax.grad(lambda a, f=f: (weights * f(a)).sum())(logits) for f in (straight_through, jax.nn.softmax)]
    np.testing.assert_allclose(*gradients, rtol=1e-6, atol=1e-7)
    assert np.abs(gradients[0]).min() > 1e-6


def test_the_temperature_sharpens_the_gradient_alone():
    params, _ = built("discrete")
    cool, warm = (Discrete(6, 4, 2, t, 0.1) for t in (0.5, 2.0))
    np.testing.assert_array_equal(*(m.apply(params, TOKENS, VALID, KEYS) for m in (cool, warm)))
    gradients = [jax.grad(lambda p, m=m: m.apply(p, TOKENS, VALID, KEYS).sum())(params) for m in (cool, warm)]
    kernels = [g["params"]["logits"]["kernel"] for g in gradients]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("gaussian", dict(weight=-1.0), "weight is -1.0; it must be 0 or more"),
        ("discrete", dict(codes=1), "codes is 1; it must be 2 or more"),
        ("discrete", dict(groups=4), "groups is 4; it must divide the width of the tokens, 6"),
        ("discrete", dict(groups=0), "groups is 0; it must be 1 or more"),
        ("discrete", dict(temperature=0.0), "temperature is 0.0; it must be positive"),
        ("discrete", dict(weight=-1.0), "weight is -1.0; it must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(name, fields, said):
    with pytest.raises(ValueError, match="^" + re.escape(said)):
        context(name, **fields)
