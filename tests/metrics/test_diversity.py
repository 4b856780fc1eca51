"""Diversity: disjoint pairs, their mean distance, and the Vendi score."""

import numpy as np
import pytest

from diffusion.metrics import jackknife
from diffusion.metrics.diversity import disjoint_pairs, mean_distance, vendi

RNG = np.random.default_rng(0)


def test_pairs_share_no_image_and_no_condition():
    labels = RNG.permutation(np.repeat([0, 1, 2, 5], [7, 10, 1, 2]))
    pairs = disjoint_pairs(labels, np.random.default_rng(1))
    assert len(np.unique(pairs)) == pairs.size
    assert (labels[pairs[:, 0]] == labels[pairs[:, 1]]).all()
    assert np.bincount(labels[pairs[:, 0]], minlength=6).tolist() == [3, 5, 0, 0, 0, 1]
    np.testing.assert_array_equal(pairs, disjoint_pairs(labels, np.random.default_rng(1)))
    assert not np.array_equal(pairs, disjoint_pairs(labels, np.random.default_rng(2)))


def test_no_pairs():
    assert disjoint_pairs(np.array([3, 1]), RNG).shape == (0, 2)
    figure = mean_distance(np.empty(0))
    assert figure.value is None and "two images" in figure.reason


def test_mean_distance():
    figure = mean_distance(np.array([0.1, 0.4, 0.1, 0.2]))
    assert figure.value == pytest.approx(0.2)
    assert figure.se == pytest.approx(np.sqrt(0.02) / 2)
    assert figure.n_gen == 8
    assert mean_distance(np.array([0.5])).se is None
    with pytest.raises(ValueError, match="pair 1"):
        mean_distance(np.array([0.1, np.nan]))


def test_the_error_is_that_of_new_pairs():
    draws = np.array([mean_distance(np.random.default_rng(i).gamma(2.0, 1.0, 50)).value for i in range(300)])
    se = np.mean([mean_distance(np.random.default_rng(i).gamma(2.0, 1.0, 50)).se for i in range(300)])
    assert se == pytest.approx(draws.std(ddof=1), rel=0.15)


@pytest.mark.parametrize("n, d", [(7, 20), (20, 7), (9, 9)])
def test_vendi_against_all_eigenvalues(n, d):
    x = RNG.normal(size=(n, d)) + 0.5
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = np.abs(np.linalg.eigvalsh(unit @ unit.T / n))
    assert vendi(x).value == pytest.approx(np.exp(-np.sum(values * np.log(values))), rel=1e-9)


def test_vendi_of_copies_and_of_orthogonal_rows():
    copies = vendi(np.tile(RNG.normal(size=5), (8, 1)) * RNG.uniform(1, 2, (8, 1)))
    assert copies.value == pytest.approx(1, abs=1e-9) and copies.se == pytest.approx(0, abs=1e-9)
    assert vendi(3.0 * np.eye(6)).value == pytest.approx(6, rel=1e-12)
    two = vendi(np.repeat(np.eye(4)[:2], [5, 5], axis=0))
    assert two.value == pytest.approx(2, rel=1e-12) and two.n_gen == 10


def test_the_jackknife_of_vendi():
    figures = [vendi(np.random.default_rng(i).normal(size=(200, 5)) + 1) for i in range(150)]
    spread = np.std([figure.value for figure in figures], ddof=1)
    assert np.mean([figure.se for figure in figures]) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("n, d", [(30, 40), (50, 6)])
def test_the_jackknife_of_vendi_leaves_groups_out(n, d):
    x = RNG.normal(size=(n, d)) + 0.5
    groups = jackknife.group_of(n)
    left_out = np.array([vendi(x[groups != g]).value for g in range(20)])
    wanted = np.sqrt(jackknife.variance(vendi(x).value, left_out, np.bincount(groups)))
    assert vendi(x).se == pytest.approx(wanted, rel=1e-7)


def test_rows_without_direction():
    blank = vendi(np.concatenate([np.ones((2, 3)), np.zeros((1, 3))]))
    assert (
        blank.value is None and "1 of 3 images have features that are all 0, the first of them image 2" in blank.reason
    )
    with pytest.raises(ValueError, match="row 1"):
        vendi(np.array([[1.0, 2.0], [np.nan, 1.0]]))
