"""A transformer of image patches with adaLN-Zero (DiT, Peebles & Xie 2023), JiT's variants and the three ports."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.attention import IMPLEMENTATIONS, Attention
from diffusion.nets.checks import at_least, divides_the_image, one_of
from diffusion.nets.layers import Dense, dropout, fan_in, noise_embedding, zeros
from diffusion.nets.norms import NORMS
from diffusion.nets.patches import patched, unpatched
from diffusion.nets.positions import rotary, sincos
from diffusion.nets.remat import REMATS
from diffusion.nets.stack import stacked
from diffusion.types import Array, Ports

MLPS = ("gelu", "swiglu")
POSITIONS = ("sincos", "rotary", "both")
SEQ_AS = ("cross", "context")
FREQUENCIES = 256  # features of the noise embedding before its first layer


class Given(NamedTuple):
    """What every block sees beside its tokens.

    Attributes:
      emb: f32[b d], of the noise level and ``vec``.
      valid: bool[b l], which tokens are to be seen; None for all.
      rotations: of queries and keys by ``positions.rotary``, or None.
      seq: [b m e], tokens for cross-attention with their bool[b m], or None.
      keys: [b] for dropout, or None.
    """

    emb: Array
    valid: Array | None
    rotations: tuple[Array, Array] | None
    seq: Array | None
    seq_valid: Array | None
    keys: Array | None


class Block(nn.Module):
    """Attention, cross-attention where there is a ``seq``, MLP; the embedding scales, shifts and gates the two others.

    The gates start at 0, so a fresh block answers its input. Cross-attention has no gate: its output starts at 0
    (PixArt-alpha, Chen 2023).
    """

    heads: int
    mlp: str
    mlp_ratio: float
    norm: str
    qk_norm: bool
    attention: str
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, layer: Array, given: Given) -> Array:
        """x [b l d], layer i32[] its number among the blocks -> [b l d]."""
        attend = functools.partial(Attention, self.heads, self.dtype, self.qk_norm, self.attention)
        adaptive = Dense(6 * x.shape[-1], kernel_init=zeros, name="emb")(given.emb)
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(adaptive[:, None, :], 6, axis=-1)
        h = _modulated(x, self.norm, shift1, scale1)
        h = attend(out_init=fan_in, name="self")(h, None, given.valid, given.rotations)
        x = x + (h * gate1).astype(x.dtype)
        if given.seq is not None:
            x = x + attend(name="cross")(NORMS[self.norm](x), given.seq, given.seq_valid)
        h = _modulated(x, self.norm, shift2, scale2)
        h = Mlp(self.mlp, self.mlp_ratio, self.dropout, self.dtype, name="mlp")(h, layer, given.keys)
        return x + (h * gate2).astype(x.dtype)


class Mlp(nn.Module):
    """Widen, activate, drop, narrow. SwiGLU (Shazeer 2020) has two thirds of the width, so that it costs the same."""

    kind: str
    ratio: float
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, layer: Array, keys: Array | None) -> Array:
        """[b l d] -> [b l d]."""
        d = x.shape[-1]
        width = _mlp_width(self.kind, self.ratio, d)
        if self.kind == "swiglu":
            gate, h = jnp.split(Dense(2 * width, dtype=self.dtype, name="wide")(x), 2, axis=-1)
            h = nn.silu(gate) * h
        else:
            h = nn.gelu(Dense(width, dtype=self.dtype, name="wide")(x), approximate=True)
        return Dense(d, dtype=self.dtype, name="narrow")(dropout(h, keys, self.dropout, layer))


class DiT(nn.Module):
    """See ``dit`` for the fields."""

    out_channels: int
    dtype: Any
    block: Callable[..., Block]
    patch: int
    patch_width: int
    d: int
    depth: int
    heads: int
    norm: str
    positions: str
    context_tokens: int
    context_from: int
    seq_as: str
    remat: str
    scan: bool

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, ports: Ports, keys: Array | None = None) -> Array:
        """x [b h w c] (c_in applied), c_noise f32[b], keys [b] or None -> f32[b h w out_channels].

        h and w must be divisible by the patch.
        """
        if ports.grid is not None:
            x = jnp.concatenate([x, ports.grid.astype(x.dtype)], axis=-1)
        h, w = x.shape[1] // self.patch, x.shape[2] // self.patch
        vec = None if ports.vec is None else Dense(self.d, name="vec")(ports.vec)
        emb = self._embed(c_noise, vec)
        x = self._tokens(x, h, w)
        context, valid = self._context(x, vec, ports)
        cross = (ports.seq, ports.seq_valid) if self.seq_as == "cross" else (None, None)

        def blocks(x: Array, layers: range, valid: Array | None, name: str) -> Array:
            given = Given(emb, valid, self._rotations(x, h, w), *cross, keys)
            call = lambda block, x, layer: block(x, layer, given)  # noqa: E731
            return stacked(self.block, x, call, layers=layers, name=name, remat=self.remat, scan=self.scan)

        x = blocks(x, range(self.context_from), None, "early_blocks")
        x = jnp.concatenate([context, x], axis=1)
        x = blocks(x, range(self.context_from, self.depth), valid, "blocks")[:, context.shape[1] :]
        shift, scale = jnp.split(Dense(2 * self.d, kernel_init=zeros, name="out_emb")(emb)[:, None, :], 2, axis=-1)
        x = _modulated(x.astype(jnp.float32), self.norm, shift, scale)
        x = Dense(self.patch**2 * self.out_channels, kernel_init=zeros, name="out")(x)
        return unpatched(x, h, w, self.patch)

    def _embed(self, c_noise: Array, vec: Array | None) -> Array:
        emb = Dense(self.d, name="noise1")(noise_embedding(c_noise, FREQUENCIES))
        emb = Dense(self.d, name="noise2")(nn.silu(emb))
        return nn.silu(emb if vec is None else emb + vec)

    def _tokens(self, x: Array, h: int, w: int) -> Array:
        x = patched(x, self.patch)
        if self.patch_width:
            x = Dense(self.patch_width, use_bias=False, dtype=self.dtype, name="in_narrow")(x)
        x = Dense(self.d, dtype=self.dtype, name="in")(x)
        if self.positions != "rotary":
            x = x + sincos(h, w, self.d)[None].astype(x.dtype)
        return x

    def _context(self, x: Array, vec: Array | None, ports: Ports) -> tuple[Array, Array | None]:
        """Tokens [b m d] to stand before x [b l d], registers and then ``seq``; which of all are valid, bool[b m+l]."""
        b, l, d = x.shape
        tokens, valid = [jnp.zeros((b, 0, d), x.dtype)], None
        if self.context_tokens:
            declared = nn.initializers.constant(0.02)
            table = nn.Embed(self.context_tokens, d, embedding_init=declared, name="register")
            register = table(jnp.arange(self.context_tokens))[None] + (0.0 if vec is None else vec[:, None, :])
            tokens.append(jnp.broadcast_to(register, (b, self.context_tokens, d)).astype(x.dtype))
        if ports.seq is not None and self.seq_as == "context":
            seq = ports.seq
            if ports.seq_valid is not None:
                seq = jnp.where(ports.seq_valid[..., None], seq, 0.0)  # what is not valid may hold NaN
                ones = functools.partial(jnp.ones, dtype=bool)
                valid = jnp.concatenate([ones((b, self.context_tokens)), ports.seq_valid, ones((b, l))], axis=1)
            tokens.append(Dense(d, dtype=self.dtype, name="seq")(seq))
        return jnp.concatenate(tokens, axis=1), valid

    def _rotations(self, x: Array, h: int, w: int) -> tuple[Array, Array] | None:
        if self.positions == "sincos":
            return None
        return rotary(h, w, self.d // self.heads, before=x.shape[1] - h * w)


def _mlp_width(kind: str, ratio: float, d: int) -> int:
    return int(ratio * d * 2 / 3) if kind == "swiglu" else int(ratio * d)


def _modulated(x: Array, norm: str, shift: Array, scale: Array) -> Array:
    return (NORMS[norm](x.astype(jnp.float32)) * (1.0 + scale) + shift).astype(x.dtype)


def dit(
    size: int,
    out_channels: int,
    dtype: Any,
    *,
    patch: int = 2,
    patch_width: int = 0,
    d: int = 384,
    depth: int = 12,
    heads: int = 6,
    mlp: str = "gelu",
    mlp_ratio: float = 4.0,
    norm: str = "layer",
    qk_norm: bool = False,
    positions: str = "sincos",
    seq_as: str = "cross",
    context_tokens: int = 0,
    context_from: int = 0,
    dropout: float = 0.0,
    attention: str = "auto",
    remat: str = "none",
    scan: bool = True,
) -> DiT:
    """A transformer for square images of ``size`` pixels (or latents); the defaults are DiT-S/2.

    Args:
      patch: side of the squares of pixels that become tokens.
      patch_width: features between a patch and its token, a bottleneck (JiT, Li & He 2025); 0 for none.
      d: features of a token.
      depth: blocks.
      mlp: gelu, or swiglu with two thirds of the width.
      mlp_ratio: width of the MLP over d.
      norm: layer or rms; it has no weights of its own, the embedding scales and shifts.
      qk_norm: queries and keys are normalised and scaled per feature (SD3, Esser 2024; JiT).
      positions: sincos adds fixed features, rotary turns queries and keys, both does both (JiT).
      seq_as: the ``seq`` port is seen by cross-attention in every block (cross), or stands before the image's tokens
        as its own (context).
      context_tokens: learned tokens that stand there too, the mapped ``vec`` added to each (JiT: 32 of the class).
      context_from: first block that sees the tokens before the image (JiT-B: 4).
      dropout: share of activations dropped inside the MLPs, [0, 1).
      attention: xla, cudnn (flash; NVIDIA GPUs in half precision), or auto, which chooses.
      remat: what the backward pass computes again: none, blocks (all), dots (all but what dense layers answer).
      scan: compile one block and loop over it; weights then have a leading axis of blocks.

    Raises:
      ValueError: sizes that do not divide, names that no table has.
    """
    one_of(MLPS, mlp=mlp)
    one_of(NORMS, norm=norm)
    one_of(POSITIONS, positions=positions)
    one_of(SEQ_AS, seq_as=seq_as)
    one_of(IMPLEMENTATIONS, attention=attention)
    one_of(REMATS, remat=remat)
    at_least(1, patch=patch, d=d, depth=depth, heads=heads)
    at_least(0, patch_width=patch_width, context_tokens=context_tokens)
    divides_the_image(size, patch=patch)
    divisor = math.lcm(4, heads) if positions == "sincos" else 4 * heads
    if d % divisor:
        raise ValueError(f"d is {d}; with {heads} heads and {positions} positions it must be divisible by {divisor}")
    if _mlp_width(mlp, mlp_ratio, d) < 1:
        raise ValueError(f"mlp_ratio is {mlp_ratio}; it must be positive")
    if not 0 <= context_from < depth:
        raise ValueError(f"context_from is {context_from}; the blocks are 0 to {depth - 1}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in [0, 1)")
    if attention == "cudnn" and dtype == jnp.float32:
        raise ValueError("attention is 'cudnn', which takes half precision alone: take bfloat16, or auto")
    block = functools.partial(Block, heads, mlp, mlp_ratio, norm, qk_norm, attention, dropout, dtype)
    shape = (patch, patch_width, d, depth, heads, norm, positions, context_tokens, context_from, seq_as)
    return DiT(out_channels, dtype, block, *shape, remat, scan)
