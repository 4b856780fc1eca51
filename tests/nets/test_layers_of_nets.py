"""The shared layers against plain formulas in float64."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion.nets import attention
from diffusion.nets.attention import Attention, best_implementation, written_out
from diffusion.nets.layers import (
    Conv,
    Dense,
    GroupNorm,
    ddpmpp_embedding,
    doubled_convolution,
    dropout,
    held,
    noise_embedding,
    normalised,
)

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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("valid", [None, VALID, jnp.zeros((2, 3), bool)], ids=["all", "masked", "none"])
def test_attention_written_out_is_jax_s_own(valid, dtype):
    """Values and gradients; with no valid token, weights are equal in both."""
    probe = jnp.asarray(RNG.normal(size=QKV[0].shape), jnp.float32)
    given = [a.astype(dtype) for a in QKV]
    found = [
        jax.jit(jax.value_and_grad(lambda *qkv, f=f: jnp.sum(probe * f(*qkv, valid)), argnums=(0, 1, 2)))(*given)
        for f in (functools.partial(attention.attend, implementation="xla"), written_out)
    ]
    (_, theirs), (_, ours) = found
    assert all(a.dtype == dtype for a in ours)
    atol = 1e-5 if dtype == jnp.float32 else 0.04  # three roundings to 8 bits of values up to 3
    found = jax.tree.map(lambda a: np.asarray(a, np.float32), found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=atol, atol=atol), *found)


@pytest.mark.parametrize("implementation", ["auto", "einsum", "xla"])
def test_every_implementation_is_the_same_layer_and_lets_no_nan_in(implementation):
    params = {"params": attention_params(CONTEXT)}
    layer = jax.jit(Attention(heads=2, implementation=implementation).apply)
    hidden = jnp.where(VALID[..., None], CONTEXT, jnp.nan)
    np.testing.assert_allclose(layer(params, X, hidden, VALID), attend(params, X, CONTEXT, VALID), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "width", "masked", "where", "chosen"),
    [
        (jnp.bfloat16, 64, False, "cuda", "cudnn"),
        (jnp.float16, 72, False, "cuda", "cudnn"),
        (jnp.bfloat16, 64, False, "tpu", "xla"),
        (jnp.bfloat16, 64, False, "cpu", "einsum"),
        (jnp.float32, 64, False, "cuda", "xla"),
        (jnp.bfloat16, 64, True, "cuda", "xla"),
        (jnp.bfloat16, 20, False, "cuda", "xla"),
        (jnp.bfloat16, 136, False, "cuda", "xla"),
    ],
)
def test_auto_takes_flash_attention_where_it_can_be(dtype, width, masked, where, chosen):
    assert best_implementation(dtype, width, masked, where) == chosen


def test_this_is_a_cpu():
    assert attention.platform() == "cpu"


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


@contextlib.contextmanager
def in_float64():
    jax.config.update("jax_enable_x64", True)  # the context of JAX has another name in its oldest version
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("mean", "adaptive"), [(0.0, (1, 1)), (100.0, (1, 1)), (0.0, (0, 0)), (0.0, (1, 0)), (0.0, (0, 1))]
)
def test_group_norm_with_silu_has_value_and_gradient_of_both_in_float64(mean, adaptive, dtype):
    x, params, ports = norm_case(mean, adaptive=True, dtype=dtype)
    ports = [port if given else None for port, given in zip(ports, adaptive, strict=True)]
    probe = jnp.asarray(RNG.normal(size=x.shape), jnp.float32)

    def plain(x, weight, bias, scale, shift):
        grouped = x.reshape(2, 20, 3, 2)
        grouped = grouped - grouped.mean((1, 3), keepdims=True)
        h = (grouped / jnp.sqrt(jnp.square(grouped).mean((1, 3), keepdims=True) + 1e-5)).reshape(x.shape)
        h = h * weight[None, None, None, :] + bias[None, None, None, :]
        h = h if scale is None else h * (1 + scale[:, None, None, :])
        return jax.nn.silu(h if shift is None else h + shift[:, None, None, :])

    given, every = (x, params["scale"], params["bias"], *ports), (0, 1, 2, 3, 4)
    with in_float64():
        exact = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), given)
        wanted = jax.value_and_grad(lambda *a: (plain(*a) * np.asarray(probe, np.float64)).sum(), every)(*exact)
    ours = lambda *a: (normalised(*a, 3, 1e-5, True).astype(jnp.float32) * probe).sum()  # noqa: E731
    got = jax.jit(jax.value_and_grad(ours, every))(*given)
    assert got[1][0].dtype == dtype
    atol = 0.1 if dtype == jnp.bfloat16 else 2e-3 if mean else 2e-5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=atol, atol=atol), got, wanted
    )


@pytest.mark.parametrize("of_params", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("of_ports", [jnp.float32, jnp.bfloat16])
def test_group_norm_takes_and_gives_every_argument_in_its_own_type(of_params, of_ports):
    x, params, ports = norm_case(adaptive=True)
    typed = [x, *(a.astype(of_params) for a in params.values()), *(a.astype(of_ports) for a in ports)]
    gradient = jax.jit(jax.grad(lambda *a: jnp.square(normalised(*a, 3, 1e-5, True)).sum(), (0, 1, 2, 3, 4)))
    got, wanted = gradient(*typed), gradient(*(a.astype(jnp.float32) for a in typed))
    assert [a.dtype for a in got] == [a.dtype for a in typed]
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0.01, atol=1e-5)


def test_group_norm_is_itself_where_numbers_are_float64():
    x, params, ports = norm_case(adaptive=True)
    wanted = NORM.apply({"params": params}, x, *ports)
    with in_float64():
        np.testing.assert_array_equal(NORM.apply({"params": params}, x, *ports), wanted)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_doubled_convolution_is_that_of_the_repeated_pixels(dtype):
    x, kernel, probe = (
        jnp.asarray(RNG.normal(size=shape), dtype) for shape in ((2, 3, 4, 5), (3, 3, 5, 6), (2, 6, 8, 6))
    )
    about = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def repeated(x, kernel):
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **about)

    def doubled(x, kernel):
        return doubled_convolution(x, kernel, (1, 1), "SAME", **about)

    def answer(f):
        return jax.jit(lambda x, kernel: (f(x, kernel), jax.grad(lambda *a: (f(*a) * probe).sum(), (0, 1))(x, kernel)))

    tolerance = 1e-5 if dtype == jnp.float32 else 0.1
    same = lambda a, b: np.testing.assert_allclose(  # noqa: E731
        np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=5 * tolerance
    )
    jax.tree.map(same, answer(doubled)(x, kernel), answer(repeated)(x, kernel))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("ours", "theirs", "about"),
    [
        (Dense, nn.Dense, dict()),
        (Conv, nn.Conv, dict(kernel_size=(1, 1))),
        (Conv, nn.Conv, dict(kernel_size=(1, 1), strides=2)),
    ],
)
def test_products_of_dense_layers_and_of_pixels_are_linen_s(ours, theirs, about, dtype):
    x = jnp.asarray(RNG.normal(size=(2, 3, 4, 5)), dtype)
    ours, theirs = (layer(6, dtype=dtype, **about) for layer in (ours, theirs))
    params = theirs.init(jax.random.key(0), x)
    probe = jnp.asarray(RNG.normal(size=theirs.apply(params, x).shape), dtype)
    answer = lambda net: lambda p, x: (net.apply(p, x) * probe).sum()  # noqa: E731
    found = [jax.jit(jax.value_and_grad(answer(net), (0, 1)))(params, x) for net in (ours, theirs)]
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    found = jax.tree.map(lambda a: np.asarray(a, np.float32), found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), *found)


@pytest.mark.parametrize("shape", [(2, 64), (3, 5), (1, 1), (4, 24)])
def test_what_is_held_is_the_same_to_the_bit(shape):
    a, b = jnp.asarray(RNG.normal(0, 1e6, shape), jnp.float32), jnp.full(shape, 1e-30)
    for got, wanted in zip(jax.jit(held)(a, b), (a, b), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("c", [1, 6, 8, 16, 24])
def test_what_is_not_finite_stays_with_its_image(c):
    (got,) = jax.jit(held)(jnp.ones((3, c)).at[1, 0].set(jnp.nan))
    np.testing.assert_array_equal(np.isnan(got).any(axis=1), [False, True, False])


def test_what_is_held_is_not_computed_once_a_pixel():
    """The loop over pixels reads the root that XLA would otherwise take at each of them."""

    def answer(x, small, hold):
        (factor,) = held(jnp.sqrt(small) + 1.0) if hold else (jnp.sqrt(small) + 1.0,)
        return x * factor[:, None, None, :]

    x, small = jnp.ones((2, 8, 8, 16)), jnp.ones((2, 16))
    texts = [jax.jit(answer, static_argnums=2).lower(x, small, hold).compile().as_text() for hold in (False, True)]
    assert ["dot" in text or "ynn" in text for text in texts] == [False, True]
