"""Magnitude-preserving layers against plain formulas in float64, and what they promise about sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.nets.edm2_unet import edm2
from diffusion.nets.magnitude_preserving import (
    MPAttention,
    MPConv,
    fourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise,
)
from diffusion.nets.model import make_net
from diffusion.types import Ports

RNG = np.random.default_rng(0)


def f32(*shape, sd=1.0):
    return jnp.asarray(RNG.normal(0, sd, shape), jnp.float32)


def rms(a):
    return np.sqrt(np.mean(np.square(np.asarray(a, np.float64))))


def normalise64(x, axes):
    x = np.asarray(x, np.float64)
    return x / (1e-4 + np.sqrt(np.square(x).mean(axes, keepdims=True)))


@pytest.mark.parametrize("axes", [(-1,), (0, 1), (0, 1, 2)])
def test_normalise_is_the_formula(axes):
    x = f32(4, 5, 6, sd=7.0)
    np.testing.assert_allclose(normalise(x, axes), normalise64(x, axes), rtol=1e-5, atol=1e-6)
    assert normalise(x.astype(jnp.bfloat16), axes).dtype == jnp.bfloat16


def test_zeros_stay_zeros_with_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda x: normalise(x, (-1,)).sum())(jnp.zeros((2, 3)))
    assert value == 0 and jnp.isfinite(gradient).all()


def test_silu_is_divided_by_its_size_under_a_unit_normal():
    x = np.linspace(-12, 12, 100_001)
    density = np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)
    size = np.sqrt(np.sum(np.square(x / (1 + np.exp(-x))) * density) * (x[1] - x[0]))
    assert abs(size - 0.596) < 1e-3
    probe = np.linspace(-4, 4, 9)
    np.testing.assert_allclose(mp_silu(jnp.float32(probe)), probe / (1 + np.exp(-probe)) / 0.596, rtol=1e-5)


@pytest.mark.parametrize("t", [0.3, 0.5])
def test_sum_and_cat_are_the_formulas(t):
    a, b = f32(2, 3, 4), f32(2, 3, 4)
    wanted = ((1 - t) * np.float64(a) + t * np.float64(b)) / np.sqrt((1 - t) ** 2 + t**2)
    np.testing.assert_allclose(mp_sum(a, b, t), wanted, rtol=1e-5, atol=1e-6)
    long, short = f32(5000, 24), f32(5000, 8)
    both = np.asarray(mp_cat(long, short, t))
    assert abs(rms(both) - 1) < 0.02
    sizes = [np.square(part).sum() for part in (both[:, :24], both[:, 24:])]
    assert sizes[1] / sizes[0] == pytest.approx((t / (1 - t)) ** 2, rel=0.03)
    np.testing.assert_allclose(both[:, :24] / both[0, 0] * long[0, 0], long, rtol=1e-4)


def test_fourier_features_are_the_formula_and_of_unit_size():
    from statistics import NormalDist

    c_noise = np.linspace(-1.6, 1.1, 50)  # ln(sigma) / 4 from .002 to 80
    i = np.arange(64)
    f = np.array([NormalDist().inv_cdf((k + 0.5) / 64) for k in i])
    p = (i + 1) * (np.sqrt(5) - 1) / 2 % 1
    got = fourier(jnp.float32(c_noise), 64)
    np.testing.assert_allclose(got, np.sqrt(2) * np.cos(2 * np.pi * (c_noise[:, None] * f + p)), atol=1e-4)
    assert np.abs(np.sqrt(np.square(np.asarray(got)).mean(1)) - 1).max() < 0.2
    assert abs(rms(got) - 1) < 0.02


def conv64(kernel, x):
    """x [b h w c] with a normalised kernel [s s c d], zeros beyond the edges."""
    weight = normalise64(kernel, (0, 1, 2)) / np.sqrt(np.prod(kernel.shape[:3]))
    side, pad = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    h, w = x.shape[1:3]
    return sum(padded[:, i : i + h, j : j + w] @ weight[i, j] for i in range(side) for j in range(side))


@pytest.mark.parametrize("side", [0, 1, 3])
def test_conv_is_the_formula_whatever_the_size_of_its_kernel(side):
    x, kernel = f32(2, 4, 5, 6), f32(*(side, side) * (side > 0), 6, 7, sd=3.0)
    layer = MPConv(7, side)
    wanted = conv64(np.asarray(kernel).reshape(max(side, 1), max(side, 1), 6, 7), x)
    for scale in (1.0, 50.0):
        got = layer.apply({"params": {"kernel": scale * kernel}}, x)
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layer.apply({"params": {"kernel": kernel}}, x, 0.5), 0.5 * wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [0, 1, 3])
def test_a_conv_keeps_unit_variance_and_its_gradient_turns_the_kernel(side):
    x, kernel = f32(4, 16, 16, 32), f32(*(side, side) * (side > 0), 32, 64)
    probe = f32(4, 16, 16, 64)
    inner = (slice(None), slice(1, -1), slice(1, -1))  # away from the zeros beyond the edges

    @jax.jit
    def size_and_gradient(kernel, x, probe):  # constants would be folded by XLA: wrongly on JAX 0.7.2
        answer = lambda kernel: MPConv(64, side).apply({"params": {"kernel": kernel}}, x)  # noqa: E731
        return answer(kernel)[inner], jax.grad(lambda k: jnp.sum(probe * answer(k)))(kernel)

    out, gradient = size_and_gradient(kernel, x, probe)
    assert abs(rms(out) - 1) < 0.05
    axes = tuple(range(kernel.ndim - 1))
    along = np.abs(np.sum(np.asarray(kernel * gradient), axes))
    assert along.max() < 1e-3 * np.sqrt(np.sum(np.square(kernel), axes) * np.sum(np.square(gradient), axes)).min()


HEADS, X, CONTEXT = 2, f32(2, 5, 8), f32(2, 3, 6, sd=4.0)
VALID = jnp.asarray([[True, False, True], [False, True, False]])
ATTENTION = MPAttention(heads=HEADS)
attend = jax.jit(ATTENTION.apply)


def attention_params(e):
    return {name: {"kernel": f32(d, 8)} for name, d in (("query", 8), ("key", e), ("value", e), ("out", 8))}


def attention64(params, x, source, valid):
    dense = lambda name, a: a @ (normalise64(params[name]["kernel"], (0,)) / np.sqrt(a.shape[-1]))  # noqa: E731
    head = lambda name, a: normalise64(dense(name, a).reshape(*a.shape[:2], HEADS, -1), (-1,))  # noqa: E731
    q, k, v = head("query", x), head("key", source), head("value", source)
    logits = np.einsum("blnd,bmnd->bnlm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits) * valid[:, None, None, :]
    weights /= weights.sum(-1, keepdims=True)
    return dense("out", np.einsum("bnlm,bmnd->blnd", weights, v).reshape(x.shape))


def test_attention_is_the_formula():
    x, params = np.float64(X), attention_params(8)
    wanted = attention64(params, x, x, np.ones((2, 5), bool))
    np.testing.assert_allclose(attend({"params": params}, X), wanted, rtol=1e-4, atol=1e-5)
    params = attention_params(6)
    wanted = attention64(params, x, normalise64(CONTEXT, (-1,)), np.asarray(VALID))
    np.testing.assert_allclose(attend({"params": params}, X, CONTEXT, VALID), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [0.0, 1e4, np.nan])
def test_masked_tokens_change_nothing(hidden):
    params, changed = attention_params(6), jnp.where(VALID[..., None], CONTEXT, hidden)

    @jax.jit
    def value_and_gradient(context):
        loss = lambda context: jnp.sum(jnp.square(ATTENTION.apply({"params": params}, X, context, VALID)))  # noqa: E731
        return jax.value_and_grad(loss)(context)

    wanted, got = value_and_gradient(CONTEXT), value_and_gradient(changed)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert not got[1][~VALID].any() and np.abs(got[1][VALID]).min() > 0


def test_with_no_valid_token_the_answer_is_zero():
    assert not attend({"params": attention_params(6)}, X, CONTEXT, jnp.zeros((2, 3), bool)).any()


def test_every_block_of_a_fresh_net_answers_with_unit_size():
    backbone = edm2(32, 3, jnp.float32, channels=32, mults=(1, 2), blocks=1, head_width=16)
    net = make_net(backbone, {}, (32, 32, 3), {})
    x, c_noise = f32(4, 32, 32, 3), jnp.asarray([-1.5, -0.5, 0.2, 1.0])

    @jax.jit
    def sizes(key):
        params = {"params": net.init(key)["backbone"]}
        answer, seen = backbone.apply(params, x, c_noise, Ports(), capture_intermediates=True)
        seen = {name: found["__call__"][0] for name, found in seen["intermediates"].items() if name != "__call__"}
        return answer, {name: jnp.sqrt(jnp.square(a).mean()) for name, a in seen.items() if name != "out"}

    answer, found = sizes(jax.random.key(0))
    assert not answer.any(), "the gain at the output starts at 0"
    blocks = ["down0_0", "down0_half", "down1_0", "middle0", "middle1", "up1_0", "up1_double", "up0_1"]
    assert {*blocks, "in", "noise"} <= set(found)
    for name, size in found.items():  # zeros beyond the edges and the averages that attention takes lose a little
        assert 0.75 < size < 1.1, (name, size)
