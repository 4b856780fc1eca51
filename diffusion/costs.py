"""FLOPs of what a program computes, by formula from shapes: a multiply and an add are two."""

import jax
import jax.numpy as jnp

from diffusion.flops import flops
from diffusion.program import Program
from diffusion.types import Params

BACKWARD = 2  # a backward pass costs two forward ones, or up to 0.3 % less: the first layer passes nothing on


def of_training(program: Program) -> int:
    """One training image: encoded, with the set that it is drawn from, by the codec's frozen weights (unless it was
    before, `data.encodings`), then forward and backward through the net. What remat computes again is no work done, and
    not counted.
    """
    sets, codec = program.loading.sets, program.diffusion.codec
    image = jax.ShapeDtypeStruct((1, *program.transform.shape), jnp.float32 if codec.latent else jnp.uint8)
    images = 0 if program.loading.encodings else 1 + (sets.places if sets else 0)
    encoded = images * flops(codec.encode, codec.frozen, image)
    return encoded + (1 + BACKWARD) * _of_net(program)


def of_drawing(program: Program, params: Params, calls: int) -> int:
    """One image for which a sampler calls the net ``calls`` times, decoded. Conditions are encoded once.

    Args:
      params: arrays or shapes.
    """
    net, codec = program.diffusion.net, program.diffusion.codec
    whole = _of_net(program)
    encoded = flops(lambda params, cond: net.encode(params, cond, None)[0], params, dict(net.example))
    decoded = flops(codec.decode, codec.frozen, jax.ShapeDtypeStruct((1, *net.shape), jnp.float32))
    return encoded + (whole - encoded) * calls + decoded


def of_step(program: Program) -> int:
    """The batch, without the rows that only fill it; norms, optimiser and averages are not counted."""
    return of_training(program) * program.loading.batch_size


def _of_net(program: Program) -> int:
    """One image, forward; from the trace that gave the shapes of the weights."""
    return flops(program.diffusion.net.init_with_output, jax.eval_shape(lambda: jax.random.key(0)))
