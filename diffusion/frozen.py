"""Weights that are used and never trained, put on the devices once for all steps of a program."""

import functools

from diffusion.mesh import put_replicated
from diffusion.program import Program
from diffusion.types import Frozen


@functools.cache
def codec_weights(program: Program) -> Frozen:
    return put_replicated(program.mesh, program.diffusion.codec.frozen)
