"""Evaluation: generated images against real ones, per class and pooled, at exactly matched counts.

Knows no loop and changes no training state; its randomness is its own stream.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion import beside, subjects, supports
from diffusion.cluster import of_first
from diffusion.compared import Compared
from diffusion.disk import unwritable
from diffusion.errors import ConfigError
from diffusion.eval_console import distance_name
from diffusion.eval_report import scores_report
from diffusion.extractors import Extractor
from diffusion.feature_chunks import clear
from diffusion.metric_needs import OF_CLASSES, check_counts, has_classes
from diffusion.metrics import METRICS, Figure, Scores, measure
from diffusion.metrics.fd import frechet_from_statistics
from diffusion.networks import identity, prepare
from diffusion.planned import chosen
from diffusion.program import Program, abstract_params
from diffusion.reference import cache_folder, fingerprint, is_ours, reals
from diffusion.reference_statistics import ReferenceStatistics, read_statistics
from diffusion.subjects import Subject
from diffusion.types import Params
from diffusion.variants import Variant, drawing, own


@dataclass(frozen=True)
class Report:
    """One evaluation.

    Attributes:
      values: {"eval/fd": ..., "eval/fd/class/<name>": ...}, None where a figure cannot be had.
      scores: the same with rows, aggregates, errors and reasons.
      body: everything that eval/step_*.json holds.
      compared: what it was made from, of which pictures may be shown.
    """

    values: dict[str, float | None]
    scores: Scores
    body: dict[str, Any]
    compared: Compared


def run(program: Program, params: Params, step: int) -> dict[str, float | None]:
    """{name: value} of ``program.eval.metrics`` on ``params``; see ``report``."""
    found = report(program, params, step)
    forget(found.compared.chunks)
    return found.values


def report(
    program: Program,
    params: Params,
    step: int,
    between: Callable[[], None] = lambda: None,
    variant: Variant | None = None,
) -> Report:
    """Generate the plan's images, ask the networks about both sides, compare.

    What was found stays in the workdir's ``cache/`` until `forget`, so that an evaluation of the same weights that was
    interrupted goes on with the next batch.

    Args:
      params: the EMA's weights, a plain tree without a replica axis.
      step: of the weights, for the record.
      between: called between two batches, on every process; what it raises ends the evaluation.
      variant: which average they are and the guidance scale to draw with; by default the run's own.

    Raises:
      ValueError: weights of another shape, or a generated or real image missing or counted twice.
    """
    _check_plain(program, params)
    variant = variant or own(program)
    subject = subjects.drawn(drawing(program, variant.scale), params, variant.average)
    return of_subject(program, subject, {"step": step}, between, variant.prefix)


def of_subject(
    program: Program,
    subject: Subject,
    about: dict[str, Any],
    between: Callable[[], None] = lambda: None,
    prefix: str = "eval/",
) -> Report:
    """As `report`, of any images; ``about`` heads the record."""
    began = time.monotonic()
    networks, e = prepare(program), program.eval
    compared = Compared(program, networks, subject, between)
    scores, plan, names = _scores(compared), compared.plan, compared.names
    statistics = _statistics(program, networks[e.streamed[0]])
    if statistics is not None:
        scores = replace(scores, figures=scores.figures | _to_statistics(compared, statistics))
    body = scores_report(scores, prefix) | {
        **about,
        **subject.about,
        "extractor": e.extractor,
        "extractors": identity(networks),
        "reference": _about_reference(program, compared),
        "counts": {names[c] if names else "all": int(plan.per_class[c]) for c in (compared.chosen if names else [0])},
        "requested_per_class": e.num_samples_per_class,
        "pooled_is": _pooled_is(compared),
        "prompt": subject.about_prompts,
        "notes": _notes(subject, statistics),
        "seeds": {"program": program.seed, "evaluation": e.seed},
        "seconds": round(time.monotonic() - began, 3),
    }
    return Report({prefix + name: value for name, value in scores.logged.items()}, scores, body, compared)


def check(program: Program, subject: Subject | None = None) -> None:
    """Find before training what would make an evaluation fail: weights that are not there, too few images.

    Args:
      subject: images of another program, where these are evaluated.

    Raises:
      ConfigError: a metric that cannot be computed, by name; a network that does not take these images; a folder that
        cannot be written.
      DataError: a split that a classifier cannot be trained on.
    """
    _check_folders(program)
    e, networks, widths = program.eval, prepare(program), {}
    image = jax.ShapeDtypeStruct((2, *program.transform.shape), np.uint8)
    for name, network in networks.items():
        asked = (network.extract, (image,)) if network.distance is None else (network.distance, (image, image))
        try:
            found = jax.eval_shape(asked[0], network.frozen, *asked[1])
        except ValueError as error:
            raise ConfigError("eval.metrics", f"{network.name} cannot take these images: {error}") from error
        if network.distance is None:
            widths[name] = found["features"].shape[1]
    check_counts(program, widths, subject)
    if supports.needed(program) and subject is None:
        supports.check(program, chosen(program), "eval.classes")
    for metric in e.metrics:
        if "text" in METRICS[metric].needs:
            networks[e.network(metric)].tokenise(["a"])
    if e.reference and is_ours(e.reference):
        reals(program, networks, e.streamed[0], e.reference_split)
    elif e.reference:
        _statistics(program, networks[e.streamed[0]])


def _check_folders(program: Program) -> None:
    for field, folder in (("--workdir", program.workdir), ("eval.cache", cache_folder(program))):
        why = of_first(unwritable(folder) if jax.process_index() == 0 else None)
        if why:
            raise ConfigError(field, f"{folder} cannot be written: {why}; take another one")


def forget(*chunks: Path | None) -> None:
    """Evaluations are done and written: nothing of what they were made from needs to stay on disk."""
    for folder in filter(None, chunks):
        clear(folder)


def _scores(compared: Compared) -> Scores:
    """Every metric of ``eval.metrics``, network by network."""
    e, plan = compared.program.eval, compared.plan
    by_network: dict[str, list[str]] = {name: [] for name in compared.streamed}
    for metric in e.metrics:
        name = e.network(metric)
        by_network[name if name in by_network else compared.streamed[0]].append(metric)
    found = []
    for name, metrics in by_network.items():
        of_classes = [metric for metric in metrics if plan.pooled is None or has_classes(metric)]
        own = _measured(compared, name, of_classes, plan.of_classes)
        if plan.pooled is not None:
            pooled = [metric for metric in metrics if not OF_CLASSES & set(METRICS[metric].needs)]
            own = own.with_pooled(_measured(compared, name, pooled, plan.of_pool, per_class=False))
        found.append(own)
    scores = Scores.merged(found)
    others = {metric: _judge(compared, metric) for metric in e.metrics if e.network(metric) not in compared.streamed}
    return replace(scores, extractors=scores.extractors | others)


def _judge(compared: Compared, metric: str) -> str:
    """Who compared the images of a metric that takes no features; "" where no network did."""
    return compared.networks["perceptual"].name if "diversity" in METRICS[metric].needs else ""


def _measured(
    compared: Compared, name: str, metrics: Sequence[str], kept: np.ndarray, *, per_class: bool = True
) -> Scores:
    """The metrics on one network's answers about the images that are ``kept`` bool[n]."""
    program = compared.program
    needs = {need for metric in metrics for need in METRICS[metric].needs}
    generated, outputs = compared.made_features(name, kept)
    per_class = per_class and bool(compared.names)
    return measure(
        generated,
        compared.real_features(name),
        compared.names,
        metrics,
        labels=compared.chosen if per_class else (),
        groups=compared.groups if per_class else {},
        equal_n=program.eval.equal_n and per_class,
        per_class=per_class,
        outputs=outputs,
        train=compared.real_features(name, "train") if "train" in needs else None,
        held_out=compared.real_features(name, "test") if "held_out" in needs else None,
        text=beside.texts(compared, name, kept) if "text" in needs else None,
        diversity=beside.distances(compared) if "diversity" in needs else None,
        pairs=beside.pairs(compared, kept) if "pairs" in needs else None,
        seed=program.eval.seed,
    )


