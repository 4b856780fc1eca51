"""The training loop. There is one: a resumed run enters it where its state says."""

import contextlib
import functools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np

from diffusion import cluster, ends, evaluations, events, feed, runs, snapshots, splits, validation
from diffusion.bad_steps import BadSteps
from diffusion.checkpoint import Checkpoints
from diffusion.data.loader import Loader
from diffusion.data.tally import Tally
from diffusion.errors import DiskError, NonFiniteError
from diffusion.frozen import codec_weights
from diffusion.inspection import first_nonfinite, make_inspection_step
from diffusion.logbook import Logbook
from diffusion.mesh import put_rows
from diffusion.program import Program
from diffusion.progress import say
from diffusion.signals import StopRequest
from diffusion.state import TrainState
from diffusion.steps import GO_ON, SAVE_AGAIN, STOP, Metrics, make_train_step
from diffusion.types import Batch
from diffusion.window import Values, Window, divide
from diffusion.writers import MultiWriter

IN_FLIGHT = 2  # steps dispatched and not waited for: unbounded dispatch dies on emulated devices


def run(program: Program, stop: StopRequest | None = None) -> None:
    """Train up to ``train.steps`` from wherever the workdir stands.

    Args:
      stop: an entered one; without it signals are taken here.

    Raises:
      Stopped: asked to; the state is saved.
      NonFiniteError: too many bad steps in a row; a healthy state is saved.
      UserError: the run cannot start or go on; the message says why.
    """
    with (
        contextlib.nullcontext(stop) if stop is not None else StopRequest() as stop,
        contextlib.ExitStack() as until,
        contextlib.closing(runs.checkpoints(program)) as saved,
    ):
        stop.after_minutes(program.train.max_minutes)
        source = ends.prepare(program, saved)
        until.enter_context(runs.alone(program))
        start = runs.start(program, saved, source.identity)
        step = int(start.state.step)
        best = runs.best_record(program, start.meta)
        if start.meta and start.meta["events_done"] and ends.is_over(program, start.meta, step, best):
            say(f"This run is finished: {ends.how_it_ended(program, step, best)} {events.places(program)}")
            return
        stop.check()
        snapshots.forget_after(program.workdir, step)
        runs.check_room(program, saved)
        if jax.process_index() == 0:
            runs.write_config(program)
            splits.write(program)
        feed.skipped(program).keep_in(program.workdir)
        held = start.meta["writers"] if start.meta else {"offset": 0, "wandb_id": None}
        with contextlib.closing(ends.open_writers(program, **held)) as writers:
            tally = feed.tally(program, source)
            ends.announce(program, start, step, writers, tally)
            loop = Loop(program, saved, writers, start, source, stop, tally)
            loop.run()
    say(f"Finished: {ends.how_it_ended(program, loop.step, loop.log.best)} {events.places(program)}")


