"""A run on disk: what stands in a workdir, whether a config may go on with it, and the weights to read from it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from diffusion import resume, state
from diffusion.best import BestRecord
from diffusion.build import Program, abstract_params
from diffusion.checkpoint import Checkpoints
from diffusion.cluster import barrier
from diffusion.errors import ConfigError, MismatchError, NoValidCheckpoint
from diffusion.keys import of_purpose
from diffusion.lr_schedules import plateau_state
from diffusion.mesh import replicated
from diffusion.restoring import Restored
from diffusion.state import TrainState
from diffusion.types import Params


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
      state: fresh or restored, on the mesh.
      meta: what the checkpoint's save was given; None on a fresh start.
      changed: fields that differ from the saved run's and were knowingly allowed.
    """

    state: TrainState
    meta: dict[str, Any] | None
    changed: list[resume.Difference]


def checkpoints(program: Program, *, read_only: bool = False) -> Checkpoints:
    c = program.checkpoint
    folder = program.workdir / "checkpoints"
    return Checkpoints(folder, c.keep, c.keep_best, *program.best, read_only=read_only)


def start(program: Program, saved: Checkpoints, identity: dict[str, Any]) -> Start:
    """Restore the newest valid checkpoint, or make a fresh state where the workdir holds no run.

    Args:
      identity: of the training data, compared with the saved one.

    Raises:
      ConfigError: ``checkpoint.resume=never`` and the workdir holds a run.
      MismatchError: the run was made by another config or on other data.
      NoValidCheckpoint: there are checkpoints, and none is valid.
    """
    config_file = program.workdir / "config.json"
    if program.checkpoint.resume == "never" and (config_file.exists() or saved.directory.exists()):
        raise ConfigError("checkpoint.resume", f"never, but {program.workdir} holds a run; take another --workdir")
    held = saved.directory.exists() and any(saved.directory.iterdir())
    changed = _check_config(program, config_file) if held and config_file.exists() else []
    barrier("the workdir is read")  # before process 0 writes there what another might take for an older run
    restored = saved.restore(_abstract_state(program))
    if restored is None:
        return Start(_fresh_state(program), None, [])
    data = restored.meta["data"]
    differing = [f"  {k}: saved {data.get(k)!r}, now {v!r}" for k, v in identity.items() if data.get(k) != v]
    if differing and not any(name.split(".")[0] == "data" for name in program.resume_allow):
        raise MismatchError("this run was trained on other data:\n" + "\n".join(differing) + "\ntake another workdir")
    return Start(restored.state, restored.meta, changed)


def write_config(program: Program) -> None:
    """config.json of the workdir, whole or not at all."""
    path = program.workdir / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(program.config, indent=2, allow_nan=False) + "\n")
    os.replace(partial, path)


def best_record(program: Program, meta: dict[str, Any] | None) -> BestRecord:
    """The saved record, or an empty one; another metric starts anew."""
    fresh = BestRecord(*program.best)
    saved = BestRecord(**meta["best"]) if meta else fresh
    return saved if (saved.metric, saved.mode) == program.best else fresh


def ema_weights(program: Program, step: str) -> Restored:
    """This workdir's checkpoint ``step`` (latest, best or a number), of whose state the EMA weights alone are read.

    Raises:
      NoValidCheckpoint: there is none such. MismatchError: it holds another net.
    """
    return _ema_of(program, checkpoints(program, read_only=True), step)


def _ema_of(program: Program, saved: Checkpoints, step: str) -> Restored:
    restored = saved.restore_step(step, {"ema": _on_mesh(program, abstract_params(program))}, partial=True)
    return restored._replace(state=restored.state["ema"])


def _check_config(program: Program, path: Path) -> list[resume.Difference]:
    saved = json.loads(path.read_text())
    depends = program.schedule.depends_on_steps
    return resume.check_config(saved, program.config, depends_on_steps=depends, allow=program.resume_allow)


def _fresh_state(program: Program) -> TrainState:
    initial = None
    if program.init_from:
        folder, _, step = program.init_from.partition(":")
        saved = Checkpoints(Path(folder) / "checkpoints", read_only=True)
        try:
            initial = _ema_of(program, saved, step or "latest").state
        except NoValidCheckpoint as error:
            raise ConfigError("init_from", str(error)) from error

    def make() -> TrainState:
        key = of_purpose(jax.random.key(program.seed), "init")
        params = program.diffusion.net.init(key) if initial is None else jax.tree.map(jnp.copy, initial)
        return state.create(params, program.optimiser.tx, plateau_state(), program.seed)

    return jax.jit(make, out_shardings=replicated(program.mesh))()


def _abstract_state(program: Program) -> TrainState:
    def make(params: Params) -> TrainState:
        return state.create(params, program.optimiser.tx, plateau_state(), program.seed)

    return _on_mesh(program, jax.eval_shape(make, abstract_params(program)))


def _on_mesh(program: Program, tree: Any) -> Any:
    whole = replicated(program.mesh)
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole), tree)
