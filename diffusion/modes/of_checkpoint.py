"""Modes that read a run's checkpoint: evaluate it, or draw images from it. They never touch its checkpoints."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion import events, feed, runs, splits, supports
from diffusion.drawing import asked_drawing
from diffusion.ends import open_writers
from diffusion.errors import ConfigError
from diffusion.eval_curves import curve_figure, write_curve
from diffusion.eval_sheets import support_sheet
from diffusion.evaluate import check
from diffusion.evaluations import Evaluated, evaluation, save_figure
from diffusion.generate import asked_labels, images
from diffusion.modes.of_images import evaluate_images
from diffusion.pictures import save_each, save_png
from diffusion.program import Program
from diffusion.progress import say
from diffusion.signals import StopRequest
from diffusion.variants import own
from diffusion.writers import MultiWriter

COLUMNS = 16  # of the sheet in samples.png, where images are not asked for class by class
TRAJECTORIES = 8  # images whose way is shown in trajectory.png


def evaluate(program: Program, stop: StopRequest) -> None:
    """Evaluate the EMA weights of ``eval.step``, or of every checkpoint; the run's files and trackers get the figures.

    Those of weights that `posthoc` made stand in files of their own alone: the log is the trained averages'.

    Raises:
      Stopped: asked to; the same command goes on with the next batch of images.
    """
    if not program.eval.metrics:
        raise ConfigError("eval.metrics", "is (): there is nothing to evaluate")
    splits.check(program)
    if program.eval.images:
        evaluate_images(program, stop)
        return
    check(program)
    feed.skipped(program).keep_in(program.workdir)
    steps = [program.eval.step]
    if program.eval.step == "all":
        there = sorted(runs.checkpoints(program, read_only=True).all_steps())
        steps = [str(step) for step in there] or ["latest"]  # of which there is none either, as reading it says
    found = [_evaluated(program, step, stop) for step in steps]
    folder = program.workdir / "eval"
    say(f"It wrote:\n  {folder}/")
    if len(steps) > 1 and jax.process_index() == 0:
        points = [point for one in found for point in one.points]
        suffix = own(program).suffix
        write_curve(folder / f"curve{suffix}.csv", points)
        save_figure(folder / f"curve{suffix}.png", curve_figure(points, found[0].extractor))


def _evaluated(program: Program, step: str, stop: StopRequest) -> Evaluated:
    """One checkpoint."""
    use = program.optimiser.averages.use
    params, meta, found = runs.ema_weights(program, step)
    weights = {use: params} | {name: runs.ema_weights(program, str(found), name).state for name in program.eval.emas}
    with contextlib.closing(_writers(program, meta)) as writers:
        return evaluation(program, weights, found, writers, stop.check)


def _writers(program: Program, meta: Mapping[str, Any]) -> MultiWriter:
    """Those of the run; none for weights that `posthoc` made."""
    return open_writers(program, wandb_id=meta["writers"]["wandb_id"]) if meta else MultiWriter([])


def sample(program: Program, stop: StopRequest) -> None:
    """samples.npz and samples.png of the classes or the support asked for, from the EMA weights of ``sample.step``.

    Raises:
      ConfigError: a field of ``sample`` that cannot be; nothing is written.
    """
    splits.check(program)
    s, support, shown = program.sample, None, None
    if s.support:
        support, shown = supports.of_path(program, s.support, s.seed)
    names = () if s.support else program.dataset.classes  # a support is of no known class
    label = asked_labels(s.classes, s.num, names)
    if supports.needed(program) and not s.support:
        supports.check(program, np.unique(label).tolist(), "sample.classes")
    asked = asked_drawing(program, label, support)
    params, _, step = runs.ema_weights(program, s.step)
    drawn = images(program, params, seed=s.seed, purpose="sample", between=stop.check, **vars(asked))
    if jax.process_index() != 0:
        return
    folder = Path(s.out) if s.out else program.workdir
    folder.mkdir(parents=True, exist_ok=True)
    paths, drawn = (drawn, drawn[:, -1]) if s.trajectory else (None, drawn)
    arrays = {"images": drawn} | ({"labels": asked.label.astype(np.int32)} if names else {})
    if supports.needed(program):
        sets = (support or supports.of_split(program, s.seed)).of(asked.label, asked.index)
        arrays |= {"set": sets.images, "set_valid": sets.valid}
    partial = folder / f".samples.{os.getpid()}.npz"
    np.savez(partial, **arrays)
    os.replace(partial, folder / "samples.npz")
    written = [folder / "samples.npz", save_png(folder / "samples.png", _sheet(program, drawn, shown))]
    if paths is not None:
        written.append(save_png(folder / "trajectory.png", trajectory_sheet(paths)))
    if s.pngs:
        written.append(save_each(folder / "images", drawn, [names[c] for c in asked.label] if names else []))
    _say_sampled(program, step, asked.label, names, shown)
    say("It wrote:\n" + "\n".join(f"  {path}" for path in written))


def _sheet(program: Program, drawn: np.ndarray, shown: np.ndarray | None) -> np.ndarray:
    if shown is not None:
        return support_sheet(shown, drawn)
    columns = program.sample.interpolate + 1 if program.sample.interpolate else COLUMNS
    return events.labelled_grid(drawn, min(len(drawn), columns), [])


def _say_sampled(
    program: Program, step: int, label: np.ndarray, names: Sequence[str], shown: np.ndarray | None
) -> None:
    counts = ", ".join(f"{names[c]}: {n}" for c, n in enumerate(np.bincount(label)) if n) if names else ""
    use = program.optimiser.averages.use
    weights = "EMA weights" if use == "ema" else f"EMA weights {use}"
    say(f"{len(label)} images from the {weights} of step {step}{f' ({counts})' if counts else ''}")
    if shown is not None:
        most = supports.places(program)
        each = "" if len(shown) <= most else f"; each image is drawn from {most} of them"
        say(f"{len(shown)} support images from {program.sample.support}{each}")


def trajectory_sheet(paths: np.ndarray) -> np.ndarray:
    """u8[H W c] of u8[n steps+1 h w c]: a row per image, its predictions from noise to the image, evenly chosen."""
    shown = np.unique(np.linspace(0, paths.shape[1] - 1, COLUMNS).round().astype(int))
    some = paths[:TRAJECTORIES, shown]
    return events.labelled_grid(some.reshape(-1, *some.shape[2:]), len(shown), [])
