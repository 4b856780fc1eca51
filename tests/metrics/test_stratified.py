"""Kernel distances where both sides hold the same count of each class."""

from collections.abc import Callable

import numpy as np
import pytest

from diffusion.metrics import Features, measure
from diffusion.metrics.clip_metrics import cmmd
from diffusion.metrics.kid import kid, kid_with_se

LAYOUTS = {"3 x 30": (30,) * 3, "10 x 7": (7,) * 10, "uneven": (7, 25, 100), "some single": (1, 30, 1, 30, 1)}


def cubic(a: np.ndarray, b: np.ndarray) -> float:
    return (float(a @ b) / len(a) + 1) ** 3


def gaussian(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 1000 * float(np.exp(-np.sum((a - b) ** 2) / (2 * 10**2)))


def by_classes(
    x: np.ndarray, y: np.ndarray, labels: np.ndarray, k: Callable = cubic, shares: dict[int, float] | None = None
) -> float:
    """The formula as it is written, pair by pair; rows of a class need not stand together.

    Args:
      shares: of the classes, where they are not those of ``labels``.
    """
    total = 0.0
    found, counts = np.unique(labels, return_counts=True)
    shares = shares or dict(zip(found, counts / len(labels), strict=True))
    for c in found:
        for d in found:
            a, b = np.flatnonzero(labels == c), np.flatnonzero(labels == d)
            if c == d and len(a) == 1:
                continue
            within = [(i, j) for i in a for j in b if i != j]
            term = np.mean([k(x[i], x[j]) + k(y[i], y[j]) for i, j in within])
            # symmetric in c and d over the double sum, so x_c with y_d is enough
            term -= 2 * np.mean([k(x[i], y[j]) for i in a for j in b])
            total += shares[c] * shares[d] * term
    return total


def draw(seed: int, counts: tuple[int, ...], shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, y, labels), class by class around centres far apart, which are the same for every seed."""
    rng, labels = np.random.default_rng((seed, 1)), np.repeat(np.arange(len(counts)), counts)
    centres = 3 * np.random.default_rng(0).normal(size=(len(counts), 6))[labels]
    x, y = (centres + rng.normal(size=centres.shape) for _ in range(2))
    return x, y + shift, labels


@pytest.mark.parametrize("counts", [(4, 3), (1, 5, 2), (1, 1, 1), (2, 0, 7), (9, 13, 3, 1)])
def test_agrees_with_a_loop_over_classes(counts, monkeypatch):
    monkeypatch.setattr("diffusion.metrics.stratified.CHUNK", 4)
    x, y, labels = draw(1, counts, 0.3)
    x, y = x / 10, y / 10
    assert kid(x, y, counts) == pytest.approx(by_classes(x, y, labels), abs=1e-12)
    assert kid(y, x, counts) == pytest.approx(kid(x, y, counts), abs=1e-12)
    found = cmmd(x, y, counts)
    assert found["cmmd_u"].value == pytest.approx(by_classes(x, y, labels, gaussian), abs=1e-11)
    assert found["cmmd_v"].value == pytest.approx(cmmd(x, y)["cmmd_v"].value, abs=1e-11)


def test_error_is_the_jackknife_of_the_loop():
    counts = (9, 13, 3, 1)
    x, y, labels = draw(2, counts, 0.3)
    x, y = x / 10, y / 10
    shares = {c: counts[c] / 26 for c in range(4)}
    value, se = kid_with_se(x, y, counts)
    assert value == kid(x, y, counts)
    group = np.arange(26) % 20
    h, without = 26 / np.bincount(group), []
    for g in range(20):
        kept = group != g
        left = {c: share for c, share in shares.items() if (labels[kept] == c).any()}
        left = {c: share / sum(left.values()) for c, share in left.items()}
        without.append(by_classes(x[kept], y[kept], labels[kept], shares=left))
    pseudo = h * value - (h - 1) * np.array(without)
    variance = np.mean((pseudo - np.average(pseudo, weights=1 / h)) ** 2 / (h - 1))
    assert se == pytest.approx(np.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("counts", LAYOUTS.values(), ids=LAYOUTS)
def test_mean_is_zero_for_equal_distributions(counts):
    draws = [draw(seed, counts) for seed in range(200)]
    for name, of in {"kid": kid, "cmmd_u": lambda *sides: cmmd(*sides)["cmmd_u"].value}.items():
        values = np.array([of(x, y, counts) for x, y, _ in draws])
        assert abs(values.mean()) < 4 * values.std(ddof=1) / 200**0.5, name
        plain = np.mean([of(x, y) for x, y, _ in draws[:50]])
        assert plain < -20 * values.std(ddof=1) / 200**0.5, "the layout tells the two estimates apart"


def test_a_single_class_is_that_of_independent_draws():
    x, y, _ = draw(0, (40,))
    for counts in [(), (40,), (0, 40)]:
        assert kid(x, y, counts) == kid(x, y) and kid_with_se(x, y, counts) == kid_with_se(x, y)
        assert cmmd(x, y, counts) == cmmd(x, y)


@pytest.mark.parametrize("counts", LAYOUTS.values(), ids=LAYOUTS)
def test_error_over_replicates(counts):
    draws = [draw(seed, counts, 0.7) for seed in range(200)]
    found = np.array([kid_with_se(x, y, counts) for x, y, _ in draws])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(ddof=1), rel=0.3)
    for name in ("cmmd_u", "cmmd_v"):
        figures = [cmmd(x, y, counts)[name] for x, y, _ in draws]
        spread = np.std([figure.value for figure in figures], ddof=1)
        assert np.mean([figure.se for figure in figures]) == pytest.approx(spread, rel=0.3), name


def test_class_by_class_of_one_row_leaves_its_own_term_out():
    """Of classes of one row that differ alike, (n - 1) / n of the distance is seen."""
    counts, seen = (1,) * 40, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        seen.append(kid(rng.normal(size=(40, 6)), rng.normal(size=(40, 6)) + 0.5, counts))
    rng = np.random.default_rng(0)
    whole = kid(rng.normal(size=(1500, 6)), rng.normal(size=(1500, 6)) + 0.5)
    assert np.mean(seen) == pytest.approx(39 / 40 * whole, rel=0.05)


def test_pooled_and_group_figures_know_their_classes():
    """With iid labels and with fixed ones the pooled figure means the same."""
    values = []
    for seed in range(60):
        x, y, labels = draw(seed, (10, 20, 8))
        order = np.random.default_rng(seed).permutation(len(labels))
        made, real = Features(x[order], labels[order], "clip-0"), Features(y, labels, "clip-0")
        scores = measure(made, real, (), ("kid", "cmmd"), groups={"g": [0, 2]})
        values.append([scores.values[name + of] for name in ("kid_x1e3", "cmmd_u") for of in ("", "/group/g")])
        if not seed:
            in_group = labels != 1
            wanted = 1e3 * by_classes(x[in_group], y[in_group], labels[in_group])
            assert scores.values["kid_x1e3/group/g"] == pytest.approx(wanted, rel=1e-9)
            assert scores.groups[0].kid_x1e3 == scores.values["kid_x1e3/group/g"]
    means, errors = np.mean(values, 0), np.std(values, 0, ddof=1) / len(values) ** 0.5
    assert (np.abs(means) < 4 * errors).all()


def test_counts_that_do_not_fit():
    x, y, _ = draw(0, (4, 5))
    for counts, rows in (((4, 6), 9), ((4, 4), 8)):
        with pytest.raises(ValueError, match=r"classes of \[4, \d\] rows on both sides"):
            kid(x, y[:rows], counts)


def test_two_images_of_two_classes_have_a_value_and_no_error():
    made, real = (Features(np.eye(2) + side, np.arange(2), "e") for side in (0, 0.5))
    scores = measure(made, real, (), ("kid",))
    assert scores.values["kid_x1e3"] == pytest.approx(1e3 * kid(made.values, real.values, (1, 1)))
    assert "kid_x1e3" not in scores.errors
