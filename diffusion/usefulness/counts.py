"""How many images of which class are asked for, and which classes are the small ones."""

from collections.abc import Sequence

import numpy as np

from diffusion.data.class_split import by_class, label_of


def named_counts(text: str, names: Sequence[str]) -> np.ndarray | None:
    """i[k] of "200" (of each class) or "cat:200,dog:50" (of the others none); None where it is empty.

    Raises:
      ValueError: a class that is not there or stands there twice, or a count that is none.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        return None
    if len(items) == 1 and ":" not in items[0]:
        return np.full(len(names), _count(items[0]))
    found = by_class("counts", items, names, "COUNT", _count)
    return np.array([found.get(label, 0) for label in range(len(names))])


def needed(asked: np.ndarray | None, real: np.ndarray) -> dict[str, np.ndarray]:
    """Synthetic images i[k] of each arm that has some: as asked, or what makes every class as large as the largest.

    Args:
      real: i[k], training images of each class.
    """
    if asked is not None:
        return {"synthetic": asked, "real+synthetic": asked}
    most = np.full(len(real), real.max())
    return {"synthetic": most, "real+synthetic": most - real}


def small_classes(text: str, names: Sequence[str], real: np.ndarray | None = None) -> list[int]:
    """Labels of "cat,3"; where it is empty those below half of the largest class, or else the smallest one.

    Args:
      real: i[k], training images of each class; without them the text alone is read.

    Raises:
      ValueError: a class that is not there or stands there twice.
    """
    labels = [label_of("small", item.strip(), names) for item in text.split(",") if item.strip()]
    if len(set(labels)) < len(labels):
        raise ValueError(f"small names a class twice: {text!r}")
    if labels or real is None:
        return sorted(labels)
    below = np.flatnonzero(2 * real < real.max())
    return below.tolist() or [int(real.argmin())]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"counts has {text!r} where a count of 1 or more must stand")
    return int(text)
