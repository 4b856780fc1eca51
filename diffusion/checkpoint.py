"""Checkpoints that are written whole, verified bit for bit, and never silently wrong.

A step is one Orbax composite that becomes visible by a single rename: ``state`` (the arrays, by path) and
``meta`` (JSON under a seal: manifest, exact fingerprints of every leaf, and what the caller gives). Saving
runs in the background. Orbax's `CheckpointManager` is not used: it lists steps whose save failed, skips a
save without a word, and lets a NaN be best; here the directory itself is the list.
"""

import itertools
import logging
import math
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from diffusion.best import kept, ranked
from diffusion.errors import NoValidCheckpoint
from diffusion.leaves import by_path, fingerprints
from diffusion.manifest import Damaged, manifest, sealed
from diffusion.restoring import Restored, first_valid, read_body, saved_steps

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one workdir.

    Every process calls every method; process 0 renames and deletes. The directory is on a file system that
    all processes share and that renames atomically.

    Args:
      directory: made when the first step is saved.
      keep: how many of the newest steps are kept, at least 1.
      keep_best: how many of the best steps are kept beside them.
      best_metric: the name whose value in ``metrics`` ranks the steps.
      best_mode: ``min`` or ``max``.
      read_only: nothing is written, renamed or deleted.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int = 1,
        keep_best: int = 0,
        best_metric: str = "val/loss",
        best_mode: str = "min",
        read_only: bool = False,
    ):
        if keep < 1 or keep_best < 0:
            raise ValueError(f"keep: {keep} is not at least 1, or keep_best: {keep_best} is below 0")
        self.directory = Path(directory).absolute()
        self.read_only = read_only
        self._keep, self._keep_best = keep, keep_best
        self._metric, self._mode = best_metric, best_mode
        self._values: dict[int, float | None] = {}
        self._writer: Any = None
        self._pending: int | None = None
        self._error: Exception | None = None

    def all_steps(self) -> list[int]:
        """The steps whose save was completed, ascending."""
        return saved_steps(self.directory)

    def latest(self) -> int | None:
        """The newest step, None without any."""
        return max(self.all_steps(), default=None)

    def best(self) -> int | None:
        """The kept step with the best finite value, None where none was measured."""
        return next(iter(ranked(self._all_values(), self._mode)), None)

    def save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        *,
        wait: bool = False,
        replace: bool = False,
    ) -> bool:
        """Start to save; the state may be donated as soon as this returns.

        A save that fails is said and repeated once: at once when it fails here, by the next save when it
        fails in the background. Steps saved before stay untouched.

        Args:
          step: later than every saved one; one that is already there is left as it is, unless replaced.
          state: a tree of arrays.
          meta: plain JSON.
          metrics: what was measured at this step; only ``best_metric`` is read.
          wait: return when it is on disk (for the last step), repeating it here if it fails.
          replace: save the newest step again; the one before stays on disk until the other is there.

        Returns:
          Whether something was saved: False when the step was there.

        Raises:
          ValueError: the step is older than the newest, or meta is not plain JSON.
          Exception: Orbax's own, when a second save in a row fails.
        """
        if self.read_only:
            raise ValueError("these checkpoints were opened to be read only")
        self._settle()
        newest = self.latest()
        if newest is not None and step < newest:
            raise ValueError(f"step {step} cannot be saved: step {newest} is already there")
        if step == newest:
            if not replace:
                return False
            self._move(f"{step}", f"{step}.replaced")
        value = self._value(metrics or {})
        body = {
            "step": step,
            "metric": {"name": self._metric, "mode": self._mode, "value": value},
            "manifest": manifest(state),
            "fingerprints": fingerprints(state),
            "meta": dict(meta),
        }
        self._write(step, by_path(state), sealed(body), wait or replace)
        self._values[step] = value
        return True

    def check(self) -> bool:
        """Whether the save in the background is well, without waiting for it.

        With several processes the answer must be one, so it waits for the next save.

        Returns:
          False when it has failed: save the state in hand, which is the one repetition.

        Raises:
          Exception: Orbax's own, when that repetition has failed too.
        """
        if self._writer is None or jax.process_count() > 1:
            return True
        try:
            self._writer.check_for_errors()
        except Exception as error:
            self._failed(error)
            self._pending = None
        return self._error is None or self._pending is not None

    def wait(self) -> None:
        """Return when the last save is on disk. Raises Orbax's own exception when it failed."""
        self._settle()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait, then let go of the writer's threads. Leaving a program without it loses the last save."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def restore(self, abstract_state: Any) -> Restored | None:
        """The newest valid step, or None where no step was ever saved.

        Damaged steps are renamed ``<step>.corrupt`` once a valid one is found.

        Args:
          abstract_state: the wanted tree of shapes, types and shardings (`jax.ShapeDtypeStruct` or arrays).
            A leaf without a sharding goes to this process's first device.

        Raises:
          MismatchError: a valid step holds other leaves; nothing was touched.
          NoValidCheckpoint: there are steps, or some that were set aside, and none is valid.
        """
        self._bring_back_replaced()
        steps = self.all_steps()
        if not steps:
            self._refuse_if_set_aside()
            return None
        restored, damaged = first_valid(self.directory, steps[::-1], abstract_state, partial=False)
        for step, reason in damaged.items():
            fate = "it is passed over" if self.read_only else f"it is set aside as {self._set_aside(step)}"
            log.warning("checkpoint %d is damaged: %s; %s, step %d is taken", step, reason, fate, restored.step)
        return restored

    def restore_step(self, step: int | str, abstract_state: Any, *, partial: bool = False) -> Restored:
        """One step, chosen by a number, ``latest`` or ``best``; nothing is ever set aside.

        Args:
          step: the damaged are passed over, aloud, for ``latest`` and ``best``, not for a number.
          abstract_state: as in `restore`; with ``partial``, any of the state's branches
            (``{"ema": shapes}``), of which nothing may be missing or left over.
          partial: whether the branches that are not asked for are left unread.

        Raises:
          MismatchError: the step holds other leaves.
          NoValidCheckpoint: there is no such step, or it is damaged.
        """
        steps = self.all_steps()
        named = {"latest": steps[::-1], "best": ranked(self._all_values(), self._mode)}
        order = named[str(step)] if str(step) in named else [s for s in steps if str(s) == str(step)]
        if not order:
            found = ", ".join(map(str, steps)) or "none"
            raise NoValidCheckpoint(f"{self.directory}: no checkpoint {step}; there are: {found}")
        restored, damaged = first_valid(self.directory, order, abstract_state, partial)
        for bad, reason in damaged.items():
            log.warning("checkpoint %d is damaged: %s; step %d is taken", bad, reason, restored.step)
        return restored

    def _refuse_if_set_aside(self) -> None:
        aside = sorted(path.name for path in self.directory.glob("*.corrupt*"))
        if aside:
            raise NoValidCheckpoint(f"{self.directory}: only damaged checkpoints are left: {', '.join(aside)}")

    def _set_aside(self, step: int) -> str:
        names = itertools.chain([f"{step}.corrupt"], (f"{step}.corrupt-{n}" for n in itertools.count(2)))
        name = next(name for name in names if not (self.directory / name).exists())
        self._move(str(step), name)
        self._values.pop(step, None)
        return name

    def _bring_back_replaced(self) -> None:
        """A step whose replacement was killed before it was whole stands again."""
        for path in sorted(self.directory.glob("*.replaced")):
            if not self.read_only and not path.with_suffix("").exists():
                self._move(path.name, path.stem)

    def _move(self, old: str, new: str) -> None:
        _barrier(f"before moving {old}")
        if jax.process_index() == 0:
            (self.directory / old).rename(self.directory / new)
        _barrier(f"moved {old}")

    def _write(self, step: int, leaves: dict[str, Any], meta: dict[str, Any], wait: bool) -> None:
        for _ in range(2):
            try:
                self._start(step, leaves, meta)
                if wait:
                    self._writer.wait_until_finished()
            except Exception as error:
                self._failed(error)
                continue
            break
        if wait:
            self._settle()

    def _start(self, step: int, leaves: dict[str, Any], meta: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp

        if self._writer is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._pending = step
        self._sweep()
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(leaves), meta=ocp.args.JsonSave(meta))
        self._writer.save(self.directory / str(step), args=args)

    def _failed(self, error: Exception) -> None:
        """Say the first failure in a row, raise the second."""
        if self._error is not None:
            raise error
        self._error = error
        kind = type(error).__name__
        log.warning("saving checkpoint %s failed (%s: %s); it is tried once more", self._pending, kind, error)

    def _settle(self) -> None:
        """Wait for the save in the background; once it is there, keep only what is to be kept."""
        if self._writer is None or self._pending is None:
            return
        try:
            self._writer.wait_until_finished()
        except Exception as error:
            self._failed(error)
        if (self.directory / str(self._pending)).is_dir():
            self._error = None
            self._prune()
        self._pending = None

    def _prune(self) -> None:
        values = self._all_values()
        for step in set(values) - kept(values, self._keep, self._keep_best, self._mode):
            self._values.pop(step, None)
            if jax.process_index() == 0:
                (self.directory / str(step)).rename(self.directory / f"{step}.deleting")
        self._sweep()

    def _sweep(self) -> None:
        """Delete what a broken save or deletion left behind. No save may be under way."""
        _join_writers()
        _barrier("before the sweep")
        if jax.process_index() == 0:
            for pattern in ("*.deleting", "*.orbax-checkpoint-tmp*", "*.replaced"):
                for path in self.directory.glob(pattern):
                    if path.suffix != ".replaced" or path.with_suffix("").exists():
                        shutil.rmtree(path)
        _barrier("after the sweep")

    def _value(self, metrics: Mapping[str, float]) -> float | None:
        value = float(metrics[self._metric]) if self._metric in metrics else math.nan
        return value if math.isfinite(value) else None

    def _all_values(self) -> dict[int, float | None]:
        """The value of every saved step; None where it was not measured, or under another name."""
        steps = self.all_steps()
        for step in steps:
            if step not in self._values:
                self._values[step] = self._saved_value(step)
        return {step: self._values[step] for step in steps}

    def _saved_value(self, step: int) -> float | None:
        try:
            metric = read_body(self.directory, step)["metric"]
        except Damaged:
            return None
        return metric["value"] if metric["name"] == self._metric else None


def _join_writers() -> None:
    """Wait for the threads of a failed save: Orbax reports the first failure while others still write."""
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            thread.join()


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
