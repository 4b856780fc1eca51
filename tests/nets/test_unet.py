import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.nets.conditions import label
from diffusion.nets.model import make_net
from diffusion.nets.unet import unet
from diffusion.state import count_parameters
from diffusion.types import Ports

RNG = np.random.default_rng(0)
TINY = dict(channels=8, groups=2, heads=2, mults=(1,), attention=())
X, C_NOISE = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32), jnp.asarray([3.0, 700.0])
PORTS = Ports(
    vec=jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32),
    seq=jnp.asarray(RNG.normal(size=(2, 3, 6)), jnp.float32),
    seq_valid=jnp.asarray([[True, True, False], [True, False, False]]),
    grid=jnp.asarray(RNG.normal(size=(2, 4, 4, 2)), jnp.float32),
)
NO_PORTS = Ports()


def shapes(backbone, x=X, ports=NO_PORTS):
    return jax.eval_shape(backbone.init, jax.random.key(0), x, C_NOISE, ports)["params"]


def stirred(backbone, ports):
    """Weights of which none is 0, zero-initialised layers included."""
    return jax.tree.map(
        lambda a: jnp.asarray(RNG.normal(0, 0.3 / np.sqrt(max(np.prod(a.shape[:-1]), 1)), a.shape), jnp.float32),
        shapes(backbone, ports=ports),
    )


def test_the_digits_net_has_772161_parameters():
    backbone = unet(8, 1, jnp.float32, channels=32, mults=(1, 2), blocks=1, attention=(1,), heads=4, groups=8)
    net = make_net(backbone, {"label": label(10)}, (8, 8, 1), {"label": jnp.zeros(1, jnp.int32)})
    assert count_parameters(jax.eval_shape(net.init, jax.random.key(0))) == 772_161


@pytest.mark.parametrize("keywords", [TINY, TINY | dict(mults=(1, 2, 3), blocks=2, attention=(0, 2))])
@pytest.mark.parametrize("ports", [NO_PORTS, PORTS], ids=["no ports", "all ports"])
def test_output_shape(keywords, ports):
    backbone = unet(4, 5, jnp.float32, **keywords)
    params = shapes(backbone, ports=ports)
    out = jax.eval_shape(backbone.apply, {"params": params}, X, C_NOISE, ports)
    assert (out.shape, out.dtype) == ((2, 4, 4, 5), jnp.float32)


def test_a_fresh_net_answers_zero():
    backbone = unet(4, 3, jnp.float32, **TINY)
    answer = jax.jit(lambda key: backbone.apply(backbone.init(key, X, C_NOISE, PORTS), X, C_NOISE, PORTS))
    assert not answer(jax.random.key(0)).any()


def test_every_port_reaches_every_image_and_masked_tokens_reach_none():
    backbone = unet(4, 3, jnp.float32, **TINY)
    params, probe = stirred(backbone, PORTS), jnp.asarray(RNG.normal(size=X.shape), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(given):
        vec, seq, grid, c_noise, x = given
        ports = Ports(vec, seq, PORTS.seq_valid, grid)
        return jnp.sum(probe * backbone.apply({"params": params}, x, c_noise, ports))

    vec, seq, grid, c_noise, x = gradient((PORTS.vec, PORTS.seq, PORTS.grid, C_NOISE, X))
    for part in (vec, seq[PORTS.seq_valid], grid, c_noise, x):
        assert np.abs(part).min() > 1e-9
    assert not seq[~PORTS.seq_valid].any()


def test_the_sequence_is_seen_without_self_attention_too():
    backbone = unet(4, 3, jnp.float32, **TINY)
    assert "cross" in shapes(backbone, ports=PORTS)["middle0_attention"]
    assert "middle0_attention" not in shapes(backbone)


def test_the_grid_adds_input_channels():
    backbone = unet(4, 3, jnp.float32, **TINY)
    assert shapes(backbone)["in"]["kernel"].shape == (3, 3, 3, 8)
    assert shapes(backbone, ports=PORTS)["in"]["kernel"].shape == (3, 3, 3 + 2, 8)


def test_bfloat16_computes_nearly_the_same_from_float32_weights():
    half, full = (unet(4, 3, dtype, **TINY) for dtype in (jnp.bfloat16, jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(half, ports=PORTS))} == {jnp.dtype("float32")}
    params = stirred(full, PORTS)
    answers = [jax.jit(net.apply)({"params": params}, X, C_NOISE, PORTS) for net in (half, full)]
    assert answers[0].dtype == answers[1].dtype == jnp.float32
    assert not np.array_equal(*answers)
    np.testing.assert_allclose(*answers, rtol=0, atol=2e-2 * float(jnp.abs(answers[1]).max()))


def test_dropout_belongs_to_the_keys():
    backbone = unet(4, 3, jnp.float32, **TINY | dict(dropout=0.5))
    params, keys = stirred(backbone, NO_PORTS), jax.random.split(jax.random.key(0), 3)
    x, c_noise = jnp.stack([X[0]] * 2), C_NOISE[:1].repeat(2)
    first, second = (
        jax.jit(backbone.apply)({"params": params}, x, c_noise, NO_PORTS, keys[rows])
        for rows in (slice(0, 2), slice(2, None, -2))
    )
    np.testing.assert_allclose(first[0], second[1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(first[0], first[1], atol=1e-2)


@pytest.mark.parametrize(
    ("size", "keywords", "message"),
    [
        (8, dict(mults=()), r"mults is \(\); it must hold"),
        (8, dict(mults=(1, 0)), r"mults is \(1, 0\)"),
        (10, dict(mults=(1, 2, 3)), "mults has 3 levels: the image size must be divisible by 4; it is 10"),
        (8, dict(channels=20), r"channels is 20; .* 2 \* groups \(16\)"),
        (8, dict(channels=16, heads=3), r"channels is 16; it must be divisible by heads \(3\)"),
        (8, dict(channels=0), "channels 0, .*each must be 1 or more"),
        (8, dict(heads=0), "heads 0, "),
        (8, dict(groups=-8), "groups -8, "),
        (8, dict(blocks=0), "blocks 0: "),
        (8, dict(attention=(2,)), r"attention is \(2,\); the levels are \(0, 1\)"),
        (8, dict(dropout=1.0), r"dropout is 1.0; it must lie in \[0, 1\)"),
        (8, dict(dropout=-0.1), "dropout is -0.1"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(size, keywords, message):
    with pytest.raises(ValueError, match=message):
        unet(size, 1, jnp.float32, **keywords)
