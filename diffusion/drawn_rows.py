"""Pictures that an evaluation speaks of, made once more: best and worst classes, sets, and pairs that look like copies.

All processes draw them together, so process 0 says which: the figures that rank them may differ in their last bits.
"""

import numpy as np

from diffusion.cluster import of_first
from diffusion.compared import Compared
from diffusion.eval_console import column_of, row_in_words, worst_and_best
from diffusion.eval_sheets import PAIRS, ClassImages, class_sheet, pair_sheet
from diffusion.metrics import ClassRow

CLASSES = 3  # worst and best ones that are shown
IMAGES = 8  # of each class and side
SETS = 3  # of classes trained on, and of classes never seen


def best_and_worst(compared: Compared, rows: tuple[ClassRow, ...]) -> np.ndarray | None:
    """u8[H W c]: real and generated images of the worst and best classes; None in a set without classes.

    Unreliable classes are neither, unless all are.
    """
    if column_of(rows) is None:
        return None
    reliable = [row for row in rows if not row.flag]
    ends = worst_and_best(reliable if column_of(reliable) else rows, CLASSES, CLASSES)
    ends = of_first([[row.name for row in part] for part in ends])
    named = {row.name: row for row in rows}
    return class_sheet(*([_shown(compared, named[name]) for name in part] for part in ends), columns=IMAGES)


def suspicious_pairs(compared: Compared, pairs: tuple[tuple[int, int, float], ...]) -> np.ndarray | None:
    """u8[H W c]: generated images beside the training images that they may be copies of; None without any.

    Args:
      pairs: (row of the pooled generated images, row of the training features, ratio), the worst first.
    """
    some = of_first(pairs[:PAIRS])
    if not some:
        return None
    plan = compared.plan
    made, train = (np.array([pair[i] for pair in some]) for i in (0, 1))
    label, index = plan.label[plan.of_pool][made], plan.index[plan.of_pool][made]
    ids = compared.real_ids("train")[train]
    originals = compared.records(ids, "train")
    return pair_sheet(compared.subject.pictures(label, index), originals, [f"ratio {ratio:.2f}" for *_, ratio in some])


def sets_of(compared: Compared) -> dict[str, list[ClassImages]]:
    """Sets by the title of their part, the same at every evaluation; {} where images are not conditioned on sets.

    Each shows one class: its support, the images that were drawn from it, and as many real ones of the reference.
    There are up to three of a part; a class that is not compared has none.
    """
    subject, dataset = compared.subject, compared.program.dataset
    if subject.support is None:
        return {}
    some = [c for c in compared.chosen if compared.plan.per_class[c]]
    split = {"seen in training": dataset.seen, "never seen": dataset.unseen}
    parts = split if dataset.unseen else {"sets": some}
    found = {}
    for title, classes in parts.items():
        own = [c for c in some if c in classes]
        shown = np.unique(np.linspace(0, len(own) - 1, SETS).round().astype(int)) if own else []
        found[title] = [_set(compared, own[i]) for i in shown]
    return {title: sets for title, sets in found.items() if sets}


def _set(compared: Compared, label: int) -> ClassImages:
    n = min(compared.program.loading.sets.size, int(compared.plan.per_class[label]))
    generated = compared.subject.pictures(np.full(n, label), np.arange(n))
    support = compared.subject.support.shown(label, 0)
    return ClassImages(compared.names[label], f"{len(support)} shown", _reals(compared, label, n), generated, support)


def _reals(compared: Compared, label: int, most: int) -> np.ndarray:
    real = compared.reals(compared.streamed[0])
    return compared.records(real.ids[real.labels == label][:most])


def _shown(compared: Compared, row: ClassRow) -> ClassImages:
    names = compared.program.dataset.classes
    label = names.index(row.name)
    n = min(IMAGES, row.n_gen)
    generated = compared.subject.pictures(np.full(n, label), np.arange(n))
    return ClassImages(row.name, row_in_words(row), _reals(compared, label, IMAGES), generated)
