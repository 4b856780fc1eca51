"""From two sets of features to all named numbers of an evaluation: the table of metrics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffusion.metrics.accuracy import accuracy
from diffusion.metrics.fd import frechet_distance
from diffusion.metrics.features import Features
from diffusion.metrics.kid import kid
from diffusion.metrics.named import Values, check_inception, summary
from diffusion.metrics.per_class import (
    Aggregate,
    ClassRow,
    Columns,
    Match,
    class_row,
    fd_columns,
    kid_columns,
    match,
    match_classes,
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a row of ``METRICS`` sees.

    Attributes:
      classes: one match per class; () when unlabelled.
      pooled: all classes together, in the counts of ``classes``.
      names: class names by label, or ().
      extractor: who made the features.
      asked: i[n], labels of all generated images, or None.
      predicted: i[n], the extractor's reading of them, or None.
    """

    classes: tuple[Match, ...]
    pooled: Match
    names: tuple[str, ...]
    extractor: str
    asked: np.ndarray | None
    predicted: np.ndarray | None


@dataclass(frozen=True)
class Measured:
    """One metric's figures.

    Attributes:
      values: by metric name.
      reasons: why a value is None, by the same name.
      columns: fields of ``ClassRow``, by class.
      aggregates: by figure.
    """

    values: Values
    reasons: dict[str, str] = field(default_factory=dict)
    columns: dict[str, Columns] = field(default_factory=dict)
    aggregates: dict[str, Aggregate] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """All metrics of one evaluation.

    Attributes:
      values: every number by name ("fd", "fd/class/<name>", "accuracy", ...).
      reasons: why a value is None, by the same name.
      rows: one per class, by label.
      aggregates: by figure ("fd", "fd_excess", "kid_x1e3"; "fid", "fid_excess" on Inception features).
      balanced: whether the pooled figures hold equally many images of every class.
      n: images on each side of the pooled figures.
    """

    values: Values
    reasons: dict[str, str]
    rows: tuple[ClassRow, ...]
    aggregates: dict[str, Aggregate]
    balanced: bool
    n: int
    extractor: str = ""
    errors: dict = field(default_factory=dict)
    counts: dict = field(default_factory=dict)
    suspicious: tuple = ()

    @staticmethod
    def merged(all):
        return all[0]

    def with_pooled(self, other):
        import dataclasses

        return dataclasses.replace(self, values=self.values | other.values)


def measure(
    generated: Features,
    real: Features,
    names: Sequence[str] = (),
    metrics: Sequence[str] = ("fd", "kid"),
    *,
    predicted: np.ndarray | None = None,
    seed: int = 0,
    outputs={},
    **ignored,
) -> Scores:
    predicted = outputs.get("classes")
    """Computes the named rows of ``METRICS`` at matched counts, per class and pooled.

    Args:
      generated, real: features of one extractor, both labelled or neither. Where a class has more images on
        one side, a subset drawn by (seed, label) is compared; the floor uses all reals.
      names: class names by label.
      metrics: rows of ``METRICS``.
      predicted: i[n], classes read off all generated images, for "accuracy".
      seed: draws subsets and the floor's splits.

    Raises:
      ValueError: extractors, widths or labels that do not fit, or a metric that cannot be computed on them.
    """
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; known are {sorted(METRICS)}")
    comparison = _compare(generated, real, tuple(names), predicted, seed)
    found = [METRICS[metric].measure(comparison) for metric in metrics]
    columns = {pair.name: _merged(one.columns.get(pair.name, {}) for one in found) for pair in comparison.classes}
    return Scores(
        values=_merged(one.values for one in found),
        reasons=_merged(one.reasons for one in found),
        rows=tuple(class_row(pair, columns[pair.name]) for pair in comparison.classes),
        aggregates=_merged(one.aggregates for one in found),
        balanced=len({pair.n for pair in comparison.classes}) == 1,
        n=comparison.pooled.n,
        extractor=generated.extractor,
    )


def _compare(
    generated: Features, real: Features, names: tuple[str, ...], predicted: np.ndarray | None, seed: int
) -> Comparison:
    classes = match_classes(generated, real, names, seed=seed)
    if classes:
        sides = [np.concatenate([getattr(pair, side) for pair in classes]) for side in ("generated", "real")]
        pooled = Match("pooled", *sides, real.values, (seed,))
    else:
        pooled = match("pooled", generated.values, real.values, (seed,))
    return Comparison(classes, pooled, names, generated.extractor, generated.labels, predicted)


def _fd(c: Comparison) -> Measured:
    return _over_classes(c, fd_columns, {"fd": "fd", "fd_excess": "fd_excess"}, "fd", frechet_distance)


def _fid(c: Comparison) -> Measured:
    check_inception(c.extractor)
    return _over_classes(c, fd_columns, {"fid": "fd", "fid_excess": "fd_excess"}, "fid", frechet_distance)


def _kid(c: Comparison) -> Measured:
    return _over_classes(c, kid_columns, {"kid_x1e3": "kid_x1e3"}, "kid_x1e3", lambda x, y: 1e3 * kid(x, y))


def _accuracy(c: Comparison) -> Measured:
    if c.asked is None or c.predicted is None:
        raise ValueError("accuracy needs labelled images and an extractor that predicts classes")
    return Measured(dict(accuracy(c.predicted, c.asked, c.names)))


def _over_classes(
    c: Comparison,
    columns_of: Callable[[Match], Columns],
    figures: Mapping[str, str],
    name: str,
    pooled: Callable[[np.ndarray, np.ndarray], float],
) -> Measured:
    values: Values = {name: pooled(c.pooled.generated, c.pooled.real)}
    if not c.classes:
        return Measured(values)
    columns = {pair.name: columns_of(pair) for pair in c.classes}
    counts = {pair.name: pair.n for pair in c.classes}
    reasons, aggregates = {}, {}
    for figure, column in figures.items():
        by_class = {key: row.get(column) for key, row in columns.items()}
        found, why, aggregates[figure] = summary(figure, by_class, counts)
        values |= found
        reasons |= why
    return Measured(values, reasons, columns, aggregates)


def _merged(parts) -> dict:
    return {key: value for part in parts for key, value in part.items()}


@dataclass(frozen=True)
class Metric:
    measure: Callable
    figures: tuple = ()
    needs: tuple[str, ...] = ()
    least: int = 2
    network: str = ""


METRICS = {
    "fd": Metric(_fd),
    "fid": Metric(_fid, network="inception"),
    "kid": Metric(_kid),
    "accuracy": Metric(_accuracy, needs=("labels", "classes"), network="classifier"),
}
