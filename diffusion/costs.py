"""FLOPs of what a program computes, by formula from shapes: a multiply and an add are two."""

import jax
import jax.numpy as jnp

from diffusion.flops import flops
from diffusion.program import Program
from diffusion.types import Cond, Params

BACKWARD = 2  # a backward pass costs two forward ones, or up to 0.3 % less: the first layer passes nothing on


def of_training(program: Program, params: Params) -> int:
    """One training image: encoded, with the set that it is drawn from, by the codec's frozen weights (unless it was
    before, `data.encodings`), then forward and backward through the net. What remat computes again is no work done, and
    not counted.

    Args:
      params: arrays or shapes, here and below.
    """
    sets, codec = program.loading.sets, program.diffusion.codec
    image = jax.ShapeDtypeStruct((1, *program.transform.shape), jnp.float32 if codec.latent else jnp.uint8)
    images = 0 if program.loading.encodings else 1 + (sets.places if sets else 0)
    encoded = images * flops(codec.encode, codec.frozen, image)
    return encoded + (1 + BACKWARD) * _of_net(program, params, program.diffusion.net.example)


def of_drawing(program: Program, params: Params, calls: int) -> int:
    """One image for which a sampler calls the net ``calls`` times, decoded. Conditions are encoded once."""
    net, codec = program.diffusion.net, program.diffusion.codec
    ready, _ = jax.eval_shape(net.encode, params, dict(net.example), None)
    whole, of_call = (_of_net(program, params, cond) for cond in (net.example, ready))
    decoded = flops(codec.decode, codec.frozen, jax.ShapeDtypeStruct((1, *net.shape), jnp.float32))
    return whole - of_call + of_call * calls + decoded


def of_step(program: Program, params: Params) -> int:
    """The batch, without the rows that only fill it; norms, optimiser and averages are not counted."""
    return of_training(program, params) * program.loading.batch_size


def _of_net(program: Program, params: Params, cond: Cond) -> int:
    """One image, forward."""
    net = program.diffusion.net
    x = jax.ShapeDtypeStruct((1, *net.shape), jnp.float32)
    c_noise = jax.ShapeDtypeStruct((1,), jnp.float32)
    null = {name: jax.ShapeDtypeStruct((1,), bool) for name in net.conditions}
    return flops(net.apply, params, x, c_noise, cond, null)
