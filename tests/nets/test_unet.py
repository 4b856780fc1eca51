import jax
import jax.numpy as jnp
import pytest

from diffusion.nets.conditions import label
from diffusion.nets.model import make_net
from diffusion.nets.unet import unet
from diffusion.state import count_parameters
from tests.nets.tiny_nets import C_NOISE, NO_PORTS, PORTS, X

TINY = dict(channels=8, groups=2, heads=2, mults=(1,), attention=())


def shapes(backbone, x=X, ports=NO_PORTS):
    return jax.eval_shape(backbone.init, jax.random.key(0), x, C_NOISE, ports)["params"]


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


def test_the_sequence_is_seen_without_self_attention_too():
    backbone = unet(4, 3, jnp.float32, **TINY)
    assert "cross" in shapes(backbone, ports=PORTS)["middle0_attention"]
    assert "middle0_attention" not in shapes(backbone)


def test_the_grid_adds_input_channels():
    backbone = unet(4, 3, jnp.float32, **TINY)
    assert shapes(backbone)["in"]["kernel"].shape == (3, 3, 3, 8)
    assert shapes(backbone, ports=PORTS)["in"]["kernel"].shape == (3, 3, 3 + 2, 8)


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
