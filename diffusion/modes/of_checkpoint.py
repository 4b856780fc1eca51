"""Modes that read a run's checkpoint: evaluate it, or draw images from it. They never touch its checkpoints."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion import events, feed, runs
from diffusion.errors import ConfigError
from diffusion.generate import asked_labels, images, indices
from diffusion.pictures import save_png
from diffusion.program import Program
from diffusion.progress import say
from diffusion.signals import StopRequest
from diffusion.writers import MultiWriter, make_writers

COLUMNS = 16  # of the sheet in samples.png, where images are not asked for class by class


def evaluate(program: Program, stop: StopRequest) -> None:
    """Evaluate the EMA weights of ``eval.step``; the files and trackers of the run get the figures.

    Those of weights that `posthoc` made stand in files of their own alone: the log is the trained averages'.

    Raises:
      Stopped: asked to; the same command goes on with the next batch of images.
    """
    if not program.eval.metrics:
        raise ConfigError("eval.metrics", "is (): there is nothing to evaluate")
    params, meta, step = runs.ema_weights(program, program.eval.step)
    feed.skipped(program).keep_in(program.workdir)
    with contextlib.closing(_writers(program, meta)) as writers:
        events.evaluation(program, params, step, writers, stop.check)
    stem = events.evaluation_stem(program, step)
    say(f"It wrote:\n  {stem}.json\n  {stem}_classes.csv")


def _writers(program: Program, meta: Mapping[str, Any]) -> MultiWriter:
    if not meta:
        return MultiWriter([])
    log = program.log
    return make_writers(
        program.workdir,
        wandb=log.wandb,
        tensorboard=log.tensorboard,
        wandb_project=log.project,
        wandb_id=meta["writers"]["wandb_id"],
        name=program.name,
    )


def sample(program: Program, stop: StopRequest) -> None:
    """samples.npz and samples.png of the classes asked for, from the EMA weights of ``sample.step``."""
    s, names = program.sample, program.dataset.classes
    label = asked_labels(s.classes, s.num, names)
    params, _, step = runs.ema_weights(program, s.step)
    drawn = images(program, params, label, indices(label), seed=s.seed, purpose="sample", between=stop.check)
    if jax.process_index() != 0:
        return
    folder = Path(s.out) if s.out else program.workdir
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"images": drawn} | ({"labels": label.astype(np.int32)} if names else {})
    partial = folder / f".samples.{os.getpid()}.npz"
    np.savez(partial, **arrays)
    os.replace(partial, folder / "samples.npz")
    save_png(folder / "samples.png", events.labelled_grid(drawn, min(len(drawn), COLUMNS), []))
    asked = ", ".join(f"{names[c]}: {n}" for c, n in enumerate(np.bincount(label)) if n) if names else ""
    use = program.optimiser.averages.use
    weights = "EMA weights" if use == "ema" else f"EMA weights {use}"
    say(f"{len(drawn)} images from the {weights} of step {step}{f' ({asked})' if asked else ''}")
    say(f"It wrote:\n  {folder / 'samples.npz'}\n  {folder / 'samples.png'}")
