"""Layers that backbones share. Compute runs in ``dtype``; parameters, norms and softmax in float32.

Kernels and embeddings declare the standard deviation of their initial values; ``model.make_net`` fills them from one
normal draw. Initialisers that draw for themselves cost XLA 8.6 s of compilation for a small U-Net, one draw 0.4 s.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from diffusion.types import Array

zeros = nn.initializers.zeros_init()


def fan_in(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The deviation 1 / sqrt(fan in) of a kernel [... in out] (LeCun 1998)."""
    return jnp.full(shape, 1.0 / math.sqrt(math.prod(shape[:-1])), dtype)


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
    """x [... i] times kernel [i o] -> [... o], with a barrier before the products of the backward pass.

    Without it XLA's CPU compiler fuses a transpose into the kernel's gradient and loses its matrix product.
    """
    return _product_forward(x, kernel)[0]


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return lax.dot(_flat(x), kernel).reshape(*x.shape[:-1], kernel.shape[-1]), (x, kernel)


def _product_backward(saved: tuple[Array, Array], given: Array) -> tuple[Array, Array]:
    x, kernel = saved
    flat, kernel, given = lax.optimization_barrier((_flat(x), kernel, _flat(given)))
    return lax.dot(given, kernel.T).reshape(x.shape), lax.dot(flat.T, given)


product.defvjp(_product_forward, _product_backward)


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def last_axis_product(x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None, **_: Any) -> Array:
    """``jax.lax.dot_general`` of x [... i] and kernel [i o], as Linen's Dense calls it, by way of `product`."""
    if jax.default_backend() != "cpu" or precision is not None:
        return lax.dot_general(x, kernel, dimension_numbers, precision=precision)
    return product(x, kernel)


def convolution(x: Array, kernel: Array, strides: Any, padding: Any, **about: Any) -> Array:
    """``jax.lax.conv_general_dilated`` as Linen's Conv calls it; of one pixel by one, the matrix product that it is."""
    if kernel.shape[:2] == (1, 1) and set(strides) == {1} and jax.default_backend() == "cpu":
        return product(x, kernel[0, 0])
    return lax.conv_general_dilated(x, kernel, strides, padding, **about)


Dense = partial(nn.Dense, kernel_init=fan_in, dot_general=last_axis_product)
Conv = partial(nn.Conv, kernel_init=fan_in, conv_general_dilated=convolution)


def doubled_convolution(x: Array, kernel: Array, strides: Any, padding: Any, **about: Any) -> Array:
    """A 3 x 3 convolution of x [b h w i] after every pixel was repeated 2 x 2: [b 2h 2w o], without making those.

    Of the nine pixels around one of a pixel's four copies some are copies of the same one, so that each copy's answer
    is a 2 x 2 convolution of x with summed kernels: 16 products a pixel of x instead of 36. All four are one matrix
    product of 2 x 2 neighbourhoods, as XLA's CPU compiler has no fast gradient of a 2 x 2 kernel.
    """
    b, h, w, i = x.shape
    o = kernel.shape[-1]
    kernel = _of_copies(_of_copies(kernel, 0), 1)  # [2 2 i row column o]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = jnp.concatenate([x[:, r : r + h + 1, c : c + w + 1] for r in (0, 1) for c in (0, 1)], axis=-1)
    y = product(near, kernel.reshape(4 * i, 4 * o)).reshape(b, h + 1, w + 1, 2, 2, o)
    # the first copy looks back by one pixel, the second ahead
    rows = [jnp.stack([y[:, r : r + h, c : c + w, r, c] for c in (0, 1)], axis=3) for r in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, o)


def _of_copies(kernel: Array, axis: int) -> Array:
    """[.. 3 .. i .. o] -> [.. 2 .. i .. 2 o]: the taps along ``axis`` on whole pixels, of the first and second copy."""
    before, here, after = jnp.split(kernel, 3, axis)
    first = jnp.concatenate([before, here + after], axis)
    return jnp.stack([first, jnp.concatenate([before + here, after], axis)], axis=-2)


