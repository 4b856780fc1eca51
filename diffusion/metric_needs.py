"""Whether there are the images that an evaluation's metrics need, told before any is drawn or compared."""

from collections.abc import Mapping

import numpy as np

from diffusion.compared import plan_of
from diffusion.errors import ConfigError
from diffusion.metrics import METRICS
from diffusion.planned import chosen
from diffusion.program import Program
from diffusion.subjects import Subject

OF_CLASSES = {"labels", "diversity", "pairs"}  # needs of metrics that are not taken once more on the pooled images
SIDES = {"train": "training", "held_out": "held-out"}  # needs of images beside those that are compared


def has_classes(metric: str) -> bool:
    """Whether a metric says anything of the classes' own images, beside those of the pool."""
    row = METRICS[metric]
    return bool(OF_CLASSES & set(row.needs)) or any(figure.per_class for figure in row.figures)


def labels_of(program: Program, split: str) -> np.ndarray:
    """i[n]: classes of a split's records; all 0 in an unlabelled set."""
    records = program.dataset.open(split)
    return records.labels if program.dataset.classes else np.zeros(len(records), np.int32)


def check_counts(program: Program, widths: Mapping[str, int], subject: Subject | None = None) -> None:
    """Raises ConfigError naming the first of ``eval.metrics`` for which there are too few images.

    Args:
      widths: d of each network's features, by row of EXTRACTORS.
      subject: what is compared, where it is known.
    """
    e = program.eval
    plan = plan_of(program, labels_of(program, e.reference_split), subject)
    for metric in e.metrics:
        row, d = METRICS[metric], widths.get(e.network(metric), 0)
        n, least = int((plan.of_classes if has_classes(metric) else plan.of_pool).sum()), max(row.least_of(d), 1)
        if n < least:
            raise ConfigError("eval.metrics", f"{metric} needs at least {least} images a side; {n} are compared")
        for need in [need for need in row.needs if need in SIDES]:
            there = _beside(program, need)
            if there < row.least:
                said = f"{metric} needs at least {row.least} {SIDES[need]} images of the classes that are evaluated"
                raise ConfigError("eval.metrics", f"{said}; there are {there}")


def _beside(program: Program, need: str) -> int:
    """Training images, or the held-out ones that as many training images of their class stand against."""
    train, test = (
        np.bincount(labels[np.isin(labels, chosen(program))], minlength=max(len(program.dataset.classes), 1))
        for labels in (labels_of(program, split) for split in ("train", "test"))
    )
    return int((train if need == "train" else np.minimum(train, test)).sum())
