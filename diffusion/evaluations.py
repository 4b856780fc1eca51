"""Evaluations as events: every variant of a sweep, its files, its figures and its table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from diffusion import evaluate, posthoc, supports
from diffusion.class_figure import class_figure
from diffusion.cluster import of_first
from diffusion.drawn_rows import best_and_worst, sets_of, suspicious_pairs
from diffusion.eval_console import announcements
from diffusion.eval_curves import Point, points_of, sweep_figure, write_curve
from diffusion.eval_report import write_report
from diffusion.eval_sheets import ClassImages, filled, set_sheet
from diffusion.eval_tables import network_of_rows, tables
from diffusion.evaluate import Report
from diffusion.pictures import grid, save_png
from diffusion.program import Program
from diffusion.progress import say
from diffusion.types import Params
from diffusion.variants import Variant, own, variants
from diffusion.writers import MultiWriter

LOGGED = ("class/", "group/")  # of a sweep, figures of these stand in its files alone


@dataclass(frozen=True)
class Evaluated:
    """What one event found.

    Attributes:
      values: the metrics, by logged name.
      points: the figures over all classes, for a curve.
      extractor: whose features were compared.
    """

    values: dict[str, float | None]
    points: list[Point]
    extractor: str


def evaluation(
    program: Program, weights: Mapping[str, Params], step: int, writers: MultiWriter, between: Callable[[], None]
) -> Evaluated:
    """Evaluate the run's own average and scale and those of the sweep, write and show what was found.

    ``between`` is called between two batches; what it raises ends the evaluation, which then goes on another time.
    The metrics are process 0's on every process: which checkpoints are kept hangs on them, and hosts may differ in the
    bits.

    Args:
      weights: the averages by name, those of ``eval.emas`` among them.
    """
    values: dict[str, float | None] = {}
    points: list[Point] = []
    chunks: list[Path | None] = []
    for variant in variants(program):
        report = evaluate.report(program, weights[variant.average], step, between, variant)
        head = f"Evaluation of step {step}" + ("" if variant.own else f", {variant.label}")
        publish(program, report, stem(program, step, variant), head, writers, step, variant.prefix)
        values |= {name: value for name, value in report.values.items() if variant.own or _logged(name)}
        values |= {"perf/eval_seconds": values.get("perf/eval_seconds", 0.0) + report.body["seconds"]}
        points += points_of(report.scores.figures, step, variant.average, variant.scale)
        chunks.append(report.compared.chunks)
    if jax.process_index() == 0 and len({(p.ema, p.guidance_scale) for p in points}) > 1:
        swept = stem(program, step).with_name(f"sweep_{step:08d}{own(program).suffix}")
        write_curve(swept.with_suffix(".csv"), points)
        save_figure(swept.with_suffix(".png"), sweep_figure(points, extractor_of(report)))
    evaluate.forget(*chunks)
    values = of_first(values)
    writers.write(step, values)
    return Evaluated(values, points, extractor_of(report))


def publish(
    program: Program,
    report: Report,
    stem: Path,
    head: str,
    writers: MultiWriter | None = None,
    step: int = 0,
    prefix: str = "eval/",
) -> None:
    """JSON, CSV and figures beside ``stem``, and the table; the first process does it, the others help to draw.

    ``writers`` get the pictures under names that begin with ``prefix``, as the figures' do.
    """
    sheets = {
        "images": best_and_worst(report.compared, report.scores.rows),
        "suspicious": suspicious_pairs(report.compared, report.scores.suspicious),
    }
    sets = sets_of(report.compared)
    if sets:
        sheets["sets"] = set_sheet(sets, set_columns(program))
    if jax.process_index() != 0:
        return
    write_report(beside(stem, ".json"), beside(stem, "_classes.csv"), report.body, report.scores.rows)
    save_figure(beside(stem, "_classes.png"), class_figure(report.scores.rows, extractor_of(report)))
    for name, sheet in sheets.items():
        save_figure(beside(stem, f"_{name}.png"), sheet)
        if sheet is not None and writers is not None:
            writers.image(step, f"{prefix}{name}", sheet)
    for side, sheet in each_side(sets).items() if writers is not None else ():
        writers.image(step, f"{prefix}{side}", sheet)
    say_report(program, report, head, f"{stem}_classes.csv")


def set_columns(program: Program) -> dict[str, int]:
    """Tiles of a row of the sheet of sets."""
    size = program.loading.sets.size
    return {"support": supports.places(program), "generated": size, "real": size}


def each_side(sets: Mapping[str, Sequence[ClassImages]]) -> dict[str, np.ndarray]:
    """The same sets as one labelled grid for each of support, generated and real, for trackers."""
    rows = [one for some in sets.values() for one in some]
    found = {}
    for side in ("support", "generated", "real") if rows else ():
        columns = max(1, *(len(getattr(one, side)) for one in rows))
        tiles = np.concatenate([filled(getattr(one, side), columns) for one in rows])
        found[side] = grid(tiles, columns, labels=[one.name for one in rows])
    return found


def stem(program: Program, step: int, variant: Variant | None = None) -> Path:
    """Of an evaluation's files; weights that `posthoc` made, points of a sweep and other sets have their own."""
    use = program.optimiser.averages.use
    made = f"_{use.replace(':', '_')}" if use.startswith(posthoc.PREFIX) else ""
    return program.workdir / "eval" / f"step_{step:08d}{made}{(variant or own(program)).suffix}"


def beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def save_figure(path: Path, figure) -> None:
    """A picture, where there is one; where there is none, that of an evaluation before goes."""
    if figure is None:
        path.unlink(missing_ok=True)
    else:
        save_png(path, figure)


def extractor_of(report: Report) -> str:
    """Whose features FD was taken on."""
    return network_of_rows(report.scores.extractors, report.scores.extractor)


def say_report(program: Program, report: Report, head: str, where: str) -> None:
    """The tables of classes, groups and pooled figures, with a line for each class smaller than asked."""
    scores, body = report.scores, report.body
    reference = body["reference"]
    say(f"\n{head} against the {reference['split']} split of {reference['dataset']}: {body['seconds']:.1f} s")
    if reference["left_out"]:
        say(f"{reference['left_out']} of its records cannot be read; the other {reference['n']} are compared with")
    for line in announcements(scores.rows, program.eval.num_samples_per_class):
        say(line)
    say(tables(scores, where=where, over=body["pooled_is"], notes=body["notes"]) + "\n")


def _logged(name: str) -> bool:
    return not any(part in name for part in LOGGED)
