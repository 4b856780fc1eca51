"""Memorisation: a generator that copies is found out, one that learnt is not."""

import numpy as np
import pytest

from diffusion.metrics import jackknife
from diffusion.metrics.fd import frechet_distance
from diffusion.metrics.memorisation import held_out_gap, neighbours


def sets(n: int, d: int = 6, seed: int = 0) -> list[np.ndarray]:
    """Three sets of one distribution."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, d)) * np.arange(1, d + 1) for _ in range(3)]


def test_neighbours_against_loops():
    generated, train, _ = sets(40)
    found = neighbours(generated[:25], train)
    for i, x in enumerate(generated[:25]):
        away = np.linalg.norm(train - x, axis=1)
        j = away.argmin()
        own = min(np.linalg.norm(train[j] - train[k]) for k in range(len(train)) if k != j)
        assert found.index[i] == j
        assert found.distance[i] == pytest.approx(away[j], rel=1e-9)
        assert found.own[i] == pytest.approx(own, rel=1e-9)
    ratio = found.distance / found.own
    figures = found.figures()
    assert figures["ratio_median"].value == pytest.approx(np.median(ratio))
    assert figures["auth_percent"].value == pytest.approx(100 * np.mean(ratio > 1))
    assert figures["copied_percent"].value == pytest.approx(100 * np.mean(ratio < 1 / 3))
    assert (figures["auth_percent"].n_gen, figures["auth_percent"].n_real) == (25, 40)


def test_a_copying_generator():
    _, train, held_out = sets(60)
    train = train + 1e4  # far from 0, where differences of squares would lose 1e-4
    copies = train[np.random.default_rng(1).permutation(60)]
    found = neighbours(copies, train)
    assert (found.distance == 0).all() and (found.ratio == 0).all()
    figures = found.figures()
    assert figures["auth_percent"].value == 0 and figures["ratio_median"].value == 0
    assert figures["copied_percent"].value == 100
    gap = held_out_gap(copies, train, held_out + 1e4, np.random.default_rng(0))
    assert frechet_distance(copies, train) == pytest.approx(0, abs=1e-9 * np.var(train, axis=0).sum())
    assert gap.value == pytest.approx(frechet_distance(copies, held_out + 1e4), rel=1e-9)
    assert gap.value > gap.se > 0


def test_a_generator_that_learnt():
    generated, train, held_out = sets(400)
    gap = held_out_gap(generated, train, held_out, np.random.default_rng(0))
    assert abs(gap.value) < 4 * gap.se
    figures = neighbours(generated, train).figures()
    assert 30 < figures["auth_percent"].value < 80  # near 1/2
    assert 0.8 < figures["ratio_median"].value < 1.5


def test_the_gap_is_at_equal_n():
    """Against four times as many training images, n would decide: the unequal gap is far above 0."""
    rng = np.random.default_rng(2)
    generated, train, held_out = (rng.normal(size=(n, 30)) for n in (100, 400, 40))
    gap = held_out_gap(generated, train, held_out, np.random.default_rng(0))
    assert (gap.n_gen, gap.n_real) == (100, 40)
    assert abs(gap.value) < 4 * gap.se
    assert gap.value == held_out_gap(generated, train, held_out, np.random.default_rng(0)).value


def test_the_gap_draws_each_class_by_itself():
    """Of classes far apart, a random part of the training set would lie farther from everything than all held-out."""
    gaps, labels = [], [np.repeat([0, 5, 9], n) for n in (30, 60, 30)]
    for seed in range(100):
        rng = np.random.default_rng(seed)
        made, train, held_out = (rng.normal(size=(len(own), 3)) + 3 * own[:, None] for own in labels)
        order = rng.permutation(len(train))
        gaps.append(held_out_gap(made, train[order], held_out, rng, (labels[1][order], labels[2])))
    values = np.array([gap.value for gap in gaps])
    assert abs(values.mean()) < 4 * values.std(ddof=1) / len(values) ** 0.5
    assert (gaps[0].n_gen, gaps[0].n_real) == (90, 90)
    unequal = held_out_gap(made, train, held_out, rng, (labels[1], np.repeat([0, 5, 7], 30)))
    assert unequal.n_real == 60, "a class that one side lacks is left out of both"


def test_the_error_of_the_gap():
    gaps = [held_out_gap(*sets(60, 3, seed), np.random.default_rng(0)) for seed in range(60)]
    spread = np.std([gap.value for gap in gaps], ddof=1)
    assert np.mean([gap.se for gap in gaps]) == pytest.approx(spread, rel=0.3)


def test_the_error_of_the_gap_against_a_direct_jackknife():
    """Each side loses one group at a time and both distances are taken anew."""
    rng = np.random.default_rng(4)
    sides = [rng.normal(size=(n, 4)) for n in (31, 25, 25)]  # generated, training, held out

    def gap(generated, train, held_out):
        return frechet_distance(generated, held_out) - frechet_distance(generated, train)

    total = 0.0
    for i, side in enumerate(sides):
        groups = jackknife.group_of(len(side))
        left_out = [gap(*sides[:i], side[groups != g], *sides[i + 1 :]) for g in range(20)]
        total += jackknife.variance(gap(*sides), np.array(left_out), np.bincount(groups))
    found = held_out_gap(*sides, np.random.default_rng(0))
    assert found.value == pytest.approx(gap(*sides), rel=1e-9)
    # held_out_gap keeps the order of rows, hence their groups
    assert found.se == pytest.approx(np.sqrt(total), rel=1e-5)


def test_twins_in_the_training_set():
    """A copy of a twin is a copy; what lies near a twin, and is none, is farther than the twins are from each other."""
    train = np.array([[0.0, 0], [0, 0], [0, 0], [9, 0], [9, 4]])
    found = neighbours(np.array([[0.0, 0], [1, 0], [9, 1]]), train)
    assert found.distance[0] == 0 and found.own[:2].tolist() == [0, 0]
    np.testing.assert_allclose(found.distance, [0, 1, 1], rtol=1e-12)
    np.testing.assert_allclose(found.ratio, [0, np.inf, 0.25], rtol=1e-12)
    assert found.figures()["auth_percent"].value == pytest.approx(100 / 3)
    assert found.suspicious(3) == [(0, 0, 0.0), (2, 3, pytest.approx(0.25))]  # not the one of an infinite ratio
    near_twins = neighbours(np.array([[1.0, 0], [0, 1]]), train).figures()
    assert near_twins["ratio_median"].value is None and "twin" in near_twins["ratio_median"].reason


def test_a_copy_is_nearer_than_a_third():
    train = np.array([[0.0], [10], [30]])
    figures = neighbours(np.array([[3.0], [4], [11], [25]]), train).figures()  # ratios .3, .4, .1, .25
    assert figures["copied_percent"].value == 75
    assert figures["copied_percent"].se == pytest.approx(100 * np.std([1, 0, 1, 1], ddof=1) / 2)


def test_the_worst_pairs_come_first():
    generated, train, _ = sets(30)
    generated[7] = train[11]
    generated[20] = train[3] + 1e-3
    worst = neighbours(generated, train).suspicious(5)
    assert worst[0] == (7, 11, 0.0) and worst[1][:2] == (20, 3)
    assert [ratio for *_, ratio in worst] == sorted(ratio for *_, ratio in worst)


def test_too_few_images():
    generated, train, held_out = sets(5)
    with pytest.raises(ValueError):
        neighbours(generated, train[:1])
    with pytest.raises(ValueError, match="at least 3"):
        held_out_gap(generated, train, held_out[:2], np.random.default_rng(0))


def test_the_error_of_the_gap_is_the_jackknife_of_all_three_sides():
    rng = np.random.default_rng(3)
    sides = [rng.normal(size=(n, 5)) + shift for n, shift in ((30, 0.2), (25, 0.0), (25, 0.1))]

    def gap(generated, train, held_out):
        return frechet_distance(generated, held_out) - frechet_distance(generated, train)

    value, variance = gap(*sides), 0.0
    for i, side in enumerate(sides):
        group = np.arange(len(side)) % 20
        h = len(side) / np.bincount(group)
        without = np.array([gap(*(s[group != g] if j == i else s for j, s in enumerate(sides))) for g in range(20)])
        pseudo = h * value - (h - 1) * without
        variance += np.mean((pseudo - np.average(pseudo, weights=1 / h)) ** 2 / (h - 1))
    figure = held_out_gap(*sides, np.random.default_rng(0))
    assert figure.value == pytest.approx(value, rel=1e-9) and figure.se == pytest.approx(np.sqrt(variance), rel=1e-5)
