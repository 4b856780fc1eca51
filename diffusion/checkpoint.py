"""Checkpoints that are written whole, verified bit for bit, and never silently wrong.

A step is one Orbax composite that becomes visible by a single rename: ``state`` (the arrays, by path), ``meta``
(JSON under a seal: manifest, exact fingerprints of every leaf, and what the caller gives) and ``files.json`` (a
sealed list of their files, by which damage is found before Orbax reads them). Saving
runs in the background (`saving`). Orbax's `CheckpointManager` is not used: it lists steps whose save failed, skips a
save without a word, and lets a NaN be best; here the directory itself is the list.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion.best import kept, ranked
from diffusion.errors import NoValidCheckpoint
from diffusion.leaves import by_path, fingerprints
from diffusion.manifest import Damaged, Manifest, manifest, sealed
from diffusion.restoring import Restored, first_valid, read_body
from diffusion.saving import Saver
from diffusion.stepfolder import StepFolder

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one workdir.

    Every process calls every method; process 0 renames and deletes. The directory is on a file system that
    all processes share and that renames atomically.

    Args:
      directory: made when the first step is saved.
      keep: how many of the newest steps are kept, at least 1.
      keep_best: how many of the best steps are kept beside them.
      keep_every: every step that is a multiple of it is kept too; 0 none.
      best_metric: the name whose value in ``metrics`` ranks the steps.
      best_mode: ``min`` or ``max``.
      read_only: nothing is written, renamed or deleted.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int = 1,
        keep_best: int = 0,
        keep_every: int = 0,
        best_metric: str = "val/loss",
        best_mode: str = "min",
        read_only: bool = False,
    ):
        if keep < 1 or keep_best < 0 or keep_every < 0:
            raise ValueError(f"{keep=} is not at least 1, or {keep_best=} or {keep_every=} is below 0")
        self.directory = Path(directory).absolute()
        self.read_only = read_only
        self._keep, self._keep_best, self._keep_every = keep, keep_best, keep_every
        self._metric, self._mode = best_metric, best_mode
        self._values: dict[int, float | None] = {}
        self._folder = StepFolder(self.directory)
        self._saver = Saver(self._folder)

    def all_steps(self) -> list[int]:
        """The steps whose save was completed, ascending."""
        return self._folder.steps()

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
        fails in the background. Steps saved before stay untouched. Whether it failed is the same on every process.

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
          DiskError: a second save in a row fails and the disk is to blame; no part of it is left.
          Exception: Orbax's own, when a second save in a row fails for another reason.
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
            self._folder.replace(step)
        value = self._value(metrics or {})
        body = {
            "step": step,
            "metric": {"name": self._metric, "mode": self._mode, "value": value},
            "manifest": manifest(state),
            "fingerprints": fingerprints(state),
            "meta": dict(meta),
        }
        leaves, meta = by_path(state), sealed(body)
        for _ in range(2):
            started = self._saver.start(step, leaves, meta)
            if (started and not (wait or replace)) or self._settle():
                break
        self._values[step] = value
        return True

    def check(self) -> bool:
        """Whether the save in the background is well, as far as this process knows; does not wait.

        Returns:
          False once for each save that failed here. Then every process must save at the same step: that is the one
          repetition, and the save that learns of a second failure in a row raises it, on every process.
        """
        return self._saver.check()

    def wait(self) -> None:
        """Return when the last save is on disk. Raises as `save` does when it failed, without repeating it."""
        self._settle()
        self._saver.raise_failure()

    def close(self) -> None:
        """Wait, then let go of the writer's threads. Leaving a program without it loses the last save."""
        try:
            self.wait()
        finally:
            self._saver.close()

    def sweep(self) -> None:
        """Delete what a killed run left half-written. No save may be under way."""
        self._folder.sweep()

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
        if not self.read_only:
            self._folder.bring_back_replaced()
        steps = self.all_steps()
        if not steps:
            self._folder.refuse_if_set_aside()
            return None
        restored, damaged = first_valid(self.directory, steps[::-1], abstract_state, partial=0)
        for step, reason in damaged.items():
            fate = "it is passed over" if self.read_only else f"it is set aside as {self._set_aside(step)}"
            log.warning("checkpoint %d is damaged: %s; %s, step %d is taken", step, reason, fate, restored.step)
        return restored

    def restore_step(self, step: int | str, abstract_state: Any, *, partial: int = 0) -> Restored:
        """One step, chosen by a number, ``latest`` or ``best``; nothing is ever set aside.

        Args:
          step: the damaged are passed over, aloud, for ``latest`` and ``best``, not for a number.
          abstract_state: as in `restore`; with ``partial``, any of the state's branches
            (``{"ema": shapes}``), of which nothing may be missing or left over.
          partial: 0, or how many names of a path make a branch (1: ``ema``); those not asked for are left unread.

        Raises:
          MismatchError: the step holds other leaves.
          NoValidCheckpoint: there is no such step, or it is damaged.
        """
        restored, damaged = first_valid(self.directory, self._order(step), abstract_state, partial)
        for bad, reason in damaged.items():
            log.warning("checkpoint %d is damaged: %s; step %d is taken", bad, reason, restored.step)
        return restored

    def read_meta(self, step: int | str) -> dict[str, Any]:
        """What the caller gave to `save` at a step, chosen as in `restore_step`; no array is read or verified.

        Raises:
          NoValidCheckpoint: there is no such step, or none whose metadata is whole.
        """
        return self._body(step)["meta"]

    def read_manifest(self, step: int | str) -> Manifest:
        """Shape and type of every leaf of a step, read and chosen as by `read_meta`."""
        return self._body(step)["manifest"]

    def _body(self, step: int | str) -> dict[str, Any]:
        for chosen in self._order(step):
            try:
                return read_body(self.directory, chosen)
            except Damaged as error:
                log.warning("checkpoint %d is damaged: %s", chosen, error)
        raise NoValidCheckpoint(f"{self.directory}: no checkpoint is valid")

    def _order(self, step: int | str) -> list[int]:
        """The steps that may be meant by a number, ``latest`` or ``best``, the first choice first; at least one."""
        steps = self.all_steps()
        named = {"latest": steps[::-1], "best": ranked(self._all_values(), self._mode)}
        order = named[str(step)] if str(step) in named else [s for s in steps if str(s) == str(step)]
        if not order:
            found = ", ".join(map(str, steps)) or "none"
            raise NoValidCheckpoint(f"{self.directory}: no checkpoint {step}; there are: {found}")
        return order

    def _set_aside(self, step: int) -> str:
        self._values.pop(step, None)
        return self._folder.set_aside(step)

    def _settle(self) -> bool:
        """Wait for the save in the background; once it is there, keep only what is to be kept."""
        if not self._saver.settle():
            return False
        values = self._all_values()
        retired = set(values) - kept(values, self._keep, self._keep_best, self._mode, self._keep_every)
        for step in retired:
            self._values.pop(step, None)
        self._folder.retire(retired)
        self._folder.sweep()
        return True

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
