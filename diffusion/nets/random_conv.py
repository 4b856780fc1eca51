"""An autoencoder of random weights that undoes itself: orthonormal patches, then additive couplings."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.nets.checks import at_least
from diffusion.nets.patches import patched, unpatched
from diffusion.samplers import per_image_normal
from diffusion.types import Array

EXACT = jax.lax.Precision.HIGHEST  # in fewer bits, what is taken away again is not what was added


@dataclass(frozen=True)
class RandomConv:
    """Functions of frozen weights, for images (h, w, c); the other fields are those of `codec.random_conv`.

    A patch of factor x factor pixels is written in an orthonormal basis of its mean colours and random directions, of
    which the first ``channels`` are kept and mixed by a rotation: their mean square is that of the pixels where all are
    kept, and up to c factor^2 / channels times it where not. Each coupling adds to one half of the channels what two
    convolutions make of the other half (Dinh 2014, NICE), which can be subtracted again. ``scale`` comes last.
    """

    image: tuple[int, int, int]
    factor: int
    channels: int
    width: int
    depth: int
    scale: float
    deviation: float

    def __post_init__(self):
        height, width, c = self.image
        at_least(1, factor=self.factor, width=self.width)
        at_least(0, depth=self.depth, deviation=self.deviation)
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale}; it must be positive")
        if height % self.factor or width % self.factor:
            raise ValueError(f"factor is {self.factor}; it must divide the images' sides, {height}x{width}")
        most = c * self.factor**2
        if not c <= self.channels <= most or self.channels % 2:
            raise ValueError(f"channels is {self.channels}; of these images it must be even and in [{c}, {most}]")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h', w', c') of a latent."""
        height, width, _ = self.image
        return height // self.factor, width // self.factor, self.channels

    def weights(self, seed: int) -> dict[str, Any]:
        """Nested dict of f32 arrays. Raises ValueError for a seed below 0."""
        at_least(0, seed=seed)
        rng, half = np.random.default_rng(seed), self.channels // 2
        found: dict[str, Any] = {"patch": self._basis(rng)}
        for i in range(self.depth):
            inner = rng.normal(size=(3, 3, half, self.width)) * np.sqrt(2 / (9 * half))
            outer = rng.normal(size=(3, 3, self.width, half)) * np.sqrt(1 / (4 * 9 * self.width))
            found[f"coupling_{i}"] = {"inner": inner.astype(np.float32), "outer": outer.astype(np.float32)}
        if self.deviation:
            spread = rng.normal(size=(self.channels, self.channels)) / np.sqrt(self.channels)
            found["spread"] = spread.astype(np.float32)
        return found

    def encode(self, weights: Any, images: Array) -> Array:
        """f32[b h w c] in [-1, 1] -> f32[b h' w' c']; with a deviation [b h' w' 2c'], the mean and then the logarithm
        of the variance, within 2 of that of the deviation."""
        z = jnp.matmul(patched(images, self.factor), weights["patch"], precision=EXACT).reshape(-1, *self.shape)
        for coupling in self._couplings(weights):
            fixed, moved = jnp.split(z, 2, axis=-1)
            z = jnp.concatenate([moved + _net(coupling, fixed), fixed], axis=-1)
        z = z * self.scale
        if self.deviation:
            spread = jnp.tanh(jnp.matmul(z, weights["spread"], precision=EXACT))
            z = jnp.concatenate([z, 2 * (math.log(self.deviation) + spread)], axis=-1)
        return z

    def draw(self, moments: Array, keys: Array | None) -> Array:
        """[b h' w' 2c'] -> [b h' w' c']: one draw for each of keys [b], the mean without."""
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        if keys is None:
            return mean
        return mean + jnp.exp(log_variance / 2) * per_image_normal(keys, 0, mean.shape[1:])

    def decode(self, weights: Any, z: Array) -> Array:
        """f32[b h' w' c'] -> f32[b h w c]."""
        h, w, _ = self.shape
        z = z / self.scale
        for coupling in reversed(list(self._couplings(weights))):
            moved, fixed = jnp.split(z, 2, axis=-1)
            z = jnp.concatenate([fixed, moved - _net(coupling, fixed)], axis=-1)
        tokens = jnp.matmul(z.reshape(-1, h * w, self.channels), weights["patch"].T, precision=EXACT)
        return unpatched(tokens, h, w, self.factor)

    def _couplings(self, weights: Any) -> Iterator[Any]:
        return (weights[f"coupling_{i}"] for i in range(self.depth))

    def _basis(self, rng: np.random.Generator) -> np.ndarray:
        """f32[c factor^2, channels], orthonormal columns whose span holds the patch's mean colours."""
        c = self.image[2]
        means = np.tile(np.eye(c), (self.factor**2, 1))
        others = rng.normal(size=(len(means), len(means) - c))
        kept = np.linalg.qr(np.concatenate([means, others], axis=1))[0][:, : self.channels]
        rotation = np.linalg.qr(rng.normal(size=(self.channels, self.channels)))[0]
        return (kept @ rotation).astype(np.float32)


def _net(coupling: Any, x: Array) -> Array:
    """[b h w c] -> [b h w c], two convolutions."""
    return _conv(jax.nn.silu(_conv(x, coupling["inner"])), coupling["outer"])


def _conv(x: Array, kernel: Array) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, precision=EXACT)
