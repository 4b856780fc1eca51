"""A run on disk: what stands in a workdir, whether a config may go on with it, and the weights to read from it."""

import contextlib
import functools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion import cluster, disk, initial, posthoc, resume, saved_ema, snapshots, state
from diffusion.best import BestRecord
from diffusion.checkpoint import Checkpoints
from diffusion.cluster import barrier
from diffusion.environment import environment
from diffusion.errors import ConfigError, DiskError, MismatchError
from diffusion.keys import of_purpose
from diffusion.leaves import by_path, rebuild
from diffusion.lr_schedules import plateau_state
from diffusion.manifest import json_sha256, manifest, mismatches
from diffusion.mesh import made, on_mesh
from diffusion.planned import planned_snapshots
from diffusion.program import Program, abstract_params
from diffusion.progress import say
from diffusion.restoring import Restored
from diffusion.sample_step import Weaker
from diffusion.saving import room_for
from diffusion.state import TrainState
from diffusion.types import Params

log = logging.getLogger(__name__)


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
    return Checkpoints(folder, c.keep, c.keep_best, c.keep_every, *program.best, read_only=read_only)


def start(program: Program, saved: Checkpoints, identity: dict[str, Any]) -> Start:
    """Restore the newest valid checkpoint, or make a fresh state where the workdir holds no run.

    Args:
      identity: of the training data, compared with the saved one.

    Raises:
      ConfigError: ``checkpoint.resume=never`` and the workdir holds a run.
      MismatchError: the run was made by another config or on other data.
      NoValidCheckpoint: there are checkpoints, and none is valid.
    """
    changed = differences(program, saved) or []
    barrier("the workdir is read")  # before process 0 writes there what another might take for an older run
    restored = saved.restore(_abstract_state(program))
    if restored is None:
        return Start(_fresh_state(program), None, [])
    changed += [d for d in _check_sealed_config(program, restored.meta) if d not in changed]
    data = restored.meta["data"]
    allowed = {name.split(".")[0] for name in program.resume_allow}
    known = {"draws"} if "balance" in allowed else set()
    differing = [
        f"  {k}: saved {data.get(k)!r}, now {v!r}" for k, v in identity.items() if data.get(k) != v and k not in known
    ]
    if differing and "data" not in allowed:
        raise MismatchError("this run was trained on other data:\n" + "\n".join(differing) + "\ntake another workdir")
    return Start(restored.state, restored.meta, changed)


def differences(program: Program, saved: Checkpoints) -> list[resume.Difference] | None:
    """Fields in which this command knowingly differs from the run that it goes on with; None where there is none.

    Raises:
      ConfigError, MismatchError: as `start` does of the config; no data is needed.
    """
    config_file = program.workdir / "config.json"
    if program.checkpoint.resume == "never" and (config_file.exists() or saved.directory.exists()):
        raise ConfigError("checkpoint.resume", f"never, but {program.workdir} holds a run; take another --workdir")
    if not (saved.directory.exists() and any(saved.directory.iterdir())):
        return None
    return _check_config(program, config_file) if config_file.exists() else []


def check_workdir(program: Program) -> None:
    """Raises ConfigError where the workdir cannot be written. Leaves nothing behind."""
    why = cluster.of_first(disk.unwritable(program.workdir) if jax.process_index() == 0 else None)
    if why:
        raise ConfigError("--workdir", f"{program.workdir} cannot be written: {why}; take another one")


@contextlib.contextmanager
def alone(program: Program) -> Iterator[None]:
    """Keep other runs out of the workdir. Raises ConfigError where one is at work there."""
    with contextlib.ExitStack() as until:
        held = jax.process_index() != 0 or until.enter_context(disk.held(program.workdir / ".lock"))
        if not cluster.of_first(held):
            raise ConfigError("--workdir", f"another run is at work in {program.workdir}; wait, or take another one")
        yield


