"""What a run does at certain steps beside training: validate, draw a grid, evaluate. Each only reads the state."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from diffusion import evaluate, posthoc, snapshots
from diffusion.cluster import of_first
from diffusion.eval_console import announcements, console_table
from diffusion.eval_report import write_report
from diffusion.generate import images, indices
from diffusion.pictures import grid, save_png
from diffusion.program import Program
from diffusion.progress import say
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


def evaluation(
    program: Program, params: Params, step: int, writers: MultiWriter, between: Callable[[], None]
) -> dict[str, float | None]:
    """Evaluate, write eval/step_*.json and *_classes.csv, show the table, and return the metrics.

    ``between`` is called between two batches; what it raises ends the evaluation, which then goes on another time.
    The metrics are process 0's on every process: which checkpoints are kept hangs on them, and hosts may differ in the
    bits.
    """
    report = evaluate.report(program, params, step, between)
    stem = evaluation_stem(program, step)
    if jax.process_index() == 0:
        write_report(Path(f"{stem}.json"), Path(f"{stem}_classes.csv"), report.body, report.scores.rows)
        say_report(report, program.eval.num_samples_per_class, f"{stem}_classes.csv")
    values = of_first(report.values)
    writers.write(step, values)
    return values


def evaluation_stem(program: Program, step: int) -> Path:
    """Of an evaluation's files; weights that `posthoc` made have files of their own."""
    use = program.optimiser.averages.use
    made = f"_{use.replace(':', '_')}" if use.startswith(posthoc.PREFIX) else ""
    return program.workdir / "eval" / f"step_{step:08d}{made}"


def say_report(report: evaluate.Report, requested: int, where: str) -> None:
    """The per-class table, with a line for each class smaller than asked; ``where`` holds all classes."""
    rows, body = report.scores.rows, report.body
    start = "eval/accuracy/class/"
    read = {name.removeprefix(start): value for name, value in report.values.items() if name.startswith(start)}
    reference = body["reference"]
    say(f"\nEvaluation of step {body['step']} against the {reference['split']} split of {reference['dataset']}")
    if reference["left_out"]:
        say(f"{reference['left_out']} of its records cannot be read; the other {reference['n']} are compared with")
    for line in announcements(rows, requested):
        say(line)
    say(console_table(rows, report.scores.aggregates, body["extractor"]["name"], read, where=where))
    names = ("eval/fd", "eval/fid", "eval/kid_x1e3", "eval/accuracy")
    pooled = "  ".join(f"{name} {report.values[name]:.4g}" for name in names if report.values.get(name) is not None)
    say(f"pooled ({body['pooled_is']}): {pooled}\n")


def places(program: Program) -> str:
    """The paths of what a run wrote, one a line."""
    names = ("checkpoints", "samples", "eval", snapshots.FOLDER, "metrics.jsonl", "config.json", "skipped.jsonl")
    found = [program.workdir / name for name in names]
    return "It wrote:\n" + "\n".join(f"  {path}" for path in found if path.exists())
