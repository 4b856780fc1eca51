"""Which classes are trained on and which are never seen, and the splits of a data set that follow from it."""

import difflib
import functools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from diffusion.data.order import permuted
from diffusion.data.records import Dataset, opener
from diffusion.data.subset import Subset
from diffusion.errors import DataError

Number = TypeVar("Number")

_DRAW = (0, 0)  # stream of the seed; a stratified split has streams of one number


def class_split(
    dataset: Dataset, train: Sequence[str], test: Sequence[str], number: int, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(seen, unseen): labels that are trained on and labels that are only tested on; disjoint, each ascending.

    With nothing given they are the set's own ``class_splits`` "train" and "test" (its "val" is in neither), and
    ((), ()), which means that all classes are trained on, where it has none.

    Args:
      train: classes to train on, by name or by index as text (a name wins). Where ``test`` is empty, all others are
        unseen; with both, the classes in neither list are left out.
      test: classes never to train on; where ``train`` is empty, all others are trained on.
      number: so many classes are unseen, drawn by ``seed``, and the others trained on; 0 does not draw.
      seed: 0 or more.
    Raises:
      ValueError: begins with train_classes, test_classes or num_test_classes: a class is unknown, given twice or in
        both lists, one side would be empty, a number beside lists, or the set has no classes.
    """
    _check_asked(dataset, train, test, number)
    everything = range(len(dataset.classes))
    if number:
        unseen = frozenset(permuted(len(everything), seed, *_DRAW)[:number].tolist())
        return _others(everything, unseen), tuple(sorted(unseen))
    seen, unseen = _labels("train_classes", train, dataset.classes), _labels("test_classes", test, dataset.classes)
    if both := [label for label in unseen if label in seen]:
        raise ValueError(
            f"test_classes: {dataset.classes[both[0]]!r} is in train_classes too; a class is in one of them"
        )
    if not seen and not unseen:
        return tuple(tuple(sorted(dataset.class_splits.get(part, ()))) for part in ("train", "test"))
    if len(seen) == len(everything):
        raise ValueError(f"train_classes: all {len(seen)} classes are in it and none is left to test on; leave one out")
    if len(unseen) == len(everything):
        raise ValueError(f"test_classes: all {len(unseen)} classes are in it and none is left to train on")
    return seen or _others(everything, unseen), unseen or _others(everything, seen)


def restricted(dataset: Dataset, seen: Collection[int], unseen: Collection[int]) -> Dataset:
    """``dataset`` with more splits, or itself where both are empty.

    "train_seen" and "test_seen" are the records of "train" and "test" whose label is in ``seen``, "test_unseen" those
    of "test" whose label is in ``unseen``; where there is "val", so are "val_seen" and "val_unseen". Labels are read
    now, images when they are asked for; labels and classes keep their meaning, and the other splits are opened as
    before.

    Raises:
      DataError: a seen class has no record in "train", or one of these splits is empty.
    """
    if not seen and not unseen:
        return dataset
    held_out = [split for split in ("val", "test") if split in dataset.sizes]
    parts = {f"{split}_seen": (split, seen) for split in ("train", *held_out)}
    parts |= {f"{split}_unseen": (split, unseen) for split in held_out}
    labels = {split: dataset.open(split).labels for split in ("train", *held_out)}
    if bare := sorted(set(seen) - set(labels["train"].tolist())):
        raise DataError(
            f"{dataset.name}: class {dataset.classes[bare[0]]!r} is to be trained on and has no record in 'train'"
        )
    kept = {part: np.flatnonzero(np.isin(labels[split], list(classes))) for part, (split, classes) in parts.items()}
    for part, (split, classes) in parts.items():
        if not len(kept[part]):
            names = ", ".join(repr(dataset.classes[label]) for label in sorted(classes)[:5]) or "none"
            raise DataError(f"{dataset.name}: {part} is empty: no record in {split!r} is of its classes ({names})")

    def subset(part: str) -> Subset:
        return Subset(dataset.open(parts[part][0]), kept[part])

    before = {split: functools.partial(dataset.open, split) for split in dataset.sizes}
    return replace(
        dataset,
        labels_known=True,
        seen=tuple(sorted(seen)),
        unseen=tuple(sorted(unseen)),
        sizes={**dataset.sizes, **{part: len(numbers) for part, numbers in kept.items()}},
        open=opener({**before, **{part: functools.partial(subset, part) for part in parts}}),
    )


def _check_asked(dataset: Dataset, train: Sequence[str], test: Sequence[str], number: int) -> None:
    given = {"train_classes": len(train), "test_classes": len(test), "num_test_classes": number}
    asked = [field for field, value in given.items() if value]
    if asked and not dataset.classes:
        raise ValueError(f"{asked[0]}: {dataset.name} has no classes, so it cannot be split by class; leave it out")
    if number and len(asked) > 1:
        raise ValueError(f"num_test_classes: is {number} beside {asked[0]}; give a number to draw, or lists")
    if number and not 0 < number < len(dataset.classes):
        raise ValueError(
            f"num_test_classes: is {number}; it must lie in 1..{len(dataset.classes) - 1}, so that of the "
            f"{len(dataset.classes)} classes of {dataset.name} one is left to train on, or be 0 to draw none"
        )


def _labels(field: str, given: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Labels of names or indices, ascending."""
    found: dict[int, str] = {}
    for text in given:
        label = label_of(field, text, classes)
        if label in found:
            same = "" if found[label] == text else f", as {found[label]!r} and {text!r}"
            raise ValueError(f"{field}: class {classes[label]!r} is given twice{same}")
        found[label] = text
    return tuple(sorted(found))


def label_of(field: str, text: str, classes: Sequence[str]) -> int:
    """The class called ``text``, or else of that index. Raises ValueError, which begins with ``field``."""
    if text in classes:
        return classes.index(text)
    if re.fullmatch("[0-9]{1,9}", text) and int(text) < len(classes):
        return int(text)
    close = difflib.get_close_matches(text, classes)
    hint = f"close to it: {', '.join(close)}" if close else f"they are, for example: {', '.join(classes[:5])}"
    raise ValueError(f"{field}: {text!r} is no class, nor an index in 0..{len(classes) - 1}; {hint}")


def by_class(
    field: str, texts: Sequence[str], classes: Sequence[str], what: str, number: Callable[[str], Number]
) -> dict[int, Number]:
    """{label: number} of texts "cat:3", by name or index.

    Args:
      what: the number is, in capitals, for people.
      number: of the part behind the colon; its ValueError is the caller's own.

    Raises:
      ValueError: begins with ``field``; no class, one without a number, or one given twice.
    """
    found: dict[int, Number] = {}
    for text in texts:
        name, _, behind = text.rpartition(":")
        if not name:
            raise ValueError(f"{field}: {text!r} is not CLASS:{what}; write for example {classes[0]}:3")
        label = label_of(field, name, classes)
        if label in found:
            raise ValueError(f"{field} names {classes[label]!r} twice")
        found[label] = number(behind)
    return found


def _others(everything: Collection[int], taken: Collection[int]) -> tuple[int, ...]:
    return tuple(label for label in everything if label not in taken)
