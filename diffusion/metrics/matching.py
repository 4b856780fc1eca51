"""Which images are compared: equal counts of every class on both sides, drawn by (seed, label)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffusion.metrics.features import Features, check_comparable

CLASS, GROUP, POOLED = "class", "group", "pooled"


@dataclass(frozen=True, eq=False)
class Match:
    """What is compared for one class, for a group of classes or for all of them: equal counts on both sides.

    Attributes:
      name: the class or the group.
      generated: f[n d].
      real: f[n d], a seeded subset of the reals without replacement.
      strata: (generated f[n d], all reals f[m d], m >= n) of each class in it.
      seed: draws the floor's splits.
      kind: "class", "group" or "pooled".
    """

    name: str
    generated: np.ndarray
    real: np.ndarray
    strata: tuple[tuple[np.ndarray, np.ndarray], ...]
    seed: tuple[int, ...]
    kind: str = CLASS

    @property
    def n(self) -> int:
        return len(self.generated)

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each class, in the order of both sides; unlabelled images are one class."""
        return tuple(len(made) for made, _ in self.strata)

    def named(self, figure: str) -> str:
        """``fd -> fd/class/<name>``; of all classes together, ``fd``."""
        return figure if self.kind == POOLED else f"{figure}/{self.kind}/{self.name}"


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


def labels_of(generated: Features, real: Features, labels: Sequence[int] = ()) -> list[int]:
    """The labels on either side of labelled features and those asked for, in order."""
    return np.unique(np.concatenate([generated.labels, real.labels, np.asarray(labels, np.int64)])).tolist()


def match_classes(
    generated: Features,
    real: Features,
    names: Sequence[str] = (),
    *,
    labels: Sequence[int] = (),
    seed: int = 0,
    equal_n: bool = False,
) -> tuple[Match, ...]:
    """The classes of ``labels_of``, in its order, each with n = min(generated, real) images a side.

    Subsets are drawn without replacement by (seed, label), whatever the other classes hold.
    Unlabelled features have no classes: ().

    Args:
      equal_n: every class takes the n of the smallest one that has two images a side.
    """
    check_comparable(generated, real)
    if generated.labels is None:
        return ()
    sides = {c: (generated.of(c), real.of(c)) for c in labels_of(generated, real, labels)}
    most = None
    if equal_n:
        most = min((n for n in map(_smaller, sides.values()) if n >= 2), default=None)
    return tuple(match(class_name(c, names), *pair, (seed, c), most) for c, pair in sides.items())


def match(name: str, generated: np.ndarray, reals: np.ndarray, seed: tuple[int, ...], most: int | None = None) -> Match:
    """Draws equal counts without replacement, ``most`` at most; a side of that size is taken whole and in order."""
    n = _smaller((generated, reals)) if most is None else min(most, _smaller((generated, reals)))
    rng = np.random.default_rng((*seed, 0))
    drawn = _subset(generated, n, rng)
    return Match(name, drawn, _subset(reals, n, rng), ((drawn, reals),), (*seed, 1))


def match_groups(
    classes: Mapping[int, Match], groups: Mapping[str, Sequence[int]], *, seed: int = 0
) -> dict[str, tuple[Match, tuple[Match, ...]]]:
    """(all images of the group, its classes) by group; a class keeps the images that it is compared with alone.

    Args:
      classes: by label.
      groups: labels by name; groups may overlap. A label without images adds none.

    Raises:
      ValueError: a group without labels.
    """
    found = {}
    for i, (name, labels) in enumerate(groups.items()):
        if not len(labels):
            raise ValueError(f"the group {name!r} holds no classes")
        members = tuple(classes[label] for label in sorted(set(labels)) if label in classes)
        none = replace(next(iter(classes.values())), strata=())
        none = replace(none, generated=none.generated[:0], real=none.real[:0])
        found[name] = (replace(together(members or (none,)), name=name, kind=GROUP, seed=(seed, i, 2)), members)
    return found


def together(members: Sequence[Match]) -> Match:
    """All images of several classes, in the counts that each is compared with."""
    generated, real = (np.concatenate([getattr(one, side) for one in members]) for side in ("generated", "real"))
    strata = tuple(part for one in members for part in one.strata)
    return Match(POOLED, generated, real, strata, members[0].seed, POOLED)


def _smaller(sides: tuple[np.ndarray, np.ndarray]) -> int:
    return min(len(side) for side in sides)


def _subset(x: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return x if len(x) == n else x[np.sort(rng.choice(len(x), n, replace=False))]
