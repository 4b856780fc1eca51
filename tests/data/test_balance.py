"""Rows of the tables of balancing on classes of 100, 30, 7, 1 and no records."""

import numpy as np
import pytest

from diffusion.data.balance import BALANCES, CLASS_WEIGHTS

COUNTS = np.array([100, 30, 0, 7, 1])
NAMES = ("normal", "odd", "none", "rare", "2")
THERE = COUNTS > 0
NEEDS = {"manual": {"weights": ("rare:5", "0:0.5")}}
FIELDS = {  # other values of each row's own fields
    "inverse_frequency": [{"power": 0.0}, {"power": 0.5}, {"power": 3.0}],
    "effective_number": [{"beta": 0.0}, {"beta": 0.9}, {"beta": 1 - 1e-12}],
    "manual": [{"weights": ("rare:1000",)}, {"weights": ("odd:1e-9",)}],
    "upsample": [{"ratio": 0.3}, {"ratio": 1e-6}],
    "downsample": [{"ratio": 0.1}, {"ratio": 1e-6}],
}
KEEPS_LENGTH = {"none", "inverse_frequency", "effective_number", "manual"}


def cases(table):
    return [(name, fields) for name in table for fields in (NEEDS.get(name, {}), *FIELDS.get(name, []))]


def draws(name, counts=COUNTS, names=NAMES, **fields):
    return BALANCES[name](np.asarray(counts), names, **(fields or NEEDS.get(name, {})))


def weights(name, drawn=COUNTS, counts=COUNTS, names=NAMES, **fields):
    return CLASS_WEIGHTS[name](np.asarray(counts), names, np.asarray(drawn), **(fields or NEEDS.get(name, {})))


@pytest.mark.parametrize(("name", "fields"), cases(BALANCES))
def test_a_class_with_records_is_drawn_and_one_without_is_not(name, fields):
    found = draws(name, **fields)
    assert found.dtype.kind == "i" and ((found > 0) == THERE).all()
    assert name not in KEEPS_LENGTH or found.sum() == COUNTS.sum()


@pytest.mark.parametrize(
    ("name", "fields", "wanted"),
    [
        ("none", {}, COUNTS),
        ("inverse_frequency", {}, [35, 35, 0, 34, 34]),  # 138 in four
        ("inverse_frequency", {"power": 0.0}, COUNTS),
        ("inverse_frequency", {"power": 0.5}, [72, 40, 0, 19, 7]),  # 138 in 10 : 5.48 : 2.65 : 1
        ("inverse_frequency", {"power": 300.0}, [1, 1, 0, 1, 135]),
        ("effective_number", {"beta": 0.0}, COUNTS),
        ("effective_number", {"beta": 1 - 1e-12}, [35, 35, 0, 34, 34]),
        ("manual", {"weights": ("rare:5", "0:0.5")}, [59, 36, 0, 42, 1]),  # 138 in 50 : 30 : 35 : 1
        ("manual", {"weights": ("2:30",)}, [82, 25, 0, 6, 25]),  # a name wins over an index
        ("upsample", {}, [100, 100, 0, 100, 100]),
        ("upsample", {"ratio": 0.3}, [100, 30, 0, 30, 30]),
        ("downsample", {}, [1, 1, 0, 1, 1]),
        ("downsample", {"ratio": 0.1}, [10, 10, 0, 7, 1]),
    ],
)
def test_draws_by_hand(name, fields, wanted):
    assert draws(name, **fields).tolist() == list(wanted)


def test_a_ratio_is_not_rounded_away():
    """0.14 * 50 lies above 7, and 7 / 0.07 below 100."""
    assert draws("upsample", [50, 1], "ab", ratio=0.14).tolist() == [50, 7]
    assert draws("downsample", [200, 7], "ab", ratio=0.07).tolist() == [100, 7]


def test_the_effective_number_counts_what_overlaps_once():
    """With beta = (N - 1) / N, E_n = 1 + beta E_(n-1), the expected volume of n draws among N (Cui 2019)."""
    beta, volume = 0.9, [0.0]
    for _ in range(100):
        volume.append(1 + beta * volume[-1])
    found = weights("effective_number", beta=beta)[THERE]
    np.testing.assert_allclose(found / found[-1], 1 / np.take(volume, COUNTS[THERE]), rtol=1e-12)


@pytest.mark.parametrize("sampling", BALANCES)
@pytest.mark.parametrize(("name", "fields"), [case for case in cases(CLASS_WEIGHTS) if case[0] != "none"])
def test_the_mean_weight_of_what_is_drawn_is_one(name, fields, sampling):
    drawn = draws(sampling)
    found = weights(name, drawn, **fields)
    assert np.isfinite(found).all() and found[~THERE].tolist() == [1.0]
    assert np.sum(found * drawn) / drawn.sum() == pytest.approx(1, rel=1e-12)


def test_weights_go_with_the_records_whatever_is_drawn():
    for drawn in (draws("none"), draws("upsample")):
        found = weights("inverse_frequency", drawn)[THERE] * COUNTS[THERE]
        np.testing.assert_allclose(found, found[0], rtol=1e-12)


def test_without_weights_there_is_nothing_to_multiply_by():
    assert weights("none") == ()
