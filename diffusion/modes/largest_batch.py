"""The largest batch whose train step fits into memory, found by compiling it: nothing is run, so nothing overflows."""

from collections.abc import Callable
from typing import NamedTuple

COMPILATIONS = 6  # at most
CLOSE = 0.02  # of a batch: to look more closely is not worth a compilation


class Found(NamedTuple):
    """Attributes:
    batch_size: the largest that was seen to fit; 0 where none was.
    bytes_per_device: that its step needs.
    too_large: the smallest that was seen not to fit; None where none was.
    compilations: it took.
    """

    batch_size: int
    bytes_per_device: int
    too_large: int | None
    compilations: int


def largest_batch(needs: Callable[[int], int | None], known: tuple[int, int], multiple: int, space: int) -> Found:
    """Along the line through two batches, which bytes follow but for what a compiler pads.

    Args:
      needs: batch size -> bytes of its step on one device; None where there is no memory to compile it.
      known: a batch size and its bytes.
      multiple: what batch sizes are multiples of.
      space: bytes of one device.
    """
    measured, hopeless, compilations = dict([known]), [], 0
    candidate = 2 * -(-known[0] // multiple) * multiple
    while candidate and compilations < COMPILATIONS:
        compilations += 1
        if (found := needs(candidate)) is None:
            hopeless.append(candidate)
        else:
            measured[candidate] = found
        candidate = _next(measured, hopeless, multiple, space)
    fits, too_large = _bracket(measured, hopeless, space)
    return Found(fits, measured.get(fits, 0), too_large, compilations)


def _bracket(measured: dict[int, int], hopeless: list[int], space: int) -> tuple[int, int | None]:
    """(the largest that fits, the smallest that does not)."""
    too_large = [b for b, found in measured.items() if found > space] + hopeless
    return max((b for b, found in measured.items() if found <= space), default=0), min(too_large, default=None)


def _next(measured: dict[int, int], hopeless: list[int], multiple: int, space: int) -> int | None:
    """The batch to look at; None where the largest is known well enough."""
    fits, too_large = _bracket(measured, hopeless, space)
    *_, (b, found) = sorted(measured.items())
    slope = found / b
    if len(measured) > 1:
        *_, (lower, less), _ = sorted(measured.items())
        slope = (found - less) / (b - lower) if found > less else slope
    wanted = b + (space - found) / slope
    if too_large is not None:
        wanted = min(wanted, too_large - multiple)
    wanted = max(int(wanted // multiple), 1) * multiple
    if wanted in measured or wanted <= fits * (1 + CLOSE):
        return None
    return wanted
