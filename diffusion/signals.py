"""Requests to stop, as a flag: the jitted step carries it to all processes, which then stop at the same step."""

import os
import signal
import threading
import time
from collections.abc import Callable

from diffusion.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """True once a signal came or the minutes are over. A second signal leaves at once, with 128 + its number.

    Use as a context manager: the handlers that were there come back at the end.

    Attributes:
      reason: of the stop, "" without one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.reason = ""
        self._clock, self._began, self._end = clock, clock(), None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def install(self) -> None:
        """Take the signals, again if a library took them since. Only the main thread can; elsewhere nothing happens."""
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
            self._before = self._before or found

    def release(self) -> None:
        """Give the signals back to the handlers that were there before."""
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)

    def after_minutes(self, minutes: float) -> None:
        """Stop so long after this object was made, which is when the program began; 0 never."""
        self._end = self._began + 60 * minutes if minutes else None

    def __bool__(self) -> bool:
        if not self.reason and self._end is not None and self._clock() >= self._end:
            self.reason = "train.max_minutes are over"
        return bool(self.reason)

    def check(self, then: str = "the same command goes on from there") -> None:
        """Raises Stopped on every process as soon as one of them was asked to; all of them call it together.

        Args:
          then: as in `stopped`.
        """
        from diffusion.agreement import any_process  # imports JAX: the handlers are in place before that

        if any_process(bool(self)):
            raise self.stopped(then)

    def stopped(self, then: str) -> Stopped:
        """The error of this stop; ``then`` says where the program stands and how to go on."""
        return Stopped(f"stopped ({self.reason or 'a signal to another process'}); {then}")

    def _on_signal(self, number: int, frame: object) -> None:
        if self.reason.startswith("SIG"):
            os._exit(128 + number)
        self.reason = signal.Signals(number).name
        # not print: a handler may run in the middle of another print
        os.write(2, f"\n{self.reason}: stopping at the next safe point; a second signal leaves at once\n".encode())
