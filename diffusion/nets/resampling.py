"""Images half or twice as large, by a short filter; no weights."""

from collections.abc import Sequence

import jax.numpy as jnp

from diffusion.types import Array

DIRECTIONS = ("keep", "down", "up")


def resample(x: Array, taps: Sequence[float], direction: str) -> Array:
    """Filter h and w by ``taps`` and take every second value, or fill zeros in between and filter; 0 beyond the edges.

    (1, 1) averages 2 x 2 pixels on the way down and repeats them on the way up; (1, 3, 3, 1) is the filter of NCSN++
    (Song 2021). Taps are scaled to sum 1, so that a constant image stays what it is away from the edges.

    Args:
      x: [b h w c]; h and w even on the way down.
      taps: an even number of them, first to last along either axis.
      direction: keep, down or up.

    Returns:
      [b h w c], [b h/2 w/2 c] or [b 2h 2w c], in x's dtype.
    """
    if direction == "keep":
        return x
    along = _halve if direction == "down" else _double
    weights = [tap / sum(taps) for tap in taps]
    return along(along(x, weights, 1), weights, 2)


def check_taps(name: str, taps: Sequence[float]) -> None:
    """Raises ValueError, in the words of the field ``name``, for taps that ``resample`` cannot take."""
    if not taps or len(taps) % 2 or not sum(taps) > 0:
        raise ValueError(f"{name} is {tuple(taps)}; it must hold an even number of taps with a positive sum")


def _halve(x: Array, taps: Sequence[float], axis: int) -> Array:
    """y[i] = sum over k of taps[k] x[2 i + k - pad]."""
    pad, half = len(taps) // 2 - 1, x.shape[axis] // 2
    padded = jnp.pad(x, [(pad, pad) if a == axis else (0, 0) for a in range(x.ndim)])
    return sum(tap * _slice(padded, axis, k, k + 2 * half - 1, 2) for k, tap in enumerate(taps))


def _double(x: Array, taps: Sequence[float], axis: int) -> Array:
    """y[2 i + k - pad] gathers 2 taps[k] x[i]: the transpose of ``_halve``, twice."""
    pad, n, reach = len(taps) // 2 - 1, x.shape[axis], len(taps) // 2
    padded = jnp.pad(x, [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)])

    def phase(odd: int) -> Array:
        # y[2 m + odd] takes x[m - shift] for every tap k with k - pad = odd + 2 shift
        shifts = [(tap, (k - pad - odd) // 2) for k, tap in enumerate(taps) if (k - pad - odd) % 2 == 0]
        return sum(2 * tap * _slice(padded, axis, reach - shift, reach - shift + n, 1) for tap, shift in shifts)

    both = jnp.stack([phase(0), phase(1)], axis=axis + 1)
    return both.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])


def _slice(x: Array, axis: int, start: int, stop: int, step: int) -> Array:
    return x[tuple(slice(start, stop, step) if a == axis else slice(None) for a in range(x.ndim))]
