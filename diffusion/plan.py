"""Which images an evaluation compares: counts of every class, matched to the reals, before any is made."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.data.records import Dataset


@dataclass(frozen=True, eq=False)
class Plan:
    """How many images of each class are compared.

    Attributes:
      per_class: i[k], of the figures of classes; 0 where a class is left out.
      pooled: i[k], of the pooled figures, in the data's class shares; None where those pool the classes' images.
      label, index: i[n], the images that both need: (class, how many of that class come before it).
    """

    per_class: np.ndarray
    pooled: np.ndarray | None
    label: np.ndarray
    index: np.ndarray

    @property
    def of_classes(self) -> np.ndarray:
        """bool[n]: the images of the classes' figures."""
        return self.index < self.per_class[self.label]

    @property
    def of_pool(self) -> np.ndarray:
        """bool[n]: the images of the pooled figures."""
        return self.of_classes if self.pooled is None else self.index < self.pooled[self.label]


def make_plan(
    sizes: np.ndarray, per_class: int, pooled: int = 0, *, equal: bool = False, have: np.ndarray | None = None
) -> Plan:
    """n_c = min(asked, reals, images there are).

    Args:
      sizes: i[k], real images of each class that is evaluated, 0 for the others.
      per_class: images asked of each class.
      pooled: images asked of all classes together, in the reals' shares; 0 pools those of the classes.
      equal: every class is compared at the smallest n_c that has two images, the fewest of any distance.
      have: i[k], images there are where they are not drawn to order.
    """
    sizes = np.asarray(sizes, np.int64)
    most = sizes if have is None else np.minimum(sizes, have)
    counts = np.minimum(per_class, most)
    if equal and (counts > 1).any():
        counts = np.minimum(counts, counts[counts > 1].min())
    shares = None if pooled == 0 else np.minimum(in_shares(pooled, sizes), most)
    needed = counts if shares is None else np.maximum(counts, shares)
    label = np.repeat(np.arange(len(sizes)), needed)
    return Plan(counts, shares, label, indices(label))


def in_shares(total: int, sizes: np.ndarray) -> np.ndarray:
    """``total`` images in the classes' shares, by largest remainder, i[k]; never more than there are reals."""
    return apportioned(min(total, int(sizes.sum())), sizes)


def apportioned(total: int, shares: np.ndarray) -> np.ndarray:
    """``total`` in whole parts by largest remainder, i[k]; shares [k] are 0 or more, not all 0 unless total is."""
    exact = total * shares / (shares.sum() or 1)
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def indices(label: np.ndarray) -> np.ndarray:
    """i[n]: how many images of the same class come before each."""
    index = np.zeros(len(label), np.int64)
    for c in np.unique(label):
        index[label == c] = np.arange(np.sum(label == c))
    return index


def chosen_classes(text: str, number: int, dataset: Dataset, seed: int) -> list[int]:
    """Labels that are evaluated, in order: all, those of "cat,3", or ``number`` drawn by the seed; never another draw.

    Where a set's classes are split into seen and unseen ones, all means those two.

    Raises:
      ValueError: a class that is not there or stands there twice, more than there are, or both ways at once.
    """
    names, among = dataset.classes, sorted((*dataset.seen, *dataset.unseen)) or list(range(len(dataset.classes)))
    if text and number:
        raise ValueError("num_classes draws them, classes names them; give one of the two")
    if number > len(among):
        raise ValueError(f"num_classes is {number}; there are {len(among)} classes")
    if number:
        return sorted(among[i] for i in np.random.default_rng([seed, 3]).permutation(len(among))[:number])
    return _labels("classes", text, names) if text else among


def named_groups(text: str, dataset: Dataset, chosen: Sequence[int]) -> dict[str, list[int]]:
    """{"rare": [3, 7]} of "rare:3,7; common:cat,dog".

    Where some classes are never trained on, "in" (trained on) and "out" are groups too.

    Raises:
      ValueError: a group without a name or classes, named twice, or of a class that is not evaluated.
    """
    names, parts = dataset.classes, {"in": dataset.seen, "out": dataset.unseen} if dataset.unseen else {}
    found = {name: [label for label in chosen if label in part] for name, part in parts.items()}
    found = {name: labels for name, labels in found.items() if labels}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, colon, classes = (piece.strip() for piece in part.partition(":"))
        if not (name and colon and classes) or "/" in name:
            raise ValueError(f"groups holds {part!r}; write NAME:CLASS,CLASS and a semicolon between groups")
        if name in found:
            own = ", which stands for classes by whether they are trained on" if name in parts else ""
            raise ValueError(f"groups names {name!r} twice{own}")
        found[name] = _labels("groups", classes, names)
        absent = [names[label] for label in found[name] if label not in chosen]
        if absent:
            raise ValueError(f"groups has {absent[0]!r} in {name!r}, which is not among the classes that are evaluated")
    return found


def _labels(field: str, text: str, names: Sequence[str]) -> list[int]:
    known = {str(i): i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
    items = [item.strip() for item in text.split(",") if item.strip()]
    for item in items:
        if item not in known:
            raise ValueError(f"{field} has {item!r}, which is not a class; they are {', '.join(names) or 'none'}")
    labels = [known[item] for item in items]
    if len(set(labels)) < len(labels):
        raise ValueError(f"{field} names a class twice: {text!r}")
    return sorted(labels)
