"""The shared layers against plain formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.nets import attention
from diffusion.nets.attention import Attention, fused, written_out
from diffusion.nets.layers import GroupNorm, ddpmpp_embedding, dropout, noise_embedding

RNG = np.random.default_rng(0)
NORM = GroupNorm(groups=3)
norm = jax.jit(NORM.apply)


def group_norm64(x, weight, bias, scale=0.0, shift=0.0, groups=3, eps=1e-5):
    x, weight, bias = (np.asarray(a, np.float64) for a in (x, weight, bias))
    b, h, w, c = x.shape
    grouped = x.reshape(b, h * w, groups, c // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = grouped.var((1, 3), keepdims=True)
    plain = ((grouped - mean) / np.sqrt(variance + eps)).reshape(x.shape) * weight + bias
    return plain * (1 + scale) + shift


def norm_case(mean=0.0, sd=1.0, adaptive=False, dtype=jnp.float32):
    x = jnp.asarray(RNG.normal(mean, sd, (2, 4, 5, 6)), dtype)
    params = {"scale": RNG.normal(1, 0.3, 6), "bias": RNG.normal(0, 0.3, 6)}
    ports = [RNG.normal(0, 0.5, (2, 6)) for _ in range(2)] if adaptive else []
    return x, jax.tree.map(jnp.float32, params), [jnp.float32(p) for p in ports]


@pytest.mark.parametrize(
    ("case", "atol"),
    [
        (dict(), 2e-6),
        (dict(adaptive=True), 4e-6),
        (dict(mean=1e3), 1e-4),  # x itself is rounded at 3e-5 sd; the moments must add nothing to that
        (dict(mean=-1e3, adaptive=True), 2e-4),
        (dict(sd=0.0, mean=3.0), 1e-5),
        (dict(dtype=jnp.bfloat16, adaptive=True), 3e-2),
    ],
)
def test_group_norm_is_the_formula(case, atol):
    x, params, ports = norm_case(**case)
    got = norm({"params": params}, x, *ports)
    wanted = group_norm64(x, params["scale"], params["bias"], *(np.asarray(p)[:, None, None, :] for p in ports))
    assert got.dtype == x.dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_group_norm_has_the_gradient_of_the_formula(mean):
    x, params, (scale, shift) = norm_case(mean, adaptive=True)
    probe = jnp.asarray(RNG.normal(size=x.shape), jnp.float32)

    def plain(x, scale, shift):
        grouped = x.reshape(2, 20, 3, 2)
        grouped = grouped - grouped.mean((1, 3), keepdims=True)
        unit = grouped / jnp.sqrt(jnp.square(grouped).mean((1, 3), keepdims=True) + 1e-5)
        out = unit.reshape(x.shape) * params["scale"][None, None, None] + params["bias"][None, None, None]
        return jnp.sum(probe * (out * (1 + scale[:, None, None]) + shift[:, None, None]))

    ours = jax.jit(jax.grad(lambda *a: jnp.sum(probe * NORM.apply({"params": params}, *a)), argnums=(0, 1, 2)))
    formula = jax.jit(jax.grad(plain, argnums=(0, 1, 2)))
    for got, wanted in zip(ours(x, scale, shift), formula(x, scale, shift), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * float(jnp.abs(wanted).max()))


ATTENTION = Attention(heads=2)
X = jnp.asarray(RNG.normal(size=(2, 5, 8)), jnp.float32)
CONTEXT = jnp.asarray(RNG.normal(size=(2, 3, 6)), jnp.float32)
VALID = jnp.asarray([[True, False, True], [False, True, False]])
attend = jax.jit(ATTENTION.apply)


def attention_params(context=None):
    params = ATTENTION.init(jax.random.key(0), X, context)["params"]
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(0, 0.5, a.shape), jnp.float32), params)


def attention64(params, x, source, valid, heads=2):
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    split = lambda a: a.reshape(*a.shape[:2], heads, -1)  # noqa: E731
    q, k, v = (split(s @ p[name]["kernel"]) for name, s in (("query", x), ("key", source), ("value", source)))
    logits = np.einsum("blnd,bmnd->bnlm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits) * valid[:, None, None, :]
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bnlm,bmnd->blnd", weights, v).reshape(*x.shape[:2], -1)
    return out @ p["out"]["kernel"] + p["out"]["bias"]


@pytest.mark.parametrize("context", [None, CONTEXT], ids=["self", "cross"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_formula(context, masked):
    params = attention_params(context)
    source = X if context is None else context
    valid = np.ones(source.shape[:2], bool) if not masked or context is None else np.asarray(VALID)
    got = attend({"params": params}, X, context, VALID if masked and context is not None else None)
    wanted = attention64(params, np.asarray(X, np.float64), np.asarray(source, np.float64), valid)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_heads_may_have_a_width_of_their_own():
    layer = Attention(heads=2, head_width=3)
    params = layer.init(jax.random.key(0), X)["params"]
    assert params["key"]["kernel"].shape == (8, 6)
    params = jax.tree.map(lambda a: jnp.asarray(RNG.normal(0, 0.5, a.shape), jnp.float32), params)
    x = np.asarray(X, np.float64)
    wanted = attention64(params, x, x, np.ones(X.shape[:2], bool))
    np.testing.assert_allclose(layer.apply({"params": params}, X), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden", [0.0, 1e4, np.nan, np.inf])
def test_masked_tokens_change_nothing(hidden):
    params = attention_params(CONTEXT)
    changed = jnp.where(VALID[..., None], CONTEXT, hidden)

    @jax.jit
    def value_and_gradients(params, x, context):
        loss = lambda *a: jnp.square(ATTENTION.apply({"params": a[0]}, a[1], a[2], VALID)).sum()  # noqa: E731
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(params, x, context)

    wanted, got = value_and_gradients(params, X, CONTEXT), value_and_gradients(params, X, changed)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    to_context = got[1][2]
    assert not to_context[~VALID].any() and np.abs(to_context[VALID]).min() > 0


def test_with_no_valid_token_the_answer_is_the_outputs_bias():
    params = attention_params(CONTEXT)
    got = attend({"params": params}, X, CONTEXT, jnp.zeros((2, 3), bool))
    np.testing.assert_array_equal(got, np.broadcast_to(params["out"]["bias"], X.shape))


def test_attention_starts_at_zero_and_its_keys_have_no_bias():
    params = jax.jit(ATTENTION.init)(jax.random.key(0), X)["params"]
    assert {name: sorted(leaves) for name, leaves in params.items()} == {
        "query": ["kernel"],
        "key": ["kernel"],
        "value": ["kernel"],
        "out": ["bias", "kernel"],
    }
    assert not attend({"params": params}, X, None, None).any()


QKV = [jnp.asarray(RNG.normal(size=(2, l, 2, 8)), jnp.float32) for l in (5, 3, 3)]


@pytest.mark.parametrize("valid", [None, VALID, jnp.zeros((2, 3), bool)], ids=["all", "masked", "none"])
def test_fused_attention_is_the_one_written_out(valid):
    """Values and gradients; with no valid token, weights are equal in both."""
    probe = jnp.asarray(RNG.normal(size=QKV[0].shape), jnp.float32)
    found = [
        jax.jit(jax.value_and_grad(lambda *qkv, f=f: jnp.sum(probe * f(*qkv, valid)), argnums=(0, 1, 2)))(*QKV)
        for f in (fused, written_out)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *found)


@pytest.mark.parametrize("implementation", ["auto", "xla"])
def test_a_fused_layer_is_the_same_layer_and_lets_no_nan_in(implementation):
    params = {"params": attention_params(CONTEXT)}
    layer = jax.jit(Attention(heads=2, implementation=implementation).apply)
    hidden = jnp.where(VALID[..., None], CONTEXT, jnp.nan)
    np.testing.assert_allclose(layer(params, X, hidden, VALID), attend(params, X, CONTEXT, VALID), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "e", "masked", "cuda", "chosen"),
    [
        (jnp.bfloat16, 64, False, True, "cudnn"),
        (jnp.float16, 72, False, True, "cudnn"),
        (jnp.bfloat16, 64, False, False, "xla"),
        (jnp.float32, 64, False, True, "xla"),
        (jnp.bfloat16, 64, True, True, "xla"),
        (jnp.bfloat16, 20, False, True, "xla"),
        (jnp.bfloat16, 136, False, True, "xla"),
    ],
)
def test_auto_takes_flash_attention_where_it_can_be(monkeypatch, dtype, e, masked, cuda, chosen):
    monkeypatch.setattr(attention, "on_cuda", lambda: cuda)
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, mask, implementation: implementation)
    q = jnp.zeros((1, 2, 1, e), dtype)
    assert fused(q, q, q, jnp.ones((1, 2), bool) if masked else None) == chosen
    assert fused(q, q, q, None, "cudnn") == "cudnn"


def test_there_is_no_cuda_here():
    assert not attention.on_cuda()


def test_normalised_queries_and_keys_are_the_formula():
    """Mean square 1 per head, times a scale per feature; and then turned where rotations are given."""
    layer = Attention(heads=2, qk_norm=True)
    declared = layer.init(jax.random.key(0), X)["params"]
    params = jax.tree.map(lambda a: jnp.asarray(RNG.normal(0, 0.5, a.shape), jnp.float32), declared)
    angles = RNG.normal(size=(5, 2))
    rotations = tuple(jnp.asarray(f(angles), jnp.float32) for f in (np.cos, np.sin))

    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x = np.asarray(X, np.float64)
    q, k, v = ((x @ p[name]["kernel"]).reshape(2, 5, 2, 4) for name in ("query", "key", "value"))
    q, k = (
        a / np.sqrt(np.square(a).mean(-1, keepdims=True) + 1e-6) * p[name]
        for a, name in ((q, "query_norm"), (k, "key_norm"))
    )
    turn = lambda a: (a[..., :2] + 1j * a[..., 2:]) * np.exp(1j * angles)[None, :, None, :]  # noqa: E731
    logits = np.einsum("blne,bmne->bnlm", turn(q), turn(k).conj()).real / 2
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    wanted = np.einsum("bnlm,bmne->blne", weights, v).reshape(x.shape) @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, X, rotations=rotations), wanted, rtol=1e-5, atol=1e-5)


KEYS = jax.random.split(jax.random.key(1), 4)
drop = jax.jit(dropout, static_argnums=(2, 3))


def test_dropout_belongs_to_the_example():
    x = jnp.ones((4, 50, 40))
    together = drop(x, KEYS, 0.25, 3)
    for row in range(4):
        np.testing.assert_array_equal(drop(x[row : row + 1], KEYS[row : row + 1], 0.25, 3)[0], together[row])
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(together, drop(x, KEYS, 0.25, 4))


def test_dropout_keeps_the_mean():
    out = np.asarray(drop(jnp.ones((4, 50, 40)), KEYS, 0.25, 0))
    np.testing.assert_allclose(np.unique(out), [0.0, 1 / 0.75], rtol=1e-6)
    # the mean of 8000 draws, each of deviation sqrt(0.25 / 0.75): five of its deviations
    assert abs(out.mean() - 1) < 5 * np.sqrt(0.25 / 0.75 / out.size)


@pytest.mark.parametrize(("keys", "rate"), [(None, 0.5), (KEYS, 0.0)], ids=["no keys", "rate 0"])
def test_dropout_is_off(keys, rate):
    x = jnp.ones((4, 3))
    assert dropout(x, keys, rate, 0) is x


def test_noise_embedding_is_cos_then_sin_with_exponents_i_over_half():
    c_noise = np.array([0.0, 0.5, 37.0, 999.0])
    angles = c_noise[:, None] * 10_000.0 ** (-np.arange(3) / 3)
    assert noise_embedding(jnp.ones(2, jnp.bfloat16), 6).dtype == jnp.float32
    np.testing.assert_allclose(
        noise_embedding(jnp.float32(c_noise), 6), np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-4
    )


def test_ddpmpp_embedding_is_sin_then_cos_with_exponents_i_over_half_less_1():
    c_noise = np.array([-1.5, 0.0, 0.5, 37.0, 999.0])
    angles = c_noise[:, None] * 10_000.0 ** (-np.arange(3) / 2)
    assert ddpmpp_embedding(jnp.ones(2, jnp.bfloat16), 6).dtype == jnp.float32
    np.testing.assert_allclose(
        ddpmpp_embedding(jnp.float32(c_noise), 6), np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-4
    )
