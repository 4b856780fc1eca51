"""Keywords that make a small net of every backbone, for images of 4 x 4; a row without them fails its tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion.nets.backbones import NETS
from diffusion.types import Ports

_EDM2 = dict(channels=8, mults=(1, 2), blocks=1, attention=(), head_width=4)
_DIT = dict(d=8, depth=2, heads=2, patch=2)
TINY = {
    "unet": dict(channels=8, groups=2, heads=2, mults=(1,), attention=()),
    "edm2": _EDM2,
    "dit": _DIT,
    "jit_b_16": _DIT | dict(patch_width=5, context_tokens=2, context_from=1),
}
SIZES = {
    "unet_cifar",
    "adm_64",
    "edm2_xs",
    "edm2_s",
    "dit_s_2",
    "dit_b_2",
    "dit_l_2",
    "dit_xl_2",
}  # rows that are another one's tiny net
_DDPMPP = dict(
    channels=8,
    mults=(1, 2),
    blocks=1,
    attention=(),
    middle="attention",
    head_width=4,
    groups=4,
    group_width=4,
    norm_eps=1e-6,
    resample="block",
    resample_filter=(1.0, 3.0, 3.0, 1.0),
    project_skip=True,
    skip_scale=0.5**0.5,
    adaptive=False,
    embedding="ddpmpp",
    vec="before",
)
MORE = {  # what no row has by default
    "unet, ddpmpp": ("unet", _DDPMPP),
    "dit, seq as context": ("dit", _DIT | dict(seq_as="context", context_tokens=1, norm="rms")),
    "dit, no scan": ("dit", _DIT | dict(positions="rotary", qk_norm=True, scan=False, remat="dots")),
    "dit, remat": ("dit", _DIT | dict(mlp="swiglu", remat="blocks", patch=1)),
}
SLOW = {"dit, no scan", "dit, remat"}  # whose parts test_dit.py holds one by one
KINDS = [
    pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else [])
    for kind in (*(name for name in NETS if name not in SIZES), *MORE)
]

RNG = np.random.default_rng(0)
X, C_NOISE = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32), jnp.asarray([3.0, 700.0])
PORTS = Ports(
    vec=jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32),
    seq=jnp.asarray(RNG.normal(size=(2, 3, 6)), jnp.float32),
    seq_valid=jnp.asarray([[True, True, False], [True, False, False]]),
    grid=jnp.asarray(RNG.normal(size=(2, 4, 4, 2)), jnp.float32),
)
NO_PORTS = Ports()


def tiny(kind: str, out_channels: int = 3, dtype=jnp.float32, **more) -> nn.Module:
    """A small net of a row of NETS or of MORE."""
    name, keywords = MORE[kind] if kind in MORE else (kind, TINY[kind])
    return NETS[name](4, out_channels, dtype, **keywords | more)


@functools.cache
def shapes(backbone: nn.Module, ports: bool = True):
    given = X, C_NOISE, PORTS if ports else NO_PORTS
    return jax.eval_shape(backbone.init, jax.random.key(0), *given)["params"]


def stirred(declared, seed: int = 0):
    """Weights of which none is 0, zero-initialised layers included."""
    rng = np.random.default_rng(seed)
    deviation = lambda a: 0.5 / np.sqrt(max(np.prod(a.shape[-2:-1]), 1))  # noqa: E731
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, deviation(a), a.shape), jnp.float32), declared)
