"""LPIPS: how far apart two images look, from the maps of a network that classifies (Zhang et al. 2018, v0.1)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.types import Params

EXACT = jax.lax.Precision.HIGHEST  # distances must not move with the hardware's fast matmul
# Of x in [-1, 1]: ImageNet's mean and standard deviation, rounded as in the paper's code.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to a vector's length


class Conv(NamedTuple):
    """A convolution and ReLU; ``index`` is its place in torchvision's ``features``, ``tap`` whether it is compared."""

    index: int
    width: int
    kernel: int = 3
    stride: int = 1
    pad: int = 1
    tap: bool = False


class Pool(NamedTuple):
    """A max pool of stride 2 without padding: what does not fill a window is left out."""

    window: int


ALEX = (
    Conv(0, 64, 11, 4, 2, tap=True),
    Pool(3),
    Conv(3, 192, 5, 1, 2, tap=True),
    Pool(3),
    Conv(6, 384, tap=True),
    Conv(8, 256, tap=True),
    Conv(10, 256, tap=True),
)
VGG = (
    *(Conv(0, 64), Conv(2, 64, tap=True), Pool(2)),
    *(Conv(5, 128), Conv(7, 128, tap=True), Pool(2)),
    *(Conv(10, 256), Conv(12, 256), Conv(14, 256, tap=True), Pool(2)),
    *(Conv(17, 512), Conv(19, 512), Conv(21, 512, tap=True), Pool(2)),
    *(Conv(24, 512), Conv(26, 512), Conv(28, 512, tap=True)),
)
TRUNKS = {"alex": ALEX, "vgg": VGG}
LEAST = {"alex": 31, "vgg": 16}  # side of the smallest image of which every map has a pixel


class Lpips(nn.Module):
    """The distance of image pairs.

    Attributes:
      net: a row of TRUNKS.
    """

    net: str

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns f32[n] >= 0 for x and y f32[n h w 3] in [-1, 1].

        Raises:
          ValueError: an image smaller than LEAST.
        """
        if min(x.shape[1:3]) < LEAST[self.net]:
            least, (height, width) = LEAST[self.net], x.shape[1:3]
            raise ValueError(f"LPIPS ({self.net}) needs images of at least {least} x {least}; got {height} x {width}")
        maps = self._maps(scaled(jnp.concatenate([x, y])))
        heads = [self.param(f"head_{i}", nn.initializers.ones, layer.shape[-1:]) for i, layer in enumerate(maps)]
        return distance([layer[: len(x)] for layer in maps], [layer[len(x) :] for layer in maps], heads)

    def _maps(self, x: jax.Array) -> list[jax.Array]:
        """The maps that are compared, f32[n h w c] each."""
        found = []
        for layer in TRUNKS[self.net]:
            if isinstance(layer, Pool):
                x = nn.max_pool(x, (layer.window,) * 2, strides=(2, 2), padding="VALID")
                continue
            conv = nn.Conv(
                *(layer.width, (layer.kernel,) * 2),
                strides=layer.stride,
                padding=layer.pad,
                precision=EXACT,
                name=f"features_{layer.index}",
            )
            x = nn.relu(conv(x))
            if layer.tap:
                found.append(x)
        return found


def distance(x: Sequence[jax.Array], y: Sequence[jax.Array], heads: Sequence[jax.Array]) -> jax.Array:
    """Sum over layers of the spatial mean of w . (x / |x| - y / |y|)^2: f32[n]. Zhang et al. 2018, eq. 1.

    Args:
      x, y: the maps of each layer, f32[n h w c].
      heads: the w >= 0 of each layer, f32[c]; ones give twice the cosine distance.
    """
    total = jnp.zeros(len(x[0]))
    for a, b, w in zip(x, y, heads, strict=True):
        apart = jnp.einsum("nhwc,c->nhw", (_unit(a) - _unit(b)) ** 2, w, precision=EXACT)
        total += apart.mean(axis=(1, 2))
    return total


def scaled(x: jax.Array) -> jax.Array:
    """Images in [-1, 1] as the trunks take them."""
    shift, scale = (jnp.array(numbers).reshape(1, 1, 1, 3) for numbers in (SHIFT, SCALE))
    return (x - shift) / scale


def trunk_shapes(net: str) -> dict[str, tuple[int, ...]]:
    """The tensors of torchvision's file that are read: kernels [out in k k] and biases [out]."""
    shapes, width = {}, 3
    for layer in TRUNKS[net]:
        if isinstance(layer, Conv):
            shapes[f"features.{layer.index}.weight"] = (layer.width, width, layer.kernel, layer.kernel)
            shapes[f"features.{layer.index}.bias"] = (layer.width,)
            width = layer.width
    return shapes


def head_shapes(net: str) -> dict[str, tuple[int, ...]]:
    """The tensors of the heads' file."""
    taps = [layer.width for layer in TRUNKS[net] if isinstance(layer, Conv) and layer.tap]
    return {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(taps)}


def params(net: str, trunk: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]) -> Params:
    """Published tensors, f32, by the names of ``trunk_shapes`` and ``head_shapes``, as ``Lpips``' own."""
    tree = {
        f"features_{layer.index}": {
            "kernel": np.asarray(trunk[f"features.{layer.index}.weight"], np.float32).transpose(2, 3, 1, 0),
            "bias": np.asarray(trunk[f"features.{layer.index}.bias"], np.float32),
        }
        for layer in TRUNKS[net]
        if isinstance(layer, Conv)
    }
    return tree | {f"head_{i}": np.asarray(heads[name], np.float32).ravel() for i, name in enumerate(head_shapes(net))}


def _unit(x: jax.Array) -> jax.Array:
    """Vectors over channels, of length 1 (0 stays 0)."""
    return x / (jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True)) + EPSILON)
