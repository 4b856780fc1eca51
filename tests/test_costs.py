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


@pytest.mark.parametrize("name", NETS)
def test_a_backward_pass_costs_two_forward_ones(tmp_path, name):
    """Less what the first layer does not pass on, which is little: 0.3 % of digits' U-Net, 0.001 % of DiT-XL/2."""
    p = program(tmp_path, **NETS[name])
    params, net = abstract_params(p), p.diffusion.net
    x, c_noise = jnp.zeros((1, *net.shape)), jnp.zeros(1)
    null = {condition: jnp.zeros(1, bool) for condition in net.conditions}
    gradient = jax.grad(lambda params: net.apply(params, x, c_noise, net.example, null).sum())
    assert 0.97 < flops(gradient, params) / costs.of_training(p, params) <= 1


def test_frozen_weights_of_a_codec_count_forward_alone(tmp_path):
    p = program(tmp_path)
    params = abstract_params(p)
    rows = lambda frozen, x: jnp.einsum("bhwc,wv->bhvc", x.astype(jnp.float32), frozen)  # noqa: E731
    codec = replace(p.diffusion.codec, encode=rows, decode=rows, frozen=jnp.zeros((8, 8)))
    coded = replace(p, diffusion=replace(p.diffusion, codec=codec))
    product = 2 * 8 * 8 * 8
    assert costs.of_training(coded, params) == costs.of_training(p, params) + product
    assert costs.of_drawing(coded, params, 4) == costs.of_drawing(p, params, 4) + product
