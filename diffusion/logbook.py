"""The figures of a run, from the devices to the log: each line late but once, and the metric that ranks checkpoints."""

from collections import deque
from typing import Any

import jax

from diffusion import costs, memory, peaks, runs
from diffusion.best import BestRecord, observed
from diffusion.data.tally import Tally
from diffusion.program import Program
from diffusion.progress import Progress, say
from diffusion.steps import Metrics
from diffusion.window import Values, Window
from diffusion.writers import MultiWriter

LOW_RATE = 1e-7


class Logbook:
    """What was measured, what is written, and what a checkpoint has to know of both.

    Args:
      meta: of the checkpoint that the run goes on from; None on a fresh start.
      tally: of the classes drawn, logged beside the metrics; None logs none.
    """

    def __init__(
        self,
        program: Program,
        writers: MultiWriter,
        meta: dict[str, Any] | None,
        tally: Tally | None,
    ):
        self.writers, self._tally = writers, tally
        self.progress = Progress(
            program.train.steps,
            program.loading.batch_size,
            busiest=_busiest(program),
            silent=jax.process_index() != 0,
        )
        self._best = runs.best_record(program, meta)
        meta = meta or {}
        self._window = Window(program.log.every, meta.get("window"))
        self._unwritten: deque[tuple[int, Values]] = deque(map(tuple, meta.get("unwritten", [])))
        self._measured = meta.get("measured")  # [step, value] of the metric that ranks checkpoints
        self._low_rate_said = meta.get("low_rate_said", False)
        self._rate: float | None = meta.get("rate")
        self._says_rate = program.schedule.in_steps
        self._held: dict[str, Any] | None = None  # what the log held when events began that are not all done

    def add(self, step: int, metrics: Metrics) -> None:
        """Metrics of the step that made the run ``step`` steps long. Reads nothing."""
        self._window.add(step, metrics)

    def write(self, done: int) -> None:
        """Log the windows that end at or before ``done``, after what a failing writer has left."""
        self._unwritten.extend(self._window.take(done))
        while self._unwritten:
            step, values = self._unwritten[0]
            self._announce_rate(step, values["train/lr"])
            self.rank(step, values)
            values = (
                values
                | (self._tally.figures(step) if self._tally else {})
                | self.progress.measure(step)
                | memory.peaks()
            )
            self.writers.write(step, values)
            self._unwritten.popleft()
            self.progress.show(step, values)

    def flush(self, done: int) -> None:
        """`write`, and everything is on disk."""
        self.write(done)
        self.writers.flush()

    @property
    def best(self) -> BestRecord:
        return self._best

    def begin_events(self) -> None:
        """Lines from here on count when `end_events` is called: a checkpoint made before knows nothing of them."""
        self.writers.flush()
        self._held = self.writers.state()

    def end_events(self) -> None:
        self._held = None

    def best_with(self, step: int, values: Values) -> BestRecord:
        """The record as ``values`` of this step will make it; they are not noted yet.

        A step's value counts once, though a line that a writer refused comes again.
        """
        value = values.get(self._best.metric)
        again = self._measured is not None and self._measured[0] == step
        return self._best if value is None or again else observed(self._best, step, value)

    def rank(self, step: int, values: Values) -> bool:
        """Note the metric that ranks checkpoints; True where it is the best so far."""
        if (value := values.get(self._best.metric)) is None:
            return False
        self._best, self._measured = self.best_with(step, values), [step, value]
        return self._best.since == 0 and self._best.step == step

    def measured(self, step: int) -> dict[str, float]:
        """The ranking metric of a checkpoint of ``step``: a training metric's newest value, another's own."""
        name = self._best.metric
        if self._measured and (name.startswith("train/") or self._measured[0] == step):
            return {name: self._measured[1]}
        return {}

    def meta(self) -> dict[str, Any]:
        """For the checkpoint, as plain JSON, with the lines that could not be written: the next run writes them."""
        return {
            "best": self._best.to_json(),
            "measured": self._measured,
            "window": self._window.open_sums(),
            "writers": self._held or self.writers.state(),
            "unwritten": list(self._unwritten),
            "low_rate_said": self._low_rate_said,
            "rate": self._rate,
        }

    def _announce_rate(self, step: int, rate: float) -> None:
        if self._says_rate and self._rate is not None and rate < self._rate:  # a warm-up rises at every line
            say(f"step {step}: the learning rate went from {self._rate:.3g} to {rate:.3g}")
        if rate < LOW_RATE and not self._low_rate_said:
            say(f"step {step}: the learning rate, {rate:.3g}, is below {LOW_RATE:g}: little will change from here on")
            self._low_rate_said = True
        self._rate = rate


def _busiest(program: Program) -> float | None:
    """Steps/s if the devices did nothing but the model's FLOPs, at their peak; None where that is not known."""
    peak = peaks.of_mesh(program.mesh)
    if peak is None:
        kind = program.mesh.devices.flat[0].device_kind
        say(f"perf/mfu is not logged: the peak of {kind} is not known here; --mode=bench measures one")
        return None
    return peak / costs.of_step(program)
