"""What a run does at certain steps beside training: draw a grid, take a snapshot. Each only reads the state."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from diffusion import snapshots, splits, supports
from diffusion.eval_sheets import ClassImages, set_sheet
from diffusion.generate import images
from diffusion.pictures import grid, save_png
from diffusion.plan import indices
from diffusion.planned import grid_classes
from diffusion.program import Program
from diffusion.state import TrainState
from diffusion.types import Params
from diffusion.writers import MultiWriter


def snapshot(program: Program, state: TrainState, step: int) -> None:
    """ema_snapshots/step_<8 digits>.npz: all averages, from which `posthoc` makes others."""
    origin = snapshots.Origin(step, int(state.updates), dict(program.optimiser.averages.sigma_rels))
    snapshots.write(snapshots.path_at(program.workdir, step), origin, state.ema)


def sample_grid(program: Program, params: Params, step: int, writers: MultiWriter, between: Callable[[], None]) -> Path:
    """samples/step_<8 digits>.png: a row per class, the same noise at every step; beside it what the net was shown."""
    names, columns = program.dataset.classes, program.sample.per_class
    shown = grid_classes(program)
    label = np.repeat(shown, columns)
    drawn = images(program, params, label, indices(label), seed=program.seed, purpose="grid", between=between)
    if supports.needed(program):
        sheet = _beside_supports(program, shown, drawn)
    else:
        sheet = labelled_grid(drawn, columns, [names[c] for c in shown] if names else [])
    path = program.workdir / "samples" / f"step_{step:08d}.png"
    if jax.process_index() == 0:
        save_png(path, sheet)
        writers.image(step, "samples", sheet)
    return path


def _beside_supports(program: Program, classes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A row per class: the support of its first image, and its images u8[k * per_class h w c]."""
    dataset, support, columns = program.dataset, supports.of_split(program, program.seed), program.sample.per_class
    parts: dict[str, list[ClassImages]] = {}
    for c, some in zip(classes.tolist(), np.split(drawn, len(classes)), strict=True):
        part = "seen" if c in dataset.seen else "never seen" if dataset.seen else ""
        own = supports.pictures(program, support.shown(c, 0))
        parts.setdefault(part, []).append(ClassImages(dataset.classes[c], "", some[:0], some, own))
    return set_sheet(parts, {"support": supports.places(program), "generated": columns})


def labelled_grid(drawn: np.ndarray, columns: int, labels: Sequence[str]) -> np.ndarray:
    """u8[n h w c] -> u8[H W c], one label a row."""
    return grid(drawn, columns, labels=list(labels))


def places(program: Program) -> str:
    """The paths of what a run wrote, one a line."""
    folders = ("checkpoints", "samples", "eval", snapshots.FOLDER)
    found = [
        program.workdir / name for name in (*folders, "metrics.jsonl", "config.json", splits.NAME, "skipped.jsonl")
    ]
    return "It wrote:\n" + "\n".join(f"  {path}" for path in found if path.exists())