def _statistics(program: Program, network: Extractor) -> ReferenceStatistics | None:
    """Those of ``eval.reference`` where it holds a mean and a covariance that others published."""
    path = program.eval.reference
    if not path or is_ours(path):
        return None
    image = jax.ShapeDtypeStruct((1, *program.transform.shape), np.uint8)
    d = jax.eval_shape(network.extract, network.frozen, image)["features"].shape[1]
    return read_statistics(path, d, extractor=network.name, field="eval.reference")


def _to_statistics(compared: Compared, statistics: ReferenceStatistics) -> dict[str, Figure]:
    """{"fd_reference": FD of the pooled images to the statistics}; ``fid_reference`` on Inception features."""
    x = compared.made_features(compared.streamed[0], compared.plan.of_pool)[0]
    name = f"{distance_name(x.extractor).lower()}_reference"
    if len(x) < 2:
        return {name: Figure(None, None, len(x), reason="1 image is too few")}
    value = frechet_from_statistics(x.values.mean(0), np.cov(x.values, rowvar=False), statistics.mean, statistics.cov)
    return {name: Figure(value, None, len(x), reason="no error: the statistics do not say of how many images they are")}


def _pooled_is(compared: Compared) -> str:
    if not compared.names:
        return "over all images, without classes"
    return "over the per-class images" if compared.plan.pooled is None else "in the data's class shares"


def _notes(subject: Subject, statistics: ReferenceStatistics | None) -> dict[str, str]:
    """What else is to be said of a figure, by its name."""
    notes = {"clip_score": subject.about_prompts} if subject.about_prompts else {}
    if statistics is not None:
        notes |= dict.fromkeys(("fd_reference", "fid_reference"), statistics.label)
    return notes


def _about_reference(program: Program, compared: Compared) -> dict[str, Any]:
    split, real = program.eval.reference_split, compared.reals(compared.streamed[0])
    return {
        "dataset": program.dataset.name,
        "split": split,
        "n": len(real.ids),
        "left_out": program.dataset.sizes[split] - len(real.ids),
        "fingerprints": {name: fingerprint(program, compared.networks, name, split) for name in compared.streamed},
    }


def _check_plain(program: Program, params: Params) -> None:
    wanted, found = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (abstract_params(program), params)
    )
    if wanted != found:
        wrong = sorted(path for path in wanted | found if wanted.get(path) != found.get(path))[0]
        raise ValueError(
            f"weights at {wrong} have shape {found.get(wrong)}, the net's is {wanted.get(wrong)}; "
            "evaluation takes plain weights, without a replica axis"
        )
