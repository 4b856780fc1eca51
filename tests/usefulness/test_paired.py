"""Differences of two arms: the t-test is SciPy's, the bootstrap is seeded, stratified, and knows no order."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from diffusion.usefulness.paired import compare
from diffusion.usefulness.scores import HEADLINE, confusion, headline

LABELS = np.repeat(np.arange(3), [120, 60, 20])
SMALL = [2]


def read(rates, seeds: int = 4, seed: int = 0):
    """i[s n]: each class's share ``rates`` is read rightly, the others as the next class."""
    rng = np.random.default_rng(seed)
    right = rng.random((seeds, len(LABELS))) < np.array(rates)[LABELS]
    return np.where(right, LABELS, (LABELS + 1) % 3)


ONE, OTHER = read([0.9, 0.8, 0.7], seed=1), read([0.9, 0.7, 0.4], seed=2)


def test_the_t_test_is_scipys():
    found = compare(LABELS, ONE, OTHER, 3, SMALL, 0)
    a, b = (headline(np.stack([confusion(LABELS, one, 3) for one in arm]), SMALL) for arm in (ONE, OTHER))
    assert tuple(found) == HEADLINE
    for name, one in found.items():
        wanted = ttest_rel(a[name], b[name])
        assert (one.t, one.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-9)
        assert one.mean == pytest.approx(np.mean(a[name] - b[name]), abs=1e-12)
        assert one.sd == pytest.approx(np.std(a[name] - b[name], ddof=1), rel=1e-9)
        assert one.low < one.mean < one.high and one.reason == ""


def test_the_interval_is_that_of_the_means_of_the_seeds():
    """For recalls it is known: of a class's images, the standard error of the mean over seeds of what each gains."""
    found = compare(LABELS, ONE, OTHER, 3, SMALL, 0)
    gain = np.mean((ONE == LABELS).astype(float) - (OTHER == LABELS), axis=0)
    parts = [gain[:120], gain[120:180], gain[180:]]
    errors = np.array([part.std() / np.sqrt(len(part)) for part in parts])
    wide = {name: one.high - one.low for name, one in found.items()}
    assert wide["small_recall"] == pytest.approx(2 * 1.96 * errors[2], rel=0.1)
    assert wide["balanced_accuracy"] == pytest.approx(2 * 1.96 * np.sqrt(np.sum(errors**2)) / 3, rel=0.1)


def test_the_bootstrap_is_seeded_and_knows_no_order():
    first = compare(LABELS, ONE, OTHER, 3, SMALL, 0)
    assert compare(LABELS, ONE, OTHER, 3, SMALL, 0) == first
    assert compare(LABELS, ONE, OTHER, 3, SMALL, 1)["accuracy"].low != first["accuracy"].low
    order = np.random.default_rng(3).permutation(len(LABELS))
    assert compare(LABELS[order], ONE[:, order], OTHER[:, order], 3, SMALL, 0) == first


def test_the_other_way_round_is_the_negative():
    there, back = compare(LABELS, ONE, OTHER, 3, SMALL, 0), compare(LABELS, OTHER, ONE, 3, SMALL, 0)
    for name in HEADLINE:
        assert back[name].mean == pytest.approx(-there[name].mean) and back[name].p == pytest.approx(there[name].p)
        assert (back[name].low, back[name].high) == pytest.approx((-there[name].high, -there[name].low), abs=0.02)


def test_one_seed_has_no_spread():
    for one in compare(LABELS, ONE[:1], OTHER[:1], 3, SMALL, 0).values():
        assert (one.sd, one.t, one.p, one.reason) == (None, None, None, "one seed has no spread")
        assert one.low <= one.mean <= one.high


def test_differences_that_are_all_equal():
    same = compare(LABELS, ONE, ONE, 3, SMALL, 0)["macro_f1"]
    assert (same.mean, same.sd, same.t, same.p, same.low, same.high) == (0, 0, None, None, 0, 0)
    assert same.reason == "the 4 seeds' differences are all equal"
    twice, other = (np.stack([arm[0]] * 3) for arm in (ONE, OTHER))
    shifted = compare(LABELS, twice, other, 3, SMALL, 0)["small_recall"]
    assert shifted.mean > 0 and (shifted.sd, shifted.p) == (0, None) and shifted.low < shifted.high
