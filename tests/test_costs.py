"""FLOPs of a training image and of a drawn one, against those of the gradient itself."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from diffusion import costs
from diffusion.flops import flops
from diffusion.program import abstract_params
from tests.tiny import program

NETS = {
    "unet": {"net__unet__mults": (1, 2)},  # halved by a stride
    "dit": {"net__name": "dit", "net__dit__d": 32, "net__dit__heads": 2},
}
MORE = {
    "edm2": {"net__name": "edm2", "net__edm2__channels": 16, "net__edm2__mults": (1, 2)},
    "remat": NETS["dit"] | {"net__dit__remat": "blocks"},
    "a set": {"cond__names": "set", "context__encoder": "vit", "context__vit__width": 32, "context__vit__heads": 2},
}


@pytest.mark.parametrize("name", NETS)
def test_a_backward_pass_costs_two_forward_ones(tmp_path, name):
    """Less what the first layer does not pass on, which is little: 0.3 % of digits' U-Net, 0.001 % of DiT-XL/2."""
    p = program(tmp_path, **NETS[name])
    params, net = abstract_params(p), p.diffusion.net
    x, c_noise = jnp.zeros((1, *net.shape)), jnp.zeros(1)
    null = {condition: jnp.zeros(1, bool) for condition in net.conditions}
    gradient = jax.value_and_grad(lambda params: net.apply(params, x, c_noise, net.example, null).sum())
    assert 0.97 < flops(gradient, params) / costs.of_training(p) <= 1


@pytest.mark.parametrize("name", NETS | MORE)
def test_the_trace_of_the_initial_weights_has_the_products_of_a_call(tmp_path, name):
    """A scan makes a layer once more to see its shapes, which is no work."""
    p = program(tmp_path, **(NETS | MORE)[name])
    assert costs.of_training(p) == 3 * of_call(p, p.diffusion.net.example) > 0


def test_conditions_are_encoded_once_a_sample(tmp_path):
    p = program(tmp_path, **MORE["a set"])
    params, net = abstract_params(p), p.diffusion.net
    ready, _ = jax.eval_shape(net.encode, params, dict(net.example), None)
    more, whole = of_call(p, ready), of_call(p, net.example)
    assert [costs.of_drawing(p, params, calls) for calls in (1, 2, 5)] == [whole, whole + more, whole + 4 * more]
    assert 0 < more < whole


def of_call(p, cond):
    """One image, forward."""
    net = p.diffusion.net
    x, c_noise = jax.ShapeDtypeStruct((1, *net.shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    null = {name: jax.ShapeDtypeStruct((1,), bool) for name in net.conditions}
    return flops(net.apply, abstract_params(p), x, c_noise, cond, null)


def test_frozen_weights_of_a_codec_count_forward_alone(tmp_path):
    p = program(tmp_path)
    params = abstract_params(p)
    rows = lambda frozen, x: jnp.einsum("bhwc,wv->bhvc", x.astype(jnp.float32), frozen)  # noqa: E731
    codec = replace(p.diffusion.codec, encode=rows, decode=rows, frozen=jnp.zeros((8, 8)))
    coded = replace(p, diffusion=replace(p.diffusion, codec=codec))
    product = 2 * 8 * 8 * 8
    assert costs.of_training(coded) == costs.of_training(p) + product
    assert costs.of_drawing(coded, params, 4) == costs.of_drawing(p, params, 4) + product
