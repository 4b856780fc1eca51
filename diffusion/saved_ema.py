"""The EMA weights in any run's checkpoints, whole or one part of the net, whatever made the run."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.checkpoint import Checkpoints
from diffusion.errors import ConfigError
from diffusion.leaves import host
from diffusion.parts import part_of
from diffusion.restoring import Restored


def named_run(text: str) -> tuple[Path, str]:
    """(workdir, step) of WORKDIR or WORKDIR:STEP; the step is latest, best or a number."""
    folder, _, step = text.partition(":")
    return Path(folder), step or "latest"


def checkpoints_of(folder: Path, step: str) -> Checkpoints:
    """A run's checkpoints, to be read alone; ``best`` is by the metric that ranks them.

    Raises:
      NoValidCheckpoint: there is none.
    """
    saved = Checkpoints(folder / "checkpoints", read_only=True)
    if step != "best":
        return saved
    ranked = saved.read_meta("latest")["config"]["checkpoint"]
    metric, mode = ranked["best_metric"], ranked["best_mode"]
    return Checkpoints(saved.directory, best_metric=metric, best_mode=mode, read_only=True)


def used_by(saved: Checkpoints, step: str) -> str:
    """The name of the average that the run uses."""
    return saved.read_meta(step)["config"]["ema"]["use"]


def whole(saved: Checkpoints, step: str, name: str, params: Any) -> Restored:
    """All of an average.

    Args:
      name: of the average.
      params: shapes of the net's weights, and where they are to lie.

    Raises:
      NoValidCheckpoint: there is no such step, or it is damaged. MismatchError: it is of another net.
    """
    restored = saved.restore_step(step, {"ema": {name: params}}, partial=2)
    return restored._replace(state=restored.state["ema"][name])


def one_part(saved: Checkpoints, step: str, key: str, leaves: Any) -> Any:
    """One part of the average that the run uses; nothing else is read.

    Args:
      key: of the part in the params tree.
      leaves: its shapes, and where they are to lie.

    Raises:
      NoValidCheckpoint: there is no such step, or it is damaged. MismatchError: its part has other leaves.
    """
    name = used_by(saved, step)
    return saved.restore_step(step, {"ema": {name: {key: leaves}}}, partial=3).state["ema"][name][key]


def part_arrays(folder: Path, step: str, part: str) -> tuple[int, dict[str, np.ndarray]]:
    """(step, {path within the part: f32}) of the average that a run uses, its net known from the checkpoint alone.

    Raises:
      NoValidCheckpoint: there is no such step, or it is damaged. ConfigError: its net has no such part.
    """
    saved = checkpoints_of(folder, step)
    branch = f"ema/{used_by(saved, step)}/"
    held = {path: leaf for path, leaf in saved.read_manifest(step).items() if path.startswith(branch)}
    of_part = {path: path.removeprefix(branch).partition("/") for path in held}
    wanted = {
        path: jax.ShapeDtypeStruct(held[path]["shape"], held[path]["dtype"])
        for path, (key, _, _) in of_part.items()
        if part_of(key) == part
    }
    if not wanted:
        parts = dict.fromkeys(part_of(key) for key, _, _ in of_part.values())
        raise ConfigError("PART", f"{part!r} is not a part of the net of {folder}; they are {', '.join(parts)}")
    restored = saved.restore_step(step, wanted, partial=3)
    return restored.step, {of_part[path][2]: host(leaf) for path, leaf in restored.state.items()}
