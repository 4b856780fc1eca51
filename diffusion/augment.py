"""Non-leaky augmentation: images are moved at random, and numbers that say how condition the net (Karras 2022, F.2).

All numbers are 0 for an image that was left as it is, so a net that is given zeros draws images that nobody moved.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion.types import Array

LOG2_SCALE, TURN, SHIFT = 0.2, math.pi, 0.125  # Karras 2022, table 6; the shift is a share of the image's side
# Daubechies' least asymmetric wavelet with 6 vanishing moments (1992, table 6.3), the low-pass filter.
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
DELAY = sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6)  # pixel i lies at 2 i + DELAY of the fine grid

_einsum = functools.partial(jnp.einsum, precision="highest")  # pixels and places keep float32 on every device


class Augment(NamedTuple):
    """A way to augment a batch.

    Attributes:
      apply: (keys [b], x f32[b h w c]) -> (x, label f32[b numbers]); an image depends on its own key alone.
      numbers: of a label; 0 where nothing is done and the net has no such condition.
      mirrors: whether images are flipped left to right.
    """

    apply: Callable[[Array, Array], tuple[Array, Array]]
    numbers: int
    mirrors: bool


class Moves(NamedTuple):
    """What is done to one image, in this order; x points right and y down.

    Attributes:
      xflip, yflip: bool[].
      scale: f32[], larger by 2^(.2 scale).
      angle: f32[], turned from x towards y, in radians.
      stretch: f32[], by 2^(.2 stretch) along a direction and 2^(-.2 stretch) across.
      direction: f32[], from x towards y, in radians.
      shift: f32[2], along x and y, in eighths of width and height.
    """

    xflip: Array
    yflip: Array
    scale: Array
    angle: Array
    stretch: Array
    direction: Array
    shift: Array


def none() -> Augment:
    """Images as they are."""
    return Augment(lambda keys, x: (x, jnp.zeros((x.shape[0], 0))), numbers=0, mirrors=False)


def edm(
    *,
    p: float = 0.12,
    xflip: bool = True,
    yflip: bool = True,
    scale: float = 1.0,
    rotate: float = 1.0,
    anisotropy: float = 1.0,
    translate: float = 1.0,
) -> Augment:
    """EDM's geometric pipe (Karras 2022, table 6), for pixels.

    Unlike EDM's code: the mirrored border goes on for ever, the filter's exact centre is that of the image, and every
    direction of a stretch is drawn, as in the paper's table (the code takes x in half of them).

    Args:
      p: chance of each operation: .12 for 32x32 images, .15 for 64x64. At 0 nothing is done at all.
      xflip: mirror left to right, one image in two whatever p.
      yflip: with chance p, mirror top to bottom in one of two.
      scale, rotate, anisotropy, translate: the operation's chance as a multiple of p; 0 leaves it out.

    Raises:
      ValueError: p outside [0, 1], a negative multiple.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}; it must lie in [0, 1]")
    for name, of_p in dict(scale=scale, rotate=rotate, anisotropy=anisotropy, translate=translate).items():
        if not of_p >= 0:
            raise ValueError(f"{name} is {of_p}; it must be 0 or more")
    chances = (0.5 * (p > 0) * xflip, 0.5 * p * yflip, p * scale, p * rotate, p * anisotropy, p * translate)

    def one(key: Array, image: Array) -> tuple[Array, Array]:
        moves = draw(key, chances)
        return move(image, moves), label(moves)

    return Augment(jax.vmap(one), numbers=9, mirrors=bool(chances[0]))


def draw(key: Array, chances: tuple[float, ...]) -> Moves:
    """Moves of one image.

    Args:
      chances: of xflip, yflip, scale, rotate, anisotropy, translate; 1 and above is always.
    """
    # one draw for all, inside (-1, 1): four would take XLA's CPU compiler four times as long
    u = jax.random.uniform(key, (12,), minval=-1 + 2**-24)
    done = jnp.abs(u[:6]) < jnp.asarray(chances)
    angle, direction = TURN * u[6:8]
    w = math.sqrt(2) * jax.lax.erf_inv(u[8:])
    return Moves(
        xflip=done[0],
        yflip=done[1],
        scale=jnp.where(done[2], w[0], 0.0),
        angle=jnp.where(done[3], angle, 0.0),
        stretch=jnp.where(done[4], w[1], 0.0),
        direction=direction,
        shift=jnp.where(done[5], w[2:], 0.0),
    )


