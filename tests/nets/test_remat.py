"""What remat keeps and what it computes again, in every backbone, from their gradients as JAX writes them down."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from diffusion.flops import flops
from diffusion.nets.remat import REMATS
from tests.nets.tiny_nets import C_NOISE, PORTS, X, shapes, tiny

KINDS = ("unet, ddpmpp", "edm2", "dit")  # with attention, which alone is computed again with dots


def loss_of(kind, remat):
    backbone = tiny(kind, remat=remat)
    return lambda params: jnp.square(backbone.apply({"params": params}, X, C_NOISE, PORTS)).sum(), shapes(backbone)


def kept(loss, params) -> int:
    """Bytes from the forward pass to the backward one, without the weights."""
    jaxpr = jax.make_jaxpr(lambda params: jax.vjp(loss, params)[1])(params).jaxpr
    found = {v for v in jaxpr.outvars if not hasattr(v, "val")} - {*jaxpr.invars, *jaxpr.constvars}
    return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in found)


@functools.cache
def figures(kind):
    """{remat: (bytes kept, FLOPs of the gradient)}."""
    losses = {remat: loss_of(kind, remat) for remat in REMATS}
    return {remat: (kept(*of), flops(jax.grad(of[0]), of[1])) for remat, of in losses.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_less_is_kept(kind):
    found = {remat: of[0] for remat, of in figures(kind).items()}
    assert found["blocks"] < 0.8 * found["dots"] and found["dots"] < 0.8 * found["none"]


@pytest.mark.parametrize("kind", KINDS)
def test_more_is_computed(kind):
    found = {remat: of[1] for remat, of in figures(kind).items()}
    assert found["none"] < found["dots"] < found["blocks"] <= 4 / 3 * found["none"]
    assert found["dots"] - found["none"] < 0.2 * (found["blocks"] - found["none"]), "attention's products alone"
