"""One side of a contest as a process of its own, so that no side's threads or memory are in another's way.

A worker is told on stdin what to do (``train 3``: three steps, of which the time of each is asked) and answers one line
of JSON; the referee lets one worker run at a time.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent


def task_of(text: str) -> dict[str, Any]:
    return json.loads(text)


def serve(works: Mapping[str, Callable[[], Callable[[], float]]], about: Mapping[str, Any]) -> None:
    """Answer on the stdout that this process was given until stdin ends; what else is printed goes to stderr.

    Args:
      works: by name, what makes a function that works once and answers its seconds.
      about: the first answer.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps(about), file=answers)
    ready: dict[str, Callable[[], float]] = {}
    for line in sys.stdin:
        name, times = line.split()
        work = ready.setdefault(name, ready.get(name) or works[name]())
        print(json.dumps([work() for _ in range(int(times))]), file=answers)


class Worker:
    """A running worker, for the referee; a context that ends it."""

    def __init__(self, module: str, task: Mapping[str, Any], log: Path, env: Mapping[str, str] | None = None):
        self.name, self.log = f"{module} {json.dumps(task)}", log
        with log.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(task)],
                cwd=REPO,
                env=os.environ | (env or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        self.about = self._answer()

    def work(self, name: str, times: int = 1) -> list[float]:
        """Seconds of each time."""
        print(name, times, file=self.process.stdin, flush=True)
        return self._answer()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self.process.wait()}; what it said: {self.log}")
        return json.loads(line)
