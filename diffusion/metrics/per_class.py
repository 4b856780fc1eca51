"""One row of figures per class, and their aggregates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.metrics.fd import frechet_distance, frechet_se
from diffusion.metrics.features import Features, check_comparable
from diffusion.metrics.floor import half_split
from diffusion.metrics.kid import kid, kid_with_se

RELIABLE = 20  # images a side below which FD is flagged and kept out of the aggregates
WORST = 5
UNRELIABLE = "unreliable"

Columns = dict[str, float | int | None]


@dataclass(frozen=True, eq=False)
class Match:
    """What is compared for one class (or for all of them): equal counts on both sides.

    Attributes:
      name: the class.
      generated: f[n d].
      real: f[n d], a seeded subset of ``reals`` without replacement.
      reals: f[m d], every real image of the class, m >= n.
      seed: draws the floor's splits.
    """

    name: str
    generated: np.ndarray
    real: np.ndarray
    reals: np.ndarray
    seed: tuple[int, ...]

    @property
    def n(self) -> int:
        return len(self.generated)


@dataclass(frozen=True)
class ClassRow:
    """The figures of one class; None where one was not asked for or cannot be computed.

    Attributes:
      name: the class.
      n_real, n_gen: images that entered ``fd`` and ``kid_x1e3`` on each side.
      fd, fd_se: Fréchet distance and its jackknife error.
      n_floor, fd_half, fd_floor, fd_excess: see ``fd.half_split``.
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


def class_name(label: int, names: Sequence[str]) -> str:
    """The label's name, or its number where there are no names.

    Raises:
      ValueError: a label beyond the names.
    """
    if not names:
        return str(label)
    if label >= len(names):
        raise ValueError(f"label {label} has no name: there are {len(names)} classes")
    return names[label]


def match_classes(
    generated: Features, real: Features, names: Sequence[str] = (), *, seed: int = 0
) -> tuple[Match, ...]:
    """The classes present on either side, by label, each with n = min(generated, real) images a side.

    Subsets are drawn without replacement by (seed, label), whatever the other classes hold.
    Unlabelled features have no classes: ().
    """
    check_comparable(generated, real)
    if generated.labels is None:
        return ()
    labels = np.union1d(generated.labels, real.labels)
    return tuple(
        match(class_name(label, names), generated.of(label), real.of(label), (seed, label)) for label in labels.tolist()
    )


def match(name: str, generated: np.ndarray, reals: np.ndarray, seed: tuple[int, ...]) -> Match:
    """Draws equal counts without replacement; a side that is no larger is taken whole and in order."""
    n = min(len(generated), len(reals))
    rng = np.random.default_rng((*seed, 0))
    return Match(name, _subset(generated, n, rng), _subset(reals, n, rng), reals, (*seed, 1))


def fd_columns(pair: Match) -> Columns:
    """The FD columns of a ``ClassRow``; those that too few images do not allow are left out."""
    columns: Columns = {}
    if pair.n >= 2:
        columns["fd"] = frechet_distance(pair.generated, pair.real)
    if pair.n >= 3:
        columns["fd_se"] = frechet_se(pair.generated, pair.real)
    if min(pair.n, len(pair.reals) // 2) >= 2:
        floor = half_split(pair.generated, pair.reals, np.random.default_rng(pair.seed))
        columns |= {
            "n_floor": floor.n,
            "fd_half": floor.half,
            "fd_floor": floor.floor,
            "fd_excess": floor.excess,
        }
    return columns


def kid_columns(pair: Match) -> Columns:
    """The KID columns of a ``ClassRow``; those that too few images do not allow are left out."""
    if pair.n < 2:
        return {}
    if pair.n < 3:
        return {"kid_x1e3": 1e3 * kid(pair.generated, pair.real)}
    value, se = kid_with_se(pair.generated, pair.real)
    return {"kid_x1e3": 1e3 * value, "kid_se": 1e3 * se}


def class_row(pair: Match, columns: Columns) -> ClassRow:
    """The row of a class from the columns that were computed for it."""
    flag = UNRELIABLE if pair.n < RELIABLE else ""
    return ClassRow(pair.name, pair.n, pair.n, **columns, flag=flag, reason=_reason(pair))


def aggregate(values: Mapping[str, float | None], counts: Mapping[str, int]) -> Aggregate:
    """Aggregates one figure over the classes with at least 20 images.

    Args:
      values: by class, higher is worse.
      counts: images a side, by class.
    """
    kept = {name: value for name, value in values.items() if value is not None and counts[name] >= RELIABLE}
    figures = np.array(list(kept.values()))
    worst = sorted(kept.items(), key=lambda item: -item[1])[:WORST]
    return Aggregate(
        mean=float(figures.mean()) if kept else None,
        median=float(np.median(figures)) if kept else None,
        se=float(figures.std(ddof=1) / np.sqrt(len(figures))) if len(kept) > 1 else None,
        worst=tuple(worst),
        classes=len(kept),
        of=len(values),
    )


def _subset(x: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return x if len(x) == n else x[np.sort(rng.choice(len(x), n, replace=False))]


def _reason(pair: Match) -> str:
    needs = {"a distance": 2, "its error": 3, "a floor": 4}
    missing = [f"{what} needs {least}" for what, least in needs.items() if pair.n < least]
    return f"{pair.n} images a side: {', '.join(missing)}" if missing else ""