def noise_embedding(c_noise: Array, d: int, max_period: float = 10_000.0) -> Array:
    """ADM's [cos, sin] with exponents i / half (Dhariwal & Nichol 2021). f32[b] -> f32[b d]; d is even."""
    half = d // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half) / half)
    angles = c_noise.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def ddpmpp_embedding(c_noise: Array, d: int, max_period: float = 10_000.0) -> Array:
    """DDPM++'s [sin, cos] with exponents i / (half - 1) (Ho 2020, Song 2021). f32[b] -> f32[b d]; d is even, 4 or more.

    The positional embedding of Karras 2022 is this one, too.
    """
    half = d // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half) / (half - 1))
    angles = c_noise.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


EMBEDDINGS = {"adm": noise_embedding, "ddpmpp": ddpmpp_embedding}


def dropout(x: Array, keys: Array | None, rate: float, layer: int) -> Array:
    """Dropout keyed per example: row i is the same whatever else is in the batch.

    Args:
      x: [b ...].
      keys: one typed key per example, [b]; None switches dropout off.
      rate: share of values set to 0, in [0, 1).
      layer: tells apart the layers that share ``keys``.
    """
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, layer), 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018), optionally adaptive, and SiLU of its answer where ``silu`` is set."""

    groups: int
    eps: float = 1e-5
    silu: bool = False

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """x [b h w c], scale and shift [b c] or None -> [b h w c], in x's dtype."""
        c = x.shape[-1]
        weight = self.param("scale", nn.initializers.ones_init(), (c,))
        bias = self.param("bias", zeros, (c,))
        return normalised(x, weight, bias, scale, shift, self.groups, self.eps, self.silu)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def normalised(
    x: Array, weight: Array, bias: Array, scale: Array | None, shift: Array | None, groups: int, eps: float, silu: bool
) -> Array:
    """x [b h w c] normalised over groups of channels, then an affine, then SiLU if asked.

    The affine is ``(n * weight [c] + bias [c]) * (1 + scale [b c]) + shift [b c]``, folded into one per image and
    channel, as moments are combined over groups on the small [b c]. Only x is kept for the backward pass, which is two
    passes over it: two sums per image and channel, and the gradient as an affine of both.
    """
    return _normalised_forward(x, weight, bias, scale, shift, groups, eps, silu)[0]


# Both passes are jitted so that Python runs once a shape, and call ``lax``: jnp's operators are functions under jit
# themselves, which JAX would trace once more for each shape. Python's numbers would be float64 to ``lax`` under x64.
ONE = np.float32(1)


@partial(jax.jit, static_argnums=(5, 6, 7))
def _normalised_forward(
    x: Array, weight: Array, bias: Array, scale: Array | None, shift: Array | None, groups: int, eps: float, silu: bool
) -> tuple[Array, Any]:
    (b, h, w, c), x32 = x.shape, x.astype(jnp.float32)
    # moments around a value near the mean: E[x^2] - E[x]^2 cancels where |mean| >> sd
    (centre,) = held(_over_groups(lax.slice(x32, (0, 0, 0, 0), (b, 1, 1, c)).reshape(b, c), groups))
    centred = lax.sub(x32, _pixels(centre, x))
    sums = (lax.reduce_sum(a, (1, 2)) for a in (centred, lax.square(centred)))
    first, second = (_over_groups(lax.div(a, np.float32(h * w)), groups) for a in sums)
    variance = lax.max(lax.sub(second, lax.square(first)), np.float32(0))
    rstd = lax.rsqrt(lax.add(variance, np.float32(eps)))
    gain, offset = _affine(b, weight, bias, scale, shift)
    mean, factor, offset = held(lax.add(centre, first), lax.mul(rstd, gain), offset)
    y = _factored(lax.sub(x32, _pixels(mean, x)), factor, offset)
    y = lax.mul(y, lax.logistic(y)) if silu else y
    return y.astype(x.dtype), (x, weight, bias, scale, shift, rstd, mean, factor, offset)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _normalised_backward(groups: int, eps: float, silu: bool, saved: Any, given: Array) -> tuple[Array | None, ...]:
    x, weight, bias, scale, shift, rstd, mean, factor, offset = saved
    b, h, w, _ = x.shape
    if jax.default_backend() == "cpu":
        # or what the forward pass made of x is kept until here: 12 % of a U-Net's memory
        x, given = lax.optimization_barrier((x, given))
    centred, slope = lax.sub(x.astype(jnp.float32), _pixels(mean, x)), given.astype(jnp.float32)
    if silu:
        y = _factored(centred, factor, offset)
        s = lax.logistic(y)
        slope = lax.mul(lax.mul(slope, s), lax.add(ONE, lax.mul(y, lax.sub(ONE, s))))
    total, along = (lax.reduce_sum(a, (1, 2)) for a in (slope, lax.mul(slope, centred)))
    gain, _ = _affine(b, weight, bias, scale, shift)
    # of the group's mean and deviation, which depend on every x
    by_mean, by_deviation = (lax.div(_over_groups(lax.mul(gain, a), groups), np.float32(h * w)) for a in (total, along))
    by_mean, by_deviation = held(lax.mul(rstd, by_mean), lax.mul(lax.integer_pow(rstd, 3), by_deviation))
    to_x = lax.sub(lax.mul(slope, _pixels(factor, x)), lax.mul(centred, _pixels(by_deviation, x)))
    to_x = lax.sub(to_x, _pixels(by_mean, x))
    return to_x.astype(x.dtype), *_affine_backward(weight, bias, scale, shift, lax.mul(along, rstd), total)


