"""Keywords that make a small encoder and context of every row, and a few sets; a row without them fails its tests."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffusion.nets.conditions import SetCondition, set_condition
from diffusion.nets.contexts import CONTEXTS
from diffusion.nets.set_encoders import SET_ENCODERS
from diffusion.types import ImageSet
from tests.nets.tiny_nets import stirred

_VIT = dict(patch=2, width=6, depth=2, heads=2, head_width=4, mlp=5)
TINY_ENCODERS = {
    "unet": dict(channels=4, mults=(1, 2), blocks=1, groups=2, d=6),
    "vit": _VIT,
    "vit_set": _VIT,
}
POOLS = {
    "unet": ("mean", "mean_patch"),
    "vit": ("cls", "mean", "sum", "mean_patch", "sum_patch", "all"),
    "vit_set": ("cls", "mean", "sum", "mean_patch"),
}
ENCODERS = [(name, pool, False) for name in SET_ENCODERS for pool in POOLS[name]]
ENCODERS.append(("vit", "mean_patch", True))
TINY_CONTEXTS = {
    "deterministic": {},
    "gaussian": dict(weight=0.1),
    "discrete": dict(codes=4, groups=2, weight=0.1),
}

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(3, 4, 4, 4, 3)), jnp.float32)
VALID = jnp.asarray([[True, True, True, True], [True, False, True, True], [False, False, True, False]])
C_NOISE = jnp.asarray([3.0, 40.0, 700.0])
KEYS = jax.random.split(jax.random.key(5), 3)
SETS = ImageSet(IMAGES, VALID, KEYS)


def encoder(name: str, pool: str = "mean_patch", timed: bool = False) -> nn.Module:
    """One of ENCODERS; ``timed`` has a time token."""
    more = dict(time_token=True) if timed else {}
    return SET_ENCODERS[name](4, **TINY_ENCODERS[name], pool=pool, **more)


def context(name: str, d: int = 6, **more) -> nn.Module:
    return CONTEXTS[name](d, **TINY_CONTEXTS[name] | more)


def condition(encoder_name: str, context_name: str, inject: str) -> SetCondition:
    pool = "cls" if encoder_name == "vit_set" else "mean_patch"
    return set_condition(encoder(encoder_name, pool), context(context_name), inject=inject)


def params_of(module: nn.Module, *given) -> dict:
    """{"params": …} of which none is 0, for a module that is called with ``given``."""
    return {"params": stirred(jax.eval_shape(module.init, jax.random.key(0), *given)["params"])}
