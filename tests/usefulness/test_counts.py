import numpy as np
import pytest

from diffusion.usefulness.counts import named_counts, needed, small_classes

NAMES = ("cat", "dog", "7")
REAL = np.array([50, 20, 26])


def test_counts_by_name():
    assert named_counts("", NAMES) is None
    assert named_counts("200", NAMES).tolist() == [200, 200, 200]
    assert named_counts("dog:50, cat:200", NAMES).tolist() == [200, 50, 0]
    assert named_counts("0:3,7:4", NAMES).tolist() == [3, 0, 4]


@pytest.mark.parametrize(
    "text, said",
    [
        ("emu:3", "counts: 'emu' is no class, nor an index in 0..2"),
        ("cat:3,0:4", "counts names 'cat' twice"),
        ("cat:-1", "counts has '-1' where"),
        ("cat:0", "counts has '0' where"),
        ("0", "counts has '0' where"),
        ("many", "counts has 'many' where"),
        ("cat:3,dog", "counts: 'dog' is not CLASS:COUNT"),
    ],
)
def test_counts_that_cannot_be(text, said):
    with pytest.raises(ValueError) as refused:
        named_counts(text, NAMES)
    assert str(refused.value).startswith(said)


def test_by_default_every_class_becomes_as_large_as_the_largest():
    found = needed(None, REAL)
    assert (found["synthetic"].tolist(), found["real+synthetic"].tolist()) == ([50, 50, 50], [0, 30, 24])
    asked = needed(np.array([1, 2, 3]), REAL)
    assert all(counts.tolist() == [1, 2, 3] for counts in asked.values()) and len(asked) == 2


def test_small_classes():
    assert small_classes("", NAMES, REAL) == [1]  # 26 is above half of 50
    assert small_classes("", NAMES, np.array([50, 24, 10])) == [1, 2]
    assert small_classes("", NAMES, np.array([50, 24, 25])) == [1]  # half is not below it
    assert small_classes("", NAMES, np.array([50, 30, 25])) == [2]  # none is below half: the smallest
    assert small_classes("7,cat", NAMES, REAL) == [0, 2]
    for text, said in ("emu", "small: 'emu' is no class"), ("cat,0", "small names a class twice"):
        with pytest.raises(ValueError, match=said):
            small_classes(text, NAMES, REAL)
