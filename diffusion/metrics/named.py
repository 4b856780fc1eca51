"""Figures over classes under their public names, and the two distances a notebook calls."""

from collections.abc import Mapping, Sequence

import numpy as np

from diffusion.metrics.fd import frechet_distance
from diffusion.metrics.features import Features, check_comparable
from diffusion.metrics.figure import Figure
from diffusion.metrics.matching import class_name
from diffusion.metrics.per_class import RELIABLE, Aggregate, aggregate

Values = dict[str, float | None]


def frechet(generated: Features, real: Features, names: Sequence[str] = ()) -> Values:
    """FD of all rows given, pooled and per class: {"fd", "fd/class/<name>", "fd/mean", "fd/median", ...}.

    Nothing is subsampled: unlike in ``measure``, equal counts are the caller's care. A class with fewer than
    two images on a side is None. See ``over_classes`` for the keys; unlabelled features have "fd" alone.

    Raises:
      ValueError: features that do not compare, or fewer than two rows on a side.
    """
    return _frechet("fd", generated, real, names)


def fid(generated: Features, real: Features, names: Sequence[str] = ()) -> Values:
    """``frechet`` under the name FID ("fid", "fid/class/<name>", ...), which belongs to Inception features.

    Raises:
      ValueError: another extractor, or what ``frechet`` raises.
    """
    check_inception(generated.extractor)
    return _frechet("fid", generated, real, names)


def check_inception(extractor: str) -> None:
    """Raises ValueError unless the features are those of Inception's last pooling."""
    if not extractor.startswith("inception") or "-tap" in extractor:
        raise ValueError(f"FID is defined on Inception features; these come from {extractor!r}: call it FD")


def over_classes(
    name: str, by_class: Mapping[str, Figure], counts: Mapping[str, int], better: str = "min"
) -> tuple[dict[str, Figure], Aggregate]:
    """One figure over classes.

    Args:
      by_class: the figure, by class.
      counts: images on the smaller side, by class.
      better: "min" or "max".

    Returns:
      (figures, aggregate): over the classes with at least 20 images ``<name>/mean``, ``/median``, ``/worst`` (mean
      of the worst five), ``/se`` (of the mean over classes) and ``/classes`` (how many entered).
    """
    total = aggregate({key: figure.value for key, figure in by_class.items()}, counts, better)
    over = {
        "mean": total.mean,
        "median": total.median,
        "worst": float(np.mean([value for _, value in total.worst])) if total.worst else None,
        "se": total.se,
        "classes": float(total.classes),
    }
    few = f"{total.classes} of {total.of} classes have at least {RELIABLE} images a side"
    kept = [figure for key, figure in by_class.items() if figure.value is not None and counts[key] >= RELIABLE]
    paired = not kept or any(figure.n_real is not None for figure in kept)
    images = sum(figure.n_gen for figure in kept), sum(figure.n_real or 0 for figure in kept) if paired else None
    return {f"{name}/{key}": Figure(value, None, *images, reason=few) for key, value in over.items()}, total


def _frechet(name: str, generated: Features, real: Features, names: Sequence[str]) -> Values:
    check_comparable(generated, real)
    pooled: Values = {name: frechet_distance(generated.values, real.values)}
    if generated.labels is None:
        return pooled
    by_class, counts = {}, {}
    for label in np.union1d(generated.labels, real.labels).tolist():
        x, y, key = generated.of(label), real.of(label), class_name(label, names)
        counts[key] = min(len(x), len(y))
        value = frechet_distance(x, y) if counts[key] >= 2 else None
        by_class[key] = Figure(value, None, len(x), len(y), "an error takes measure()")
    values = {f"{name}/class/{key}": figure.value for key, figure in by_class.items()}
    total = over_classes(name, by_class, counts)[0]
    return pooled | values | {key: figure.value for key, figure in total.items()}
