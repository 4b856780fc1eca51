"""Requests to stop, as a flag that the jitted step reads: every process then stops at the same step."""

import os
import signal
import threading
import time
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """True once a signal came or the minutes are over. A second signal leaves at once, with 128 + its number.

    Use as a context manager: the handlers that were there come back at the end.
    """

    def __init__(self, max_minutes: float = 0.0, clock: Callable[[], float] = time.monotonic):
        self.reason = ""
        self._clock, self._end = clock, clock() + 60 * max_minutes if max_minutes else None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        if not self.reason and self._end is not None and self._clock() >= self._end:
            self.reason = "train.max_minutes are over"
        return bool(self.reason)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.reason and self.reason.startswith("SIG"):
            os._exit(128 + number)
        self.reason = signal.Signals(number).name