class Loop:
    """One pass: the newest state, the steps in flight, the metrics still to be read."""

    def __init__(
        self,
        program: Program,
        saved: Checkpoints,
        writers: MultiWriter,
        start: runs.Start,
        source: Loader,
        stop: StopRequest,
        tally: Tally | None,
    ):
        meta = start.meta or {}
        self.program, self.saved, self.source, self.stop = program, saved, source, stop
        self.log = Logbook(program, writers, start.meta, tally)
        self.bad_steps = BadSteps(program.workdir, source, int(start.state.step))
        self.state = start.state
        self.step = self.began = int(start.state.step)
        self.saved_step = self.began if start.meta else None
        self.events_done = meta.get("events_done", True)
        self.gave_up = False
        self.flight: deque[tuple[int, Metrics]] = deque()
        plateau = program.schedule.plateau
        self.plateau_every = (program.val.every or plateau.every) if plateau else 0
        self.since_observed = Window(0, meta.get("since_observed"))

    def run(self) -> None:
        """Steps and events up to the end; whatever goes wrong on the host, a healthy state is saved first."""
        p = self.program
        train_step = make_train_step(p.diffusion, p.optimiser, p.mesh, self.state)
        words = {
            word: put_rows(p.mesh, np.full(len(p.mesh.local_devices), word, np.int32))
            for word in (GO_ON, SAVE_AGAIN, STOP)
        }
        try:
            self.log.write(self.step)
            if not self.events_done:
                self._events(owed=True)
            with feed.from_step(p, self.source, self.step) as batches:
                while self.step < p.train.steps and not self.gave_up:
                    self._keep_up()
                    with self.log.progress.waiting():
                        batch = next(batches)
                    self._dispatch(train_step, batch, words[self._word()])
                    if p.train.debug:
                        self._inspect(batch)
                    self._events()
            self._drain()
        except BaseException as error:
            self._save_healthy(error)
            raise
        finally:
            self.log.progress.close()

    def _word(self) -> int:
        """What this process has to tell all of them with the next step."""
        well = self.saved.check()
        return STOP if self.stop else GO_ON if well else SAVE_AGAIN

    def _dispatch(self, train_step: Callable, batch: Batch, word: jax.Array) -> None:
        if self.step == self.began:
            say("Compiling the train step …")
        self.state, metrics = train_step(self.state, codec_weights(self.program), batch, word)
        self.step += 1
        self.flight.append((self.step, metrics))
        self.log.add(self.step, metrics)
        if self.plateau_every and not self.program.val.every:
            self.since_observed.add(self.step, metrics)
        if self.step == self.began + 1:
            self.log.progress.start(self.step)

    def _inspect(self, batch: Batch) -> None:
        """Wait for the newest step, and where it was bad, name the first layer whose output is not finite."""
        step, metrics = self.flight[-1]
        if not jax.device_get(metrics.control)[1]:
            return
        before = replace(self.state, step=self.state.step - 1)
        p = self.program
        probe = make_inspection_step(p.diffusion, p.optimiser, p.mesh, before)
        say(f"step {step}: {first_nonfinite(probe(before, codec_weights(p), batch))}")

    def _keep_up(self) -> None:
        """Wait until fewer than IN_FLIGHT steps are under way, and heed what they report."""
        while len(self.flight) >= IN_FLIGHT:
            self._wait()

    def _drain(self) -> None:
        while self.flight:
            self._wait()

    def _wait(self) -> None:
        """Wait for the oldest step in flight and heed it; every process reads the same two numbers of it."""
        step, word, bad = self._land()
        self.log.write(step)
        if bad >= self.program.train.max_bad_steps:
            raise NonFiniteError(
                f"{bad} steps in a row, up to step {step}, were skipped: their loss or gradient was not finite, or the "
                f"loss above train.max_loss; bad_steps.jsonl lists their examples. The last healthy state is saved. "
                "A lower optim.lr, a clip, or float32 may help; train.debug=true names the layer"
            )
        if word == STOP:
            raise self.stop.stopped(self._goes_on())
        if word == SAVE_AGAIN:
            self._save()

    def _goes_on(self) -> str:
        return f"saved in {self.saved.directory}; the same command goes on from there"

    def _land(self) -> tuple[int, int, int]:
        """The oldest step in flight once it is done: (step, strongest word, bad steps in a row)."""
        step, metrics = self.flight.popleft()
        word, bad = (int(n) for n in jax.device_get(metrics.control))
        if bad:
            self.bad_steps.report(step, metrics.suspect)
        return step, word, bad

    def _events(self, owed: bool = False) -> None:
        """What is due at this step; ``owed`` when a run that broke off before they were done was saved at this step.

        The state takes over what they decide only when all of them are done.
        """
        p, step = self.program, self.step
        last = step >= p.train.steps
        due = self._due(last)
        observe = self.plateau_every > 0 and step % self.plateau_every == 0
        keeps = (p.checkpoint.every, p.checkpoint.keep_every)
        save = last or any(every and step % every == 0 for every in keeps)
        if not (save or due or observe):
            return
        self.events_done, state = False, self.state
        self._drain()
        self.log.begin_events()
        with self.log.progress.aside():
            values = self._read_state(due)
            gives_up = not last and ends.gives_up(p, self.log.best_with(step, values))
            if gives_up:
                values |= self._read_state(self._due(last=True) - due)
            if observe:
                state = self._observe(values.get("val/loss"))
                self.since_observed = Window(0)
            self.state, self.events_done, self.gave_up = state, True, gives_up
            self.log.end_events()
            if self.log.rank(step, values) or save or gives_up or owed:
                self._save(wait=last or gives_up, replace=owed or self.saved_step == step)

    def _due(self, last: bool) -> set[str]:
        """The events of this step; of the last one of a run, all that it has."""
        p = self.program
        everies = {"snapshot": p.snapshot_every, "val": p.val.every, "sample": p.sample.every, "eval": p.eval.every}
        due = {name for name, every in everies.items() if every > 0 and (last or self.step % every == 0)}
        if not p.eval.metrics:
            return due - {"eval"}
        return due | ({"eval"} if last else set())

    def _read_state(self, due: set[str]) -> Values:
        """What events find out about the state, which they leave as it is."""
        p, state, step, values = self.program, self.state, self.step, {}
        weights = state.ema[p.optimiser.averages.use]
        between = functools.partial(self.stop.check, self._goes_on())
        if "snapshot" in due:
            events.snapshot(p, state, step)
        if "val" in due:
            values |= validation.validation(p, {"val/loss": weights, "val/loss_raw": state.params}, between)
            self.log.writers.write(step, values)
        if "sample" in due:
            events.sample_grid(p, weights, step, self.log.writers, between)
        if "eval" in due:
            values |= evaluations.evaluation(p, state.ema, step, self.log.writers, between).values
        return values

    def _observe(self, value: float | None) -> TrainState:
        """The state after one observation of the plateau: of the validation loss, or else the mean training loss."""
        if not self.program.val.every:
            value = divide(self.since_observed.open_sums() or {}).get("train/loss")
        if value is None or not math.isfinite(value):
            say(f"step {self.step}: the plateau's loss is {value}; it is not observed")
            return self.state
        plateau = self.program.schedule.plateau.observe(self.state.plateau, jax.device_put(np.float32(value)))
        return replace(self.state, plateau=plateau)

    def _flush(self) -> None:
        """Write what is late. A stop asked for in these steps is asked for again in the next ones."""
        while self.flight:
            self._land()
        self.log.flush(self.step)

    def _save(self, *, wait: bool = False, replace: bool = False) -> None:
        self._flush()
        self._save_flushed(wait=wait, replace=replace)

    def _save_flushed(self, *, wait: bool, replace: bool) -> None:
        meta = {
            **runs.facts(self.program, self.state),
            **self.log.meta(),
            "data": self.source.identity,
            "since_observed": self.since_observed.open_sums(),
            "events_done": self.events_done,
            "gave_up": self.gave_up,
        }
        self.saved_step = self.step
        self.saved.save(self.step, self.state, meta, self.log.measured(self.step), wait=wait, replace=replace)

    def _save_healthy(self, error: BaseException) -> None:
        """Save what there is before an error goes its way; a state that the device lost cannot be.

        Nor can one be saved by one process alone: a process that failed by itself is gone at once.
        """
        if not cluster.alike(error):
            cluster.leave(cluster.report(error))
        lost = any(leaf.is_deleted() for leaf in jax.tree.leaves(self.state))
        if lost or self.step == self.began or isinstance(error, DiskError):
            return
        try:
            self._flush()
        except Exception as failed:  # a writer; its lines are in the checkpoint and are written by the next run
            say(f"the log cannot be written ({type(failed).__name__}: {failed}); the checkpoint keeps what is missing")
        self._save_flushed(wait=True, replace=False)
