"""From two sets of features to all named numbers of an evaluation."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.metrics.comparison import Comparison, Given, compare
from diffusion.metrics.features import Features
from diffusion.metrics.figure import Figure
from diffusion.metrics.matching import Match
from diffusion.metrics.merging import merged_rows
from diffusion.metrics.named import Values
from diffusion.metrics.paired import Pairs
from diffusion.metrics.per_class import Aggregate, ClassRow, class_row
from diffusion.metrics.table import METRICS, NEEDS


@dataclass(frozen=True)
class Scores:
    """All metrics of one evaluation.

    Attributes:
      figures: every number by name ("fd", "fd/class/<name>", "fd/group/<name>", "accuracy", ...).
      rows: one per class, by label.
      aggregates: by figure ("fd", "fd_excess", "kid_x1e3", "fd/group/<name>", ...).
      balanced: whether the pooled figures hold equally many images of every class.
      n: images on each side of the pooled figures.
      extractor: who made the features; of several, the first.
      groups: one row per group of classes.
      equal_n: images a side that every class was cut to; None where each kept its own count.
      extractors: whose features a metric was computed on, by metric.
      suspicious: generated images that may be copies: (generated index, training index, ratio of distances).
    """

    figures: dict[str, Figure]
    rows: tuple[ClassRow, ...]
    aggregates: dict[str, Aggregate]
    balanced: bool
    n: int
    extractor: str
    groups: tuple[ClassRow, ...] = ()
    equal_n: int | None = None
    extractors: dict[str, str] = dataclasses.field(default_factory=dict)
    suspicious: tuple[tuple[int, int, float], ...] = ()

    @property
    def values(self) -> Values:
        """{name: value}; None where a figure cannot be had."""
        return {name: figure.value for name, figure in self.figures.items()}

    @property
    def errors(self) -> dict[str, float]:
        """{name: standard error}, of those that have one; names are those of ``values``."""
        return {name: figure.se for name, figure in self.figures.items() if figure.se is not None}

    @property
    def counts(self) -> dict[str, tuple[int, int | None]]:
        """{name: (generated, real images that entered)}; None for a figure of generated images alone."""
        return {name: (figure.n_gen, figure.n_real) for name, figure in self.figures.items()}

    @property
    def reasons(self) -> dict[str, str]:
        """{name: why its value is None}."""
        return {name: figure.reason for name, figure in self.figures.items() if figure.value is None}

    @property
    def logged(self) -> Values:
        """``values``, and each error beside its figure: ``fd_se``, ``fd_se/class/<name>``."""
        return self.values | {error_name(name): se for name, se in self.errors.items()}

    @staticmethod
    def merged(parts: "Sequence[Scores]") -> "Scores":
        """One evaluation of the same images through several networks.

        A class's row keeps the first one's numbers and takes those it lacks from the others, in order.

        Raises:
          ValueError: a figure that stands in two of them, or other classes, groups or counts.
        """
        return functools.reduce(_both, parts)

    def with_pooled(self, other: "Scores") -> "Scores":
        """With the figures of other images of all classes together, such as are in the data's class shares."""
        return dataclasses.replace(
            self,
            figures=self.figures | other.figures,
            balanced=other.balanced,
            n=other.n,
            extractors=self.extractors | other.extractors,
            suspicious=other.suspicious or self.suspicious,
        )


def _both(one: Scores, other: Scores) -> Scores:
    twice = sorted(one.figures.keys() & other.figures.keys())
    if twice:
        raise ValueError(f"{twice[0]} stands in both scores that are to be merged")
    if (one.n, one.equal_n) != (other.n, other.equal_n):
        raise ValueError(f"scores of {one.n} and of {other.n} images a side cannot be merged")
    return dataclasses.replace(
        one,
        figures=one.figures | other.figures,
        rows=merged_rows(one.rows, other.rows),
        groups=merged_rows(one.groups, other.groups),
        aggregates=one.aggregates | other.aggregates,
        extractors=one.extractors | other.extractors,
        suspicious=one.suspicious or other.suspicious,
    )