def check_room(program: Program, saved: Checkpoints) -> None:
    """What a killed run left half-written is deleted; then there must be room for a checkpoint.

    Raises:
      DiskError: there is not. Too little room for all that will be kept is only said.
    """
    saved.sweep()
    one = room_for(by_path(_abstract_state(program)))
    free, there = cluster.of_first([disk.free_bytes(saved.directory), len(saved.all_steps())])
    if free < one:
        raise DiskError(
            f"{program.workdir}: a checkpoint needs about {disk.readable(one)} and {disk.readable(free)} are free"
        )
    c = program.checkpoint
    kept = c.keep + c.keep_best + (program.train.steps // c.keep_every if c.keep_every else 0)
    number, size = planned_snapshots(program)
    missing = size * max(number - cluster.of_first(len(snapshots.in_workdir(program.workdir))), 0)
    if free < one * (kept + 1 - there) + missing:
        log.warning(
            "%s: %d checkpoints are kept, which with one more while it is written%s need about %s; %s are free",
            *(program.workdir, kept, f" and {number} snapshots" * bool(number)),
            *(disk.readable(one * (kept + 1) + size * number), disk.readable(free)),
        )


def facts(program: Program, state: TrainState) -> dict[str, Any]:
    """What every checkpoint says of its run, as plain JSON: config, versions, counters, and where the data stands."""
    counters = {name: int(getattr(state, name)) for name in ("step", "updates", "bad_in_row", "bad_total")}
    epoch, batch = divmod(counters["step"], program.steps_per_epoch)
    return {
        "config": program.config,
        "config_sha256": json_sha256(program.config),
        "environment": environment(),
        "counters": counters,
        "position": {"epoch": epoch, "batch": batch},  # of the next batch, both from 0
    }


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


def ema_weights(program: Program, step: str, name: str = "") -> Restored:
    """This workdir's checkpoint ``step`` (latest, best or a number), of which only the EMA ``name`` is read.

    Args:
      name: of the average; ``ema.use`` where empty.

    Weights that `posthoc` made are read from their own file, without any meta.

    Raises:
      NoValidCheckpoint: there is none such. MismatchError: it holds another net.
      ConfigError, DataError: `posthoc` made no such weights, or their file is damaged.
    """
    saved, use = checkpoints(program, read_only=True), name or program.optimiser.averages.use
    if use.startswith(posthoc.PREFIX):
        wanted = str(saved.best()) if step == "best" else step
        return _posthoc_weights(program, use.removeprefix(posthoc.PREFIX), wanted)
    return saved_ema.whole(saved, step, use, on_mesh(program.mesh, abstract_params(program)))


def _posthoc_weights(program: Program, name: str, step: str) -> Restored:
    if not program.optimiser.averages.sigma_rels:
        raise ConfigError("ema.use", f"this run's ema.name is {program.config['ema']['name']}; only power gives others")
    made = posthoc.made(program.workdir, name)
    if not made or (step != "latest" and step not in map(str, made)):
        there = f"of steps {', '.join(map(str, made))} alone" if made else "not yet"
        raise ConfigError(
            "ema.use",
            f"{program.workdir / posthoc.FOLDER} holds {posthoc.PREFIX}{name} {there}, step {step} is asked; make it: "
            f"--mode=posthoc --config.posthoc.sigma_rel={name}"
            + (f" --config.posthoc.step={step}" if step != "latest" else ""),
        )
    chosen = max(made) if step == "latest" else int(step)
    _, arrays = snapshots.read(made[chosen])
    wanted = check_net(program, made[chosen], arrays, name)
    placed = {
        path: jax.make_array_from_callback(leaf.shape, leaf.sharding, arrays[path].__getitem__)
        for path, leaf in by_path(wanted).items()
    }
    return Restored(rebuild(wanted, placed)[name], {}, chosen)


def check_net(program: Program, path: Path, arrays: Mapping[str, Any], name: str) -> Any:
    """``{name: shapes}`` of the net's weights on the mesh, which the arrays must have. Raises MismatchError."""
    wanted = {name: on_mesh(program.mesh, abstract_params(program))}
    lines = mismatches(manifest(dict(arrays)), manifest(wanted))
    if lines:
        raise MismatchError(f"{path} does not fit this config's net\n  " + "\n  ".join(lines))
    return wanted


def weaker_weights(program: Program) -> Params | None:
    """EMA weights of the net that ``sampler.autoguidance`` leads away from, on the mesh; None without one.

    Raises:
      NoValidCheckpoint: there is none such. MismatchError: it holds another net.
    """
    weaker = program.sampling.guidance.weaker
    return None if weaker is None else _weaker_weights(weaker, program.mesh)


@functools.cache
def _weaker_weights(weaker: Weaker, mesh: Mesh) -> Params:
    """Once for all guidance scales."""
    saved = saved_ema.checkpoints_of(weaker.folder, weaker.step)
    params = jax.eval_shape(lambda: weaker.net.init(jax.random.key(0)))
    return saved_ema.whole(saved, weaker.step, saved_ema.used_by(saved, weaker.step), on_mesh(mesh, params)).state


def _check_sealed_config(program: Program, meta: dict[str, Any]) -> list[resume.Difference]:
    """As `_check_config`, with the config inside the checkpoint: config.json may be gone or edited by hand."""
    if meta["config_sha256"] == json_sha256(program.config):
        return []
    return _differences(program, meta["config"])


def _check_config(program: Program, path: Path) -> list[resume.Difference]:
    return _differences(program, json.loads(path.read_text()))


def _differences(program: Program, saved: dict[str, Any]) -> list[resume.Difference]:
    depends, saved = program.schedule.depends_on_steps, resume.completed(saved, program.defaults)
    return resume.check_config(saved, program.config, depends_on_steps=depends, allow=program.resume_allow)


def _fresh_state(program: Program) -> TrainState:
    def make(whole: Params | None, parts: Params) -> TrainState:
        key = of_purpose(jax.random.key(program.seed), "init")
        given = jax.tree.map(jnp.copy, (whole, parts))
        params = program.diffusion.net.init(key) if whole is None else given[0]
        return _created(program, {**params, **given[1]})

    given = initial.whole_net(program), initial.parts(program)
    say("Compiling the initial state …")
    return made(program.mesh, make, *given)


def _abstract_state(program: Program) -> TrainState:
    return on_mesh(program.mesh, jax.eval_shape(functools.partial(_created, program), abstract_params(program)))


def _created(program: Program, params: Params) -> TrainState:
    o, density = program.optimiser, program.diffusion.density.init()
    return state.create(params, o.tx, plateau_state(), program.seed, o.averages.decays, density)
