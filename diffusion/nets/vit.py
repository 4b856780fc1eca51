"""The Vision Transformer (Dosovitskiy 2021) as CLIP and DINOv2 have it, and the blocks that CLIP's text tower shares.

All runs in float32 at full precision: features must not move with the hardware's fast matmul.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffusion.nets.layers import zeros
from diffusion.nets.stack import stacked
from diffusion.types import Array

EXACT = jax.lax.Precision.HIGHEST
Dense = partial(nn.Dense, kernel_init=zeros, precision=EXACT)

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # Hendrycks & Gimpel 2016, sec. 2
}


@dataclass(frozen=True)
class StackShape:
    """Equal pre-norm blocks.

    Attributes:
      width, depth, heads: features of a token, blocks, heads of a block.
      activation: of the MLP, a row of ``ACTIVATIONS``; its hidden layer is four times as wide.
      eps: of the norms.
      layer_scale: whether a learned scale multiplies what a branch adds (Touvron 2021).
    """

    width: int
    depth: int
    heads: int
    activation: str
    eps: float
    layer_scale: bool = False


@dataclass(frozen=True)
class VitShape:
    """A Vision Transformer with a class token and learned positions.

    Attributes:
      stack: its blocks.
      size: side of the square images it reads, in pixels.
      patch: side of a patch.
      table: side of the square of positions that the weights hold, in patches.
      pre_norm: a norm before the first block, and patches without a bias (CLIP).
      offset: see ``interpolation``; used where the image has another number of patches than the table.
    """

    stack: StackShape
    size: int
    patch: int
    table: int
    pre_norm: bool = False
    offset: float = 0.0


class Vit(nn.Module):
    """Images to the class token after the last norm."""

    shape: VitShape

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """x f32[b h w 3], normalised -> f32[b d]."""
        s, d = self.shape, self.shape.stack.width
        patches = nn.Conv(
            d,
            (s.patch, s.patch),
            strides=s.patch,
            padding="VALID",
            use_bias=not s.pre_norm,
            kernel_init=zeros,
            precision=EXACT,
            name="patches",
        )(x)
        first = self.param("class_token", zeros, (d,))
        positions = self.param("positions", zeros, (1 + s.table**2, d))
        b, h, w, _ = patches.shape
        tokens = jnp.concatenate([jnp.broadcast_to(first, (b, 1, d)), patches.reshape(b, h * w, d)], axis=1)
        tokens = tokens + positions_of(positions, (h, w), s.offset)[None]
        if s.pre_norm:
            tokens = layer_norm(s.stack.eps, "pre_norm")(tokens)
        tokens = blocks(s.stack, tokens, None)
        return layer_norm(s.stack.eps, "norm")(tokens[:, 0])


class Block(nn.Module):
    """Attention and an MLP, each after a norm and added to its input."""

    shape: StackShape

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> Array:
        """x [b l d] and which keys each query sees, bool[l l] or None for all -> [b l d]."""
        s = self.shape
        x = x + self._scaled("scale1", self._attention(layer_norm(s.eps, "norm1")(x), mask))
        h = Dense(4 * s.width, name="fc1")(layer_norm(s.eps, "norm2")(x))
        return x + self._scaled("scale2", Dense(s.width, name="fc2")(ACTIVATIONS[s.activation](h)))

    def _attention(self, x: Array, mask: Array | None) -> Array:
        b, l, d = x.shape
        n = self.shape.heads
        q, k, v = (Dense(d, name=name)(x).reshape(b, l, n, d // n) for name in ("query", "key", "value"))
        logits = jnp.einsum("blne,bmne->bnlm", q / math.sqrt(d // n), k, precision=EXACT)
        if mask is not None:
            logits = jnp.where(mask[None, None], logits, jnp.finfo(logits.dtype).min)
        out = jnp.einsum("bnlm,bmne->blne", jax.nn.softmax(logits, axis=-1), v, precision=EXACT)
        return Dense(d, name="out")(out.reshape(b, l, d))

    def _scaled(self, name: str, x: Array) -> Array:
        if not self.shape.layer_scale:
            return x
        return x * self.param(name, zeros, (x.shape[-1],))[None, None]


def blocks(shape: StackShape, x: Array, mask: Array | None) -> Array:
    """x [b l d] through all blocks, compiled once; to be called in a compact method."""
    return stacked(
        lambda name: Block(shape, name=name),
        x,
        lambda block, x, i: block(x, mask),
        layers=range(shape.depth),
        name="blocks",
        remat="none",
        scan=True,
    )


def layer_norm(eps: float, name: str) -> nn.LayerNorm:
    # the fast variance, E[x^2] - E[x]^2, cancels on tokens whose mean is far from 0
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, name=name)


def positions_of(table: Array, size: tuple[int, int], offset: float) -> Array:
    """The table [1+n*n d] for an image of h x w patches, [1+h*w d]; the class token's stays as it is."""
    n = math.isqrt(len(table) - 1)
    if size == (n, n):
        return table
    rows, columns = (jnp.asarray(interpolation(n, m, offset), jnp.float32) for m in size)
    square = table[1:].reshape(n, n, -1)
    found = jnp.einsum("hi,wj,ijd->hwd", rows, columns, square, precision=EXACT)
    return jnp.concatenate([table[:1], found.reshape(-1, table.shape[1])])


def interpolation(n: int, m: int, offset: float) -> np.ndarray:
    """Bicubic weights f64[m n] without antialias, as ``torch.nn.functional.interpolate`` (Keys 1981, a = -3/4).

    Args:
      offset: position i of the m lies at (i + 1/2) * n / (m + offset) - 1/2. DINOv2's own code has 0.1, so that the
        weights are stretched a little; Hugging Face's has 0.
    """
    at = (np.arange(m) + 0.5) * n / (m + offset) - 0.5
    first = np.floor(at).astype(int) - 1
    weights = np.zeros((m, n))
    for k in range(4):
        pixel = np.clip(first + k, 0, n - 1)
        np.add.at(weights, (np.arange(m), pixel), _keys(np.abs(at - (first + k))))
    return weights


def _keys(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, far)
