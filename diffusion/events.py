"""What a run does at certain steps beside training: draw a grid, take a snapshot. Each only reads the state."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from diffusion import snapshots
from diffusion.generate import images
from diffusion.pictures import grid, save_png
from diffusion.plan import indices
from diffusion.program import Program
from diffusion.state import TrainState
from diffusion.types import Params
from diffusion.writers import MultiWriter

GRID_ROWS = 20  # classes in a sample grid, evenly spread where there are more


def snapshot(program: Program, state: TrainState, step: int) -> None:
    """ema_snapshots/step_<8 digits>.npz: all averages, from which `posthoc` makes others."""
    origin = snapshots.Origin(step, int(state.updates), dict(program.optimiser.averages.sigma_rels))
    snapshots.write(snapshots.path_at(program.workdir, step), origin, state.ema)


def sample_grid(program: Program, params: Params, step: int, writers: MultiWriter, between: Callable[[], None]) -> Path:
    """samples/step_<8 digits>.png: a row per class, the same noise at every step."""
    names = program.dataset.classes
    shown = np.unique(np.linspace(0, max(len(names), 1) - 1, GRID_ROWS).round().astype(int))
    label = np.repeat(shown, program.sample.per_class)
    drawn = images(program, params, label, indices(label), seed=program.seed, purpose="grid", between=between)
    sheet = labelled_grid(drawn, program.sample.per_class, [names[c] for c in shown] if names else [])
    path = program.workdir / "samples" / f"step_{step:08d}.png"
    if jax.process_index() == 0:
        save_png(path, sheet)
        writers.image(step, "samples", sheet)
    return path


def labelled_grid(drawn: np.ndarray, columns: int, labels: Sequence[str]) -> np.ndarray:
    """u8[n h w c] -> u8[H W c], one label a row."""
    return grid(drawn, columns, labels=list(labels))


def places(program: Program) -> str:
    """The paths of what a run wrote, one a line."""
    names = ("checkpoints", "samples", "eval", snapshots.FOLDER, "metrics.jsonl", "config.json", "skipped.jsonl")
    found = [program.workdir / name for name in names]
    return "It wrote:\n" + "\n".join(f"  {path}" for path in found if path.exists())
