"""What is evaluated, on which networks, and whether it can be: all that metadata tells."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion import settings
from diffusion.build.choices import fields_of, known, row, section
from diffusion.data.records import Dataset
from diffusion.ema import Averages
from diffusion.errors import ConfigError
from diffusion.extractors import EXTRACTORS, PERCEPTUAL, Extractor, Given
from diffusion.metrics import METRICS, rankable
from diffusion.plan import chosen_classes, named_groups


def make_evaluation(
    config: ConfigDict, dataset: Dataset, averages: Averages, *, training: bool
) -> tuple[settings.Evaluate, dict[str, Callable[[Given], Extractor]]]:
    """(settings, what makes each network that the metrics need, by row of EXTRACTORS).

    Args:
      training: whether a run's own images are evaluated, so that ``eval.images`` has no place.

    Raises:
      ConfigError: a metric that cannot be computed here, or a field that cannot be.
    """
    c = config.eval
    scales = tuple(_number("eval.guidance_scales", scale) for scale in c.guidance_scales)
    values = {name: c[name] for name in fields_of(settings.Evaluate)} | {"guidance_scales": scales}
    e = section("eval", settings.Evaluate, values)
    known(EXTRACTORS, "eval.extractor", e.extractor)
    known(PERCEPTUAL, "eval.perceptual", e.perceptual)
    known(dataset.sizes, "eval.reference_split", e.reference_split)
    known(dataset.sizes, "eval.support_split", e.support_split)
    for metric in e.metrics:
        known(METRICS, "eval.metrics", metric)
    for name in e.emas:
        known(averages.decays, "eval.emas", name)
    if e.metrics and dataset.latent:
        raise ConfigError("eval.metrics", f"{dataset.name} holds latents, and nothing decodes them yet: take ()")
    for field, path in (("reference", e.reference), ("images", e.images)):
        if path and not Path(path).expanduser().exists():
            raise ConfigError(f"eval.{field}", f"there is no {path}")
    if training and e.images:
        raise ConfigError("eval.images", "is what --mode=eval compares; a run in training evaluates its own images")
    _check_classes(e, dataset)
    _check_scales(e, config)
    for metric in e.metrics:
        _check_needs(metric, e, c, dataset)
    networks = dict.fromkeys([*e.streamed, *map(e.network, e.metrics)]) if e.metrics else ()
    perceptual = functools.partial(row, PERCEPTUAL, "eval", c, e.perceptual)
    makers = {name: functools.partial(row, EXTRACTORS, "eval", c, name) for name in EXTRACTORS}
    return e, {name: (makers | {"perceptual": perceptual})[name] for name in networks}


def measured(e: settings.Evaluate, dataset: Dataset) -> dict[str, str]:
    """{name: "min" or "max"} of the figures of evaluations that may rank checkpoints."""
    groups = named_groups(e.groups, dataset, range(len(dataset.classes)))
    return {f"eval/{name}": better for name, better in rankable(e.metrics, dataset.classes, list(groups)).items()}


def _check_needs(metric: str, e: settings.Evaluate, c: ConfigDict, dataset: Dataset) -> None:
    needs, network = METRICS[metric].needs, e.network(metric)
    classifier = "classifier" in (network, e.perceptual if network == "perceptual" else "")
    if not dataset.classes and ("labels" in needs or classifier):
        raise ConfigError(
            "eval.metrics",
            f"{metric}: {dataset.name} has no labels, which {'the classifier' if classifier else 'it'} needs; take "
            "another eval.extractor, or eval.metrics=() to go without",
        )
    if metric == "fid" and c.inception.tap != 2048:
        raise ConfigError(
            "eval.inception.tap", f"is {c.inception.tap}; fid is taken on 2048, of other features take fd"
        )
    if "text" in needs and not (e.images or (e.prompt and dataset.classes)):
        raise ConfigError(
            "eval.metrics", f"{metric} needs texts: classes with eval.prompt, or an npz that holds prompts"
        )
    if "pairs" in needs and not e.images:
        raise ConfigError(
            "eval.metrics",
            f"{metric} compares images with the very ones they stand for: give eval.images with an array of ids",
        )


def _check_scales(e: settings.Evaluate, config: ConfigDict) -> None:
    field, sampler = "eval.guidance_scales", config.sampler
    if e.guidance_scales and sampler.guidance_scales:
        raise ConfigError(field, "vary sampler.guidance_scale; this sampler has guidance_scales by condition")
    if e.guidance_scales and not (config.cond.names or sampler.autoguidance):
        raise ConfigError(field, "change nothing: there is neither a condition (cond.names) nor sampler.autoguidance")


def _check_classes(e: settings.Evaluate, dataset: Dataset) -> None:
    try:
        chosen = chosen_classes(e.classes, e.num_classes, dataset, e.seed)
        named_groups(e.groups, dataset, chosen)
    except ValueError as error:
        field, _, problem = str(error).partition(" ")
        raise ConfigError(f"eval.{field}", problem) from error


def _number(field: str, text: Any) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(field, f"{text!r} is not a number")
    return number
