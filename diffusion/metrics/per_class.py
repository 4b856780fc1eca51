"""One row of figures per class, and their aggregates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from diffusion.metrics.matching import Match

RELIABLE = 20  # images a side below which FD is flagged and kept out of the aggregates
WORST = 5
UNRELIABLE = "unreliable"

Columns = dict[str, float | int | None]


@dataclass(frozen=True)
class ClassRow:
    """The figures of one class, or of a group of them; None where one was not asked for or cannot be computed.

    Attributes:
      name: the class.
      n_real, n_gen: images that entered all figures but the floor on each side.
      fd, fd_se: Fréchet distance and its jackknife error.
      n_floor, fd_half, fd_floor, fd_excess: see ``floor.half_split``.
      kid_x1e3, kid_se: kernel distance and its jackknife error, both times 1000.
      density, coverage, coverage_expected: see ``manifold.density_coverage``; the last for equal distributions.
      flag: "unreliable" below 20 images, else empty.
      reason: why figures are None, else empty.
    """

    name: str
    n_real: int
    n_gen: int
    fd: float | None = None
    fd_se: float | None = None
    n_floor: int | None = None
    fd_half: float | None = None
    fd_floor: float | None = None
    fd_excess: float | None = None
    kid_x1e3: float | None = None
    kid_se: float | None = None
    density: float | None = None
    coverage: float | None = None
    coverage_expected: float | None = None
    flag: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Aggregate:
    """One figure over the reliable classes, unweighted.

    Attributes:
      mean, median: over the classes; None when none is reliable.
      se: standard error of the mean over classes; None below two classes.
      worst: up to five (class, value), worst first.
      classes, of: how many classes entered, out of how many.
    """

    mean: float | None
    median: float | None
    se: float | None
    worst: tuple[tuple[str, float], ...]
    classes: int
    of: int


def class_row(pair: Match, columns: Columns) -> ClassRow:
    """The row of a class from the columns that were computed for it."""
    flag = UNRELIABLE if pair.n < RELIABLE else ""
    return ClassRow(pair.name, pair.n, pair.n, **columns, flag=flag, reason=_reason(pair))


def aggregate(values: Mapping[str, float | None], counts: Mapping[str, int], better: str = "min") -> Aggregate:
    """Aggregates one figure over the classes with at least 20 images.

    Args:
      values: by class.
      counts: images a side, by class.
      better: "min" or "max", which decides what is worst.
    """
    kept = {name: value for name, value in values.items() if value is not None and counts[name] >= RELIABLE}
    figures = np.array(list(kept.values()))
    sign = 1 if better == "max" else -1
    worst = sorted(kept.items(), key=lambda item: sign * item[1])[:WORST]
    return Aggregate(
        mean=float(figures.mean()) if kept else None,
        median=float(np.median(figures)) if kept else None,
        se=float(figures.std(ddof=1) / np.sqrt(len(figures))) if len(kept) > 1 else None,
        worst=tuple(worst),
        classes=len(kept),
        of=len(values),
    )


def _reason(pair: Match) -> str:
    needs = {"a distance": 2, "its error": 3, "a floor": 4}
    missing = [f"{what} needs {least}" for what, least in needs.items() if pair.n < least]
    return f"{pair.n} images a side: {', '.join(missing)}" if missing else ""