def label(moves: Moves) -> Array:
    """f32[9]: xflip, yflip, scale, cos - 1 and sin of the angle, stretch times cos and sin of its direction, shift."""
    m = moves
    turned = [jnp.cos(m.angle) - 1, jnp.sin(m.angle)]
    stretched = [m.stretch * jnp.cos(m.direction), m.stretch * jnp.sin(m.direction)]
    return jnp.stack([m.xflip.astype(jnp.float32), m.yflip.astype(jnp.float32), m.scale, *turned, *stretched, *m.shift])


def move(image: Array, moves: Moves) -> Array:
    """The image [h w c] flipped, scaled, turned, stretched and shifted. Flips alone, and nothing, are exact."""
    h, w, _ = image.shape
    image = jnp.where(moves.xflip, image[:, ::-1], image)
    image = jnp.where(moves.yflip, image[::-1], image)
    still = (moves.scale == 0) & (moves.angle == 0) & (moves.stretch == 0) & jnp.all(moves.shift == 0)
    along = 2.0 ** (LOG2_SCALE * moves.stretch)
    turn_back, towards, back = _rotation(-moves.angle), _rotation(moves.direction), _rotation(-moves.direction)
    narrow = jnp.diag(jnp.stack([1 / along, along]))
    undo = 2.0 ** (-LOG2_SCALE * moves.scale) * _einsum("ij,jk,kl,lm->im", turn_back, towards, narrow, back)
    return jnp.where(still, image, resample(image, undo, SHIFT * moves.shift * jnp.asarray([w, h])))


def resample(image: Array, undo: Array, shift: Array) -> Array:
    """What lies at ``undo @ (place - shift)`` for every place, measured in pixels from the image's centre.

    On a grid twice as fine that the wavelet makes and takes back, bilinear in between (Karras 2020, "Training GANs
    with limited data", B.1). Beyond its border the image goes on mirrored, without repeating the border's pixels.

    Args:
      image: f32[h w c].
      undo: f32[2 2], on (x, y).
      shift: f32[2], along x and y, in pixels.
    """
    h, w, _ = image.shape
    fine = _einsum("ui,vj,ijc->uvc", _refining(h), _refining(w), image)
    x = jnp.arange(2 * w - 2 + len(SYM6)) - (w - 1 + DELAY) - 2 * shift[0]
    y = jnp.arange(2 * h - 2 + len(SYM6)) - (h - 1 + DELAY) - 2 * shift[1]
    x, y = x[None, :], y[:, None]
    at_x = undo[0, 0] * x + undo[0, 1] * y + (w - 1 + DELAY)
    at_y = undo[1, 0] * x + undo[1, 1] * y + (h - 1 + DELAY)
    return _einsum("iu,jv,uvc->ijc", _coarsening(h), _coarsening(w), _bilinear(fine, at_y, at_x))


def _refining(n: int) -> Array:
    """[4 (n - 1), n]: a row of pixels and its mirror image, which together are periodic, on the fine grid."""
    period = max(2 * (n - 1), 1)
    matrix = [[0.0] * n for _ in range(2 * period)]
    for i in range(period):
        for k, tap in enumerate(SYM6):
            matrix[(2 * i + k) % (2 * period)][min(i, period - i)] += math.sqrt(2) * tap
    return jnp.asarray(matrix)


def _coarsening(n: int) -> Array:
    """[n, 2 n + 10]: the fine grid from its place 0 on back to pixels; the taps are orthonormal, so nothing is lost."""
    matrix = [[0.0] * (2 * n - 2 + len(SYM6)) for _ in range(n)]
    for i in range(n):
        for k, tap in enumerate(SYM6):
            matrix[i][2 * i + k] = tap / math.sqrt(2)
    return jnp.asarray(matrix)


def _bilinear(a: Array, y: Array, x: Array) -> Array:
    """a [u v c], periodic, at places y, x [p q] -> [p q c]."""
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    i, j = top.astype(jnp.int32), left.astype(jnp.int32)

    def row(i: Array) -> Array:
        i = i % a.shape[0]
        return a[i, j % a.shape[1]] * (1 - right) + a[i, (j + 1) % a.shape[1]] * right

    return row(i) * (1 - down) + row(i + 1) * down


def _rotation(angle: Array) -> Array:
    """[2 2], on (x, y): from x towards y."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])


AUGMENTS = {"none": none, "edm": edm}
