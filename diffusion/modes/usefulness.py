"""``--mode=usefulness``: does a classifier that also learns from synthetic images read real ones better?"""

import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion import candidates, evaluations, feed, runs, splits, subjects
from diffusion.candidates import Candidates
from diffusion.classifier_fit import Labelled, Recipe
from diffusion.cluster import of_first
from diffusion.disk import unwritable
from diffusion.errors import ConfigError
from diffusion.eval_report import replace_text, table_text
from diffusion.extractors import Extractor
from diffusion.given_images import GivenImages, open_images
from diffusion.metrics.memorisation import COPY
from diffusion.nets.classifier import Classifier
from diffusion.networks import own_classifier, whole_split
from diffusion.pictures import save_png
from diffusion.program import CLASS_CONDITION, Program
from diffusion.progress import say
from diffusion.signals import StopRequest
from diffusion.usefulness.arms import ARMS, left_out
from diffusion.usefulness.console import selection_lines, table
from diffusion.usefulness.counts import named_counts, needed, small_classes
from diffusion.usefulness.experiment import experiment
from diffusion.usefulness.figure import figure
from diffusion.usefulness.outcome import Outcome
from diffusion.usefulness.report import body, class_rows, seed_rows

log = logging.getLogger(__name__)

MODE = "--mode=usefulness"
IMAGES = "usefulness.images"
SPLITS = ("train", "test")  # the validation split has no part in it


def usefulness(program: Program, stop: StopRequest) -> None:
    """Train the data set's classifier on every arm and seed, test it on the real test split, write what was found.

    Raises:
      ConfigError: data, a net or a field with which it cannot be asked; nothing is written.
      Stopped: asked to, between two batches of images or two classifiers; nothing of the experiment is kept.
    """
    between = functools.partial(stop.check, "nothing is written before the end: the same command begins again")
    _check(program)
    splits.check(program)
    splits.check_duplicates(program)
    u, names = program.usefulness, program.dataset.classes
    feed.skipped(program).keep_in(program.workdir)
    made_by, about, stem = _source(program)
    train, test = (whole_split(program, split) for split in SPLITS)
    real = _class_counts(train, test, names)
    network = own_classifier(program)
    asked = needed(named_counts(u.counts, names), real)
    seeds = [u.seed + place for place in range(u.seeds)]
    made = _candidates(train, network, asked, program, functools.partial(made_by, between=between))
    chosen = {arm: [one.chosen[arm] for one in made] for arm in asked}
    out = {arm: why for arm in asked if (why := left_out(arm, chosen[arm], names))}
    arms = [arm for arm in ARMS if arm not in out]
    images = {arm: functools.partial(_of_place, made, arm) for arm in asked}
    read = experiment(train, test, images, arms, seeds, _recipe(program), len(names), between)
    rows = {arm: _real_rows(arm, train, len(names)) for arm in arms}
    small = small_classes(u.small, names, real)
    found = Outcome(names, small, seeds, test.labels, real, rows, chosen, read, out)
    about |= _about(program, network, {"train": train, "test": test})
    if about["checkpoint_chosen_on"] == "test" and not u.images:
        log.warning(
            "the rate, train.patience and the best checkpoint go by the loss on test, which is tested on here too"
        )
    if jax.process_index() == 0:
        _publish(found, about, stem, f"Usefulness of {about['of']} for {program.dataset.name}")


def _check(program: Program) -> None:
    """Refuse what metadata tells."""
    dataset, conditions = program.dataset, program.diffusion.net.conditions
    if program.transfer:
        raise ConfigError("eval.data", "is for --mode=eval and sample; usefulness is asked on the run's own data")
    if len(dataset.classes) < 2:
        there = "one class" if dataset.classes else "no labels"
        raise ConfigError(MODE, f"needs classes that a classifier can tell apart; {dataset.name} has {there}")
    if dataset.latent:
        raise ConfigError(MODE, f"needs images; {dataset.name} holds latents, and nothing decodes them yet")
    if dataset.seen:
        raise ConfigError(MODE, "needs every class in training; data.train_classes or test_classes keep some out of it")
    if not program.usefulness.images and conditions != (CLASS_CONDITION,):
        has = ", ".join(conditions) or "none"
        raise ConfigError(MODE, f"needs a net that is asked for a class alone (cond.names=label); this one has: {has}")
    image = jax.ShapeDtypeStruct((1, *program.transform.shape), np.float32)
    try:
        jax.eval_shape(Classifier(len(dataset.classes)).init, jax.random.key(0), image)
    except ValueError as error:
        raise ConfigError(MODE, str(error)) from error
    why = of_first(unwritable(program.workdir) if jax.process_index() == 0 else None)
    if why:
        raise ConfigError("--workdir", f"{program.workdir} cannot be written: {why}; take another one")


