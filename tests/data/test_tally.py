import numpy as np
import pytest

from diffusion.data.episodes import Episodes, Sets
from diffusion.data.order import Balanced, Plain
from diffusion.data.tally import ENDS, MOST, Tally

LABELS = np.repeat(np.arange(4, dtype=np.int32), [13, 5, 0, 3])
NAMES = ("a", "b", "nobody", "c")
ORDERS = {
    "plain": Plain(len(LABELS), 4, 0, shuffle=True),
    "balanced": Balanced(LABELS, (6, 7, 0, 9), 4, 0),
    "sets": Episodes(LABELS, 4, 0, True, Sets(size=3, targets=2)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_it_counts_what_was_drawn_since_step_0(name):
    """Asked in any order, by one that saw no step before: a resumed run goes on counting where it stopped."""
    order, counted = ORDERS[name], [np.zeros(4, np.int64)]
    for step in range(3 * order.steps_per_epoch + 1):
        counted.append(counted[-1] + np.bincount(LABELS[order.rows(step).ids], minlength=4))
    for step in reversed(range(len(counted))):
        tally = Tally(order, LABELS, NAMES)
        assert tally.until(step).tolist() == counted[step].tolist()
        assert tally.figures(step) == {f"data/drawn/{c}": counted[step][i] for i, c in enumerate(NAMES) if i != 2}


def test_the_table_says_how_often_an_image_is_seen_and_what_its_loss_weighs():
    first, *_, last = Tally(ORDERS["balanced"], LABELS, NAMES).table((0.5, 1.0, 1.0, 2.0))
    assert list(first.values()) == ["a", 13, 6, 6 / 13, 0.5]
    assert list(last.values()) == ["c", 3, 9, 3.0, 2.0]
    assert [row["loss weight"] for row in Tally(ORDERS["plain"], LABELS, NAMES).table(())] == [1.0] * 3


def test_of_many_classes_the_extremes_stand_for_all():
    labels = np.repeat(np.arange(MOST + 1), np.arange(1, MOST + 2))
    order = Plain(len(labels), 10, 0, shuffle=True)
    tally = Tally(order, labels, list(map(str, range(MOST + 1))))
    assert tally.figures(order.steps_per_epoch) == {"data/drawn_least": 1, "data/drawn_most": MOST + 1}
    sizes = [row["images"] for row in tally.table(())]
    assert sizes == [*range(1, ENDS + 1), *range(MOST + 2 - ENDS, MOST + 2)]