def error_name(name: str) -> str:
    """The name under which a figure's error is logged: ``fd_se``, ``fd_se/class/<name>``."""
    head, slash, rest = name.partition("/")
    return f"{head}_se{slash}{rest}"


def measure(
    generated: Features,
    real: Features,
    names: Sequence[str] = (),
    metrics: Sequence[str] = ("fd", "kid"),
    *,
    labels: Sequence[int] = (),
    groups: Mapping[str, Sequence[int]] | None = None,
    equal_n: bool = False,
    per_class: bool = True,
    outputs: Mapping[str, np.ndarray] | None = None,
    train: Features | None = None,
    held_out: Features | None = None,
    text: np.ndarray | None = None,
    diversity: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    pairs: Pairs | None = None,
    seed: int = 0,
) -> Scores:
    """Computes the named rows of ``METRICS`` at matched counts: pooled, per class and per group of classes.

    Args:
      generated, real: features of one extractor, both labelled or neither. Where a class has more images on
        one side, a subset drawn by (seed, label) is compared; the floor uses all reals.
      names: class names by label.
      metrics: rows of ``METRICS``.
      labels: classes that have figures even where neither side has an image of them: None, with the reason.
      groups: labels by name; the images of a group are those that its classes are compared with.
      equal_n: cut every class to the count of the smallest one that has two images a side.
      per_class: whether classes have figures of their own beside the pooled ones.
      outputs, train, held_out, text, diversity, pairs: see ``Given``; what the metrics' ``needs`` name.
      seed: draws subsets and the floor's splits.

    Raises:
      ValueError: extractors, widths or labels that do not fit, or a metric that cannot be computed on them.
    """
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; known are {sorted(METRICS)}")
    given = Given(outputs or {}, train, held_out, text, diversity, pairs)
    how = dict(labels=labels, equal_n=equal_n, seed=seed, per_class=per_class)
    comparison = compare(generated, real, names, groups or {}, given, **how)
    for metric in metrics:
        _check(metric, comparison)
    found = {metric: METRICS[metric].measure(comparison) for metric in metrics}
    columns = {
        key: {name: value for one in found.values() for name, value in one.columns.get(key, {}).items()}
        for key in ((one.kind, one.name) for one in comparison.everything)
    }

    def row(one: Match) -> ClassRow:
        return class_row(one, columns[one.kind, one.name])

    return Scores(
        figures={name: figure for one in found.values() for name, figure in one.figures.items()},
        rows=tuple(row(one) for one in comparison.classes),
        aggregates={name: total for one in found.values() for name, total in one.aggregates.items()},
        balanced=len({one.n for one in comparison.classes}) == 1,
        n=comparison.pooled.n,
        extractor=generated.extractor,
        groups=tuple(row(whole) for whole, _ in comparison.groups.values()),
        equal_n=max(one.n for one in comparison.classes) if equal_n else None,
        extractors=dict.fromkeys(metrics, generated.extractor),
        suspicious=next((one.suspicious for one in found.values() if one.suspicious), ()),
    )


def _check(metric: str, c: Comparison) -> None:
    row, extractor = METRICS[metric], c.generated.extractor
    if row.about and not extractor.startswith(row.network):
        raise ValueError(row.about.format(repr(extractor)))
    missing = [NEEDS[need] for need in row.needs if not _has(c, need)]
    if missing:
        raise ValueError(f"{metric} needs {' and '.join(missing)}")
    least = row.least_of(c.generated.values.shape[1])
    if c.pooled.n < least:
        raise ValueError(f"{metric} needs at least {least} images a side; there are {c.pooled.n}")


def _has(c: Comparison, need: str) -> bool:
    return c.generated.labels is not None if need == "labels" else c.given.has(need)