def _source(program: Program) -> tuple[Callable[..., Labelled], dict[str, Any], Path]:
    """((counts i[k], seed, between) -> images, what they are of, the files' stem)."""
    u, folder = program.usefulness, program.workdir / "usefulness"
    if u.images:
        found = open_images(u.images, program.dataset.classes, program.transform.shape, IMAGES)
        if found.labels is None:
            raise ConfigError(IMAGES, f"{found.path} holds no labels: a classifier cannot learn from it")
        about = {"of": str(found.path), "step": None}
        about["images"] = {"path": str(found.path), "sha256": found.fingerprint(), "n": len(found)}
        name = found.path.resolve().name.removesuffix(".npz")
        return functools.partial(_given, found), about, folder / f"usefulness_images_{name}"
    params, _, step = runs.ema_weights(program, u.step)
    use = program.optimiser.averages.use
    about = {"of": f"step {step}", "step": step} | subjects.drawn(program, params, use).about
    name = evaluations.stem(program, step).name
    return functools.partial(candidates.drawn, program, params), about, folder / f"usefulness_{name}"


def _given(found: GivenImages, counts: np.ndarray, seed: int, between: Callable[[], None]) -> Labelled:
    return candidates.given(found, counts, seed)


def _class_counts(train: Labelled, test: Labelled, names: Sequence[str]) -> np.ndarray:
    """i[k] of the training split. Raises ConfigError where a class has no image to learn from or to be tested on."""
    for split, part in zip(SPLITS, (train, test), strict=True):
        counts = np.bincount(part.labels, minlength=len(names))
        if not counts.all():
            absent = ", ".join(names[c] for c in np.flatnonzero(counts == 0)[:5])
            raise ConfigError(MODE, f"needs images of every class in both splits; {split} has none of: {absent}")
    return np.bincount(train.labels, minlength=len(names))


def _candidates(
    train: Labelled, network: Extractor, asked: dict[str, np.ndarray], program: Program, made_by: Callable
) -> list[Candidates]:
    """Of every seed; images that are given are the same for all of them."""
    u, known = program.usefulness, candidates.seen(network, train)
    counts, found = candidates.most(asked, u.oversample), []
    for place in range(1 if u.images else u.seeds):
        made = made_by(counts, u.seed + place)
        found.append(candidates.candidates(made, known, network, asked, u.oversample, u.drop_copies))
    return found * u.seeds if u.images else found


def _of_place(made: Sequence[Candidates], arm: str, place: int) -> Labelled:
    return made[place].of(arm)


def _real_rows(arm: str, train: Labelled, classes: int) -> np.ndarray:
    """i[k], real images in an arm's training set, as often as they stand there."""
    if arm == "synthetic":
        return np.zeros(classes, np.int64)
    images = ARMS[arm](train, None) if arm == "real_balanced" else train
    return np.bincount(images.labels, minlength=classes)


def _recipe(program: Program) -> Recipe:
    u = program.usefulness
    return Recipe(u.steps, u.batch_size, u.lr, u.weight_decay, u.shift, u.seed)


def _about(program: Program, network: Extractor, parts: dict[str, Labelled]) -> dict[str, Any]:
    u, recipe = program.usefulness, asdict(_recipe(program))
    return {
        "dataset": program.dataset.name,
        "splits": {
            name: {
                "n": len(part.labels),
                "left_out": program.dataset.sizes[name] - len(part.labels),
                "content_sha256": program.dataset.open(name).fingerprint,
            }
            for name, part in parts.items()
        },
        "images_in_two_splits_or_classes": splits.across(program),
        "checkpoint_chosen_on": program.dataset.validation_splits[""],
        "recipe": {name: value for name, value in recipe.items() if name != "seed"},
        "selection": {"oversample": u.oversample, "drop_copies": u.drop_copies, "copy_ratio": COPY},
        "same_images_for_all_seeds": bool(u.images),
        "extractor": {"name": network.name, "sha256": network.sha256, "accuracy": network.accuracy},
    }


def _publish(found: Outcome, about: dict[str, Any], stem: Path, head: str) -> None:
    replace_text(evaluations.beside(stem, ".json"), json.dumps(about | body(found), indent=2, allow_nan=False) + "\n")
    for ending, rows in ((".csv", seed_rows(found)), ("_classes.csv", class_rows(found))):
        replace_text(evaluations.beside(stem, ending), table_text(list(rows[0]), (row.values() for row in rows)))
    save_png(evaluations.beside(stem, ".png"), figure(found, head))
    same = "; the same images for all seeds" if about["same_images_for_all_seeds"] else ""
    say(f"\n{head}{same}")
    for line in selection_lines(found):
        say(line)
    say(table(found))
    say("It wrote:\n" + "\n".join(f"  {stem}{end}" for end in (".json", ".csv", "_classes.csv", ".png")))