normalised.defvjp(_normalised_forward, _normalised_backward)


def _affine(b: int, weight: Array, bias: Array, scale: Array | None, shift: Array | None) -> tuple[Array, Array]:
    """(gain, offset), each f32[b c]."""
    gain, offset = (lax.broadcast(a.astype(jnp.float32), (b,)) for a in (weight, bias))
    if scale is not None:
        more = lax.add(scale.astype(jnp.float32), ONE)
        gain, offset = lax.mul(gain, more), lax.mul(offset, more)
    return gain, offset if shift is None else lax.add(offset, shift.astype(jnp.float32))


def _affine_backward(
    weight: Array, bias: Array, scale: Array | None, shift: Array | None, to_gain: Array, to_offset: Array
) -> tuple[Array, Array, Array | None, Array | None]:
    """to_gain and to_offset f32[b c] -> what goes to weight, bias, scale and shift, as each of them is."""
    to_scale, to_shift = None, None if shift is None else to_offset.astype(shift.dtype)
    if scale is not None:
        of_weight, of_bias = (lax.broadcast(a.astype(jnp.float32), scale.shape[:1]) for a in (weight, bias))
        to_scale = lax.add(lax.mul(to_gain, of_weight), lax.mul(to_offset, of_bias)).astype(scale.dtype)
        more = lax.add(scale.astype(jnp.float32), ONE)
        to_gain, to_offset = lax.mul(to_gain, more), lax.mul(to_offset, more)
    to_weight, to_bias = (lax.reduce_sum(a, (0,)) for a in (to_gain, to_offset))
    return to_weight.astype(weight.dtype), to_bias.astype(bias.dtype), to_scale, to_shift


def held(*small: Array) -> tuple[Array, ...]:
    """Each [b c] as it is, and on a CPU computed once.

    XLA's CPU compiler fuses what they are made of into the loop over pixels that reads them, to be computed again for
    every pixel: group norm with SiLU took 2.5 times as long so. It fuses no matrix product, hence one by 1.
    """
    if jax.default_backend() != "cpu":
        return small
    side = math.gcd(small[0].shape[-1], 16)  # what is not finite may reach so many neighbours, of the same image
    row, column = (lax.broadcasted_iota(jnp.int32, (side, side), axis) for axis in (0, 1))
    one = lax.eq(row, column).astype(small[0].dtype)
    return tuple(lax.dot(a.reshape(-1, side), one).reshape(a.shape) for a in small)


def _over_groups(x: Array, groups: int) -> Array:
    """The mean over each group's channels of x [b c], at each of them."""
    b, c = x.shape
    grouped = x.reshape(b, groups, c // groups)
    mean = lax.div(lax.reduce_sum(grouped, (2,)), np.float32(c // groups))
    return lax.broadcast_in_dim(mean, grouped.shape, (0, 1)).reshape(b, c)


def _factored(x: Array, factor: Array, offset: Array) -> Array:
    """x [b h w c] times factor [b c] plus offset [b c]."""
    return lax.add(lax.mul(x, _pixels(factor, x)), _pixels(offset, x))


def _pixels(a: Array, x: Array) -> Array:
    """a [b c] at every pixel of x [b h w c]."""
    return lax.broadcast_in_dim(a, x.shape, (0, 3))
