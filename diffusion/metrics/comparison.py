"""What a metric sees of an evaluation, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from diffusion.metrics.features import Features, check_comparable
from diffusion.metrics.figure import Figure
from diffusion.metrics.matching import Match, class_name, labels_of, match, match_classes, match_groups, together
from diffusion.metrics.paired import Pairs
from diffusion.metrics.per_class import Aggregate, Columns


@dataclass(frozen=True)
class Given:
    """What an evaluation supplies beside the features of both sides; None where it has none.

    Attributes:
      outputs: of the extractor, for all generated images: "classes" i[n], "logits" f[n k].
      train: features of the training images, of the same extractor.
      held_out: features of real images that were kept from training.
      text: f[n d], features of each generated image's prompt, in the space of the images'.
      diversity: LPIPS distances f[p] of pairs of one condition, and the conditions i[p]: "generated", "real".
      pairs: generated images beside their truths.
    """

    outputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    train: Features | None = None
    held_out: Features | None = None
    text: np.ndarray | None = None
    diversity: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None
    pairs: Pairs | None = None

    def has(self, need: str) -> bool:
        """Whether one of the ``needs`` of a row of METRICS is there."""
        return need in self.outputs if need in ("classes", "logits") else getattr(self, need) is not None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a row of ``METRICS`` sees.

    Attributes:
      generated, real: all images of both sides.
      classes: one match per class; () when unlabelled, or where classes have no figures.
      labels: of ``classes``.
      groups: (all its images, its classes) by group.
      members: labels by group.
      pooled: all classes together, in the counts that each is matched at.
      names: class names by label, or ().
      given: what stands beside the features.
      seed: of draws.
    """

    generated: Features
    real: Features
    classes: tuple[Match, ...]
    labels: tuple[int, ...]
    groups: Mapping[str, tuple[Match, tuple[Match, ...]]]
    members: Mapping[str, tuple[int, ...]]
    pooled: Match
    names: tuple[str, ...]
    given: Given
    seed: int

    @property
    def everything(self) -> tuple[Match, ...]:
        """All together, then each class, then each group."""
        return (self.pooled, *self.classes, *(whole for whole, _ in self.groups.values()))

    def by_label(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Which rows belong to each class and group: {"class/<name>": b[n], "group/<name>": b[n]}."""
        classes = {f"class/{class_name(c, self.names)}": labels == c for c in self.labels}
        return classes | {f"group/{name}": np.isin(labels, own) for name, own in self.members.items()}

    def rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, purpose, 3))


@dataclass(frozen=True)
class Measured:
    """One metric's figures.

    Attributes:
      figures: by name ("fd", "fd/class/<name>", ...).
      columns: fields of ``ClassRow``, by (kind, name) of the match.
      aggregates: by figure.
      suspicious: (generated index, training index, ratio of distances), the most suspicious first.
    """

    figures: dict[str, Figure]
    columns: dict[tuple[str, str], Columns] = field(default_factory=dict)
    aggregates: dict[str, Aggregate] = field(default_factory=dict)
    suspicious: tuple[tuple[int, int, float], ...] = ()


def compare(
    generated: Features,
    real: Features,
    names: Sequence[str],
    groups: Mapping[str, Sequence[int]],
    given: Given,
    *,
    labels: Sequence[int] = (),
    equal_n: bool,
    seed: int,
    per_class: bool = True,
) -> Comparison:
    """Matches both sides, by class where they are labelled.

    Args:
      per_class: whether classes and groups have figures of their own; the pooled images are matched by class anyway.

    Raises:
      ValueError: sides that do not compare; groups of unlabelled images, or without labels.
    """
    for other in (given.train, given.held_out):
        if other is not None:
            check_comparable(replace(generated, labels=None), replace(other, labels=None))
    classes = match_classes(generated, real, names, labels=labels, seed=seed, equal_n=equal_n)
    if not classes:
        if groups or equal_n:
            raise ValueError("groups of classes and equal counts over classes need labelled images")
        pooled = match("pooled", generated.values, real.values, (seed,))
        return Comparison(generated, real, (), (), {}, {}, together((pooled,)), tuple(names), given, seed)
    if not per_class:
        return Comparison(generated, real, (), (), {}, {}, together(classes), tuple(names), given, seed)
    by_label = dict(zip(labels_of(generated, real, labels), classes, strict=True))
    found = match_groups(by_label, groups, seed=seed)
    members = {name: tuple(own) for name, own in groups.items()}
    return Comparison(
        generated, real, classes, tuple(by_label), found, members, together(classes), tuple(names), given, seed
    )
