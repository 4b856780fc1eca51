"""The size and the channels that images are taken at, where a config leaves them to the images."""

import statistics
from typing import NamedTuple

from diffusion.data.headers import Headers
from diffusion.data.images import Header
from diffusion.data.records import Dataset
from diffusion.errors import ConfigError

DERIVED = -1  # of data.size
STEP, LEAST, MOST = 8, 8, 64  # pixels; a U-Net halves the side, and larger images are asked for by name


class Taken(NamedTuple):
    """What `make_transform` is told.

    Attributes:
      size, channels, native: its arguments.
      said: for people, what was derived and from what; "" where nothing was.
    """

    size: int
    channels: int
    native: tuple[int, int, int] | None
    said: str = ""


def taken(dataset: Dataset, size: int, channels: int) -> Taken:
    """``data.size`` and ``data.channels`` with what they leave to the images.

    A size of DERIVED is the median of the short sides, rounded to a multiple of 8, in [8, 64]. A size of 0 is the
    native one, where all headers that were looked at tell the same. Channels of 0 are 1 where all of these images are
    grey, else 3. Headers are read only where something is left to them.

    Raises:
      ConfigError: something is left to images whose headers cannot be looked at, or a size of 0 to images that differ.
      DataError: no header can be read.
    """
    native = dataset.image_shape
    if native and size == DERIVED:
        side = derived_side([min(native[:2])])
        return Taken(side, channels, native, f"images of {native[0]}x{native[1]} pixels: taken as {side}x{side}")
    if native or (size > 0 and channels > 0):
        return Taken(size, channels, native)
    if dataset.headers is None:
        if size == DERIVED:
            raise ConfigError("data.size", f"is {DERIVED} (derived), but {dataset.name} has no files to look at")
        return Taken(size, channels, native)
    return _from(dataset.headers(), size, channels)


def derived_side(sides: list[int]) -> int:
    """Pixels of the square that images with these short sides are taken as."""
    return min(max(int(statistics.median(sides) / STEP + 0.5) * STEP, LEAST), MOST)


def _from(headers: Headers, size: int, channels: int) -> Taken:
    seen = headers.seen
    c = channels or (1 if all(one.grey for one in seen) else 3)
    found = _told(headers)
    if size == 0:
        if len({one[:2] for one in seen}) > 1:
            raise ConfigError("data.size", f"is 0 (as the data is), but of {found}; give a side, or -1 to derive one")
        shape = (seen[0].height, seen[0].width, c)
        return Taken(0, channels, shape, f"{found}: taken as {'x'.join(map(str, shape))}")
    side = derived_side([min(one[:2]) for one in seen]) if size == DERIVED else size
    return Taken(side, c, None, f"{found}: taken as {side}x{side}x{c}")


def _told(headers: Headers) -> str:
    """The images in words: cat 52, dog 410 images of 38x40 to 41x44 pixels, L and RGB."""
    counts, seen = headers.counts, headers.seen
    number = ", ".join(f"{name} {n}" for name, n in counts.items()) if len(counts) <= 10 else f"{sum(counts.values())}"
    some = f" ({len(seen)} of them looked at)" if len(seen) < sum(counts.values()) else ""
    return f"{number} images{some} of {_sizes(seen)} pixels, {' and '.join(sorted({one.mode for one in seen}))}"


def _sizes(seen: tuple[Header, ...]) -> str:
    low, high = ([of(one[i] for one in seen) for i in (0, 1)] for of in (min, max))
    return " to ".join(dict.fromkeys(f"{h}x{w}" for h, w in (low, high)))
