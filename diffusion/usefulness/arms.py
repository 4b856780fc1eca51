"""What a classifier is trained on: (real training images, synthetic ones of this arm) -> images."""

from collections.abc import Sequence

import numpy as np

from diffusion.classifier_fit import Labelled
from diffusion.usefulness.selection import Chosen


def real(train: Labelled, made: Labelled | None) -> Labelled:
    """The training split as it is."""
    return train


def real_balanced(train: Labelled, made: Labelled | None) -> Labelled:
    """Every smaller class repeated up to the largest: whatever balances helps, and so might this alone."""
    counts, rows = np.bincount(train.labels), [np.arange(len(train.labels))]
    for c, n in enumerate(counts):
        rows.append(np.resize(np.flatnonzero(train.labels == c), counts.max())[n:] if n else rows[0][:0])
    rows = np.concatenate(rows)
    return Labelled(train.images[rows], train.labels[rows])


def synthetic(train: Labelled, made: Labelled | None) -> Labelled:
    """Drawn images alone; they are tested on real ones."""
    return made


def real_and_synthetic(train: Labelled, made: Labelled | None) -> Labelled:
    images, labels = ((getattr(train, name), getattr(made, name)) for name in ("images", "labels"))
    return Labelled(np.concatenate(images), np.concatenate(labels))


def left_out(arm: str, chosen: Sequence[Chosen], names: Sequence[str]) -> str:
    """Why an arm cannot be trained on what is left of its synthetic images in each seed; "" where it can."""
    kept = np.stack([one.kept for one in chosen])  # [s k]
    if not chosen[0].asked.any():
        return "every class is as large as the largest, so nothing is filled up; ask with usefulness.counts"
    if arm == "real+synthetic" and not kept.any(1).all():
        return "no synthetic image is left: it would be the arm real"
    if arm == "synthetic" and (unasked := [names[c] for c in np.flatnonzero(chosen[0].asked == 0)]):
        return f"none is asked of class {_some(unasked)}: nothing could be read as it"
    if arm == "synthetic" and not kept.all():
        absent = [names[c] for c in np.flatnonzero(~kept.all(0))]
        return f"no image is left of class {_some(absent)}: nothing could be read as it"
    return ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", …" * (len(names) > 5)


ARMS = {"real": real, "real_balanced": real_balanced, "synthetic": synthetic, "real+synthetic": real_and_synthetic}
COMPARED = (  # arm, and what it is compared with
    ("real_balanced", "real"),
    ("synthetic", "real"),
    ("real+synthetic", "real"),
    ("real+synthetic", "real_balanced"),
)
