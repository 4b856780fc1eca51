"""The live progress line, and how fast the run goes.

On a terminal the line is redrawn in place; elsewhere (a batch job, a notebook service) each is printed.
"""

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

MUCH, LONG = 0.05, 10.0  # a share of waiting that is worth a line, of a span of so many seconds or more
ERASE = "\r\x1b[K"


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line, on standard output by default, without tearing a progress line that stands there."""
    stream = stream or sys.stdout
    print((ERASE if stream.isatty() else "") + text, file=stream, flush=True)


def duration(seconds: float) -> str:
    """``42 -> 0:42``, ``3723 -> 1:02:03``; fractions are rounded up."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def line(
    step: int,
    total: int,
    loss: float | None = None,
    lr: float | None = None,
    images_per_sec: float | None = None,
    eta: float | None = None,
) -> str:
    """The text of a progress line; what is None is left out.

    ``step 350/1000  35%  loss 0.0712  lr 1.9e-03  3120 img/s  ETA 0:42``
    """
    parts = [f"step {step}/{total}", f"{100 * step // max(total, 1)}%"]
    if loss is not None:
        small = 0 < abs(loss) < 1e-3
        parts.append(f"loss {loss:.2e}" if small else f"loss {loss:.4f}")
    if lr is not None:
        parts.append(f"lr {lr:.1e}")
    if images_per_sec is not None:
        parts.append(f"{images_per_sec:.{0 if images_per_sec >= 10 else 1}f} img/s")
    if eta is not None:
        parts.append(f"ETA {duration(eta)}")
    return "  ".join(parts)


class Progress:
    """A progress line and a stopwatch; reads nothing but host numbers.

    Args:
      total: the step at which the run ends.
      images_per_step: the global batch size.
      busiest: steps/s at the peak of the devices, of which the speed is a share; None where no peak is known.
      clock: seconds, never going back.
      stream: where the line goes; standard output by default.
      silent: print nothing (every process but the first).
    """

    def __init__(
        self,
        total: int,
        images_per_step: int,
        *,
        busiest: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
        silent: bool = False,
    ):
        self._total, self._images, self._clock = total, images_per_step, clock
        self._busiest = busiest
        self._stream, self._silent = stream or sys.stdout, silent
        self._drawn = self._advised = False
        self.start(0)

    def start(self, step: int) -> None:
        """Start the watch at ``step``: call it once the first step has compiled, and again after a resume."""
        self._began = self._lap = (step, self._clock())
        self._aside = self._waited = 0.0

    def measure(self, step: int) -> dict[str, float]:
        """Speed since the last call.

        ``perf/steps_per_sec``, ``perf/images_per_sec``; ``perf/step_seconds``, the mean; ``perf/mfu``, the model's
        FLOPs as a share of what the devices could have done, absent where their peak is not known; ``perf/data_wait``,
        the share of that time that was spent ``waiting``; ``perf/eta_seconds``, see `eta`.

        Time spent ``aside`` does not count. Empty when no step or no time has passed.
        """
        now = self._clock()
        steps, seconds, waited = step - self._lap[0], now - self._lap[1] - self._aside, self._waited
        self._lap, self._aside, self._waited = (step, now), 0.0, 0.0
        if steps <= 0 or seconds <= 0:
            return {}
        self._advise(step, waited, seconds)
        found = {
            "perf/steps_per_sec": steps / seconds,
            "perf/images_per_sec": steps * self._images / seconds,
            "perf/step_seconds": seconds / steps,
            "perf/data_wait": waited / seconds,
        }
        more = {"perf/mfu": self._busiest and steps / seconds / self._busiest, "perf/eta_seconds": self.eta(step)}
        return found | {name: value for name, value in more.items() if value is not None}

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time within is spent on a batch that is not there yet."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - began

    def _advise(self, step: int, waited: float, seconds: float) -> None:
        """Say once, of a span that is long enough to mean something, that the data are too slow."""
        if self._advised or self._silent or seconds < LONG or waited <= MUCH * seconds:
            return
        self._advised = True
        say(
            f"step {step}: {waited / seconds:.0%} of the time went into waiting for data; more data.threads or "
            "data.prefetch may help, as do smaller image files",
            self._stream,
        )

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Time within is not training (evaluation, samples, a save), so the speed leaves it out."""
        began = self._clock()
        try:
            yield
        finally:
            self._aside += self._clock() - began

    def eta(self, step: int) -> float | None:
        """Seconds to the end at the mean pace since ``start``, evaluations included; None before any step."""
        steps, seconds = step - self._began[0], self._clock() - self._began[1]
        return (self._total - step) * seconds / steps if steps > 0 else None

    def show(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Draw the line from ``train/loss``, ``train/lr`` and ``perf/images_per_sec``, as far as present."""
        if self._silent:
            return
        shown = (metrics.get(name) for name in ("train/loss", "train/lr", "perf/images_per_sec"))
        text = line(step, self._total, *shown, eta=self.eta(step))
        if not self._stream.isatty():
            print(text, file=self._stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        print(ERASE + text[:width], end="", file=self._stream, flush=True)
        self._drawn = True

    def close(self) -> None:
        """End the line, so that what is printed next starts on its own."""
        if self._drawn:
            print(file=self._stream, flush=True)
            self._drawn = False
