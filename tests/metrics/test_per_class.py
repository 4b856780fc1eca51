import numpy as np
import pytest

from diffusion.metrics import Features, Figure, fid, frechet, measure
from diffusion.metrics.accuracy import accuracy
from diffusion.metrics.fd import frechet_distance, frechet_se
from diffusion.metrics.kid import kid, kid_with_se
from diffusion.metrics.manifold import density_coverage, expected_coverage
from diffusion.metrics.matching import match_classes
from diffusion.metrics.per_class import aggregate
from tests.metrics.feature_sets import NAMES, features


@pytest.mark.parametrize("asked, n, n_floor", [(600, 600, 300), (100, 100, 100)])
def test_classes_of_7_25_and_600(asked, n, n_floor):
    real = features({0: 7, 1: 25, 2: 600}, 0)
    generated = features({0: 7, 1: 25, 2: asked}, 1)
    scores = measure(generated, real, NAMES, ("fd", "kid", "density_coverage"))
    rows = {row.name: row for row in scores.rows}
    assert [(r.name, r.n_real, r.n_gen, r.n_floor, r.flag) for r in scores.rows] == [
        ("ant", 7, 7, 3, "unreliable"),
        ("bee", 25, 25, 12, ""),
        ("cat", n, n, n_floor, ""),
    ]
    assert all(None not in vars(row).values() for row in scores.rows)
    bee = generated.of(1), real.of(1)
    assert rows["bee"].fd == pytest.approx(frechet_distance(*bee), rel=1e-12)
    assert rows["bee"].kid_x1e3 == pytest.approx(1e3 * kid(*bee), rel=1e-12)
    assert rows["bee"].kid_se == pytest.approx(1e3 * kid_with_se(*bee)[1], rel=1e-12)
    assert rows["bee"].fd_se == pytest.approx(frechet_se(*bee), rel=1e-12)
    assert rows["bee"].fd_excess == rows["bee"].fd_half - rows["bee"].fd_floor
    assert rows["bee"].coverage == density_coverage(*bee)["coverage"].value
    assert rows["bee"].coverage_expected == expected_coverage(25, 25)
    total = scores.aggregates["fd"]
    assert (total.classes, total.of) == (2, 3)
    kept = [rows["bee"].fd, rows["cat"].fd]
    assert total.mean == scores.values["fd/mean"] == pytest.approx(np.mean(kept))
    assert scores.values["fd/class/ant"] == rows["ant"].fd
    assert scores.errors["fd/class/ant"] == rows["ant"].fd_se and scores.counts["fd/class/ant"] == (7, 7)
    assert scores.errors["fd"] > 0 and scores.counts["fd"] == (32 + n, 32 + n)
    assert total.se == pytest.approx(np.std(kept, ddof=1) / np.sqrt(2))
    assert scores.n == 7 + 25 + n and not scores.balanced
    assert all(type(value) is float for value in scores.values.values()) and scores.reasons == {}


def test_matching_draws_reals_without_replacement_and_by_seed_and_label():
    real, generated = features({0: 50, 1: 50}, 0), features({0: 20, 1: 50}, 1)
    first, second = match_classes(generated, real, NAMES, seed=3)
    assert len(np.unique(first.real, axis=0)) == 20 and len(first.strata[0][1]) == 50
    assert set(map(tuple, first.real)) <= set(map(tuple, real.of(0)))
    np.testing.assert_array_equal(second.real, real.of(1))
    alone = match_classes(features({0: 20}, 1), Features(real.of(0), np.zeros(50, int), "cls-toy-0"), seed=3)
    np.testing.assert_array_equal(alone[0].real, first.real)
    same = Features(np.tile(real.of(0), (2, 1)), np.repeat([0, 1], 50), "cls-toy-0")
    one, two = match_classes(features({0: 20, 1: 20}, 1), same, NAMES, seed=3)
    assert not np.array_equal(one.real, two.real)
    other = match_classes(generated, real, NAMES, seed=4)
    assert not np.array_equal(other[0].real, first.real)


def test_more_generated_than_real_is_matched_too():
    scores = measure(features({0: 60}, 0), features({0: 30}, 1))
    assert (scores.rows[0].n_gen, scores.rows[0].n_real, scores.n) == (30, 30, 30)


@pytest.mark.parametrize(
    "n, missing",
    [
        (0, {"fd", "fd_se", "fd_half", "fd_floor", "fd_excess", "n_floor", "kid_x1e3", "kid_se"}),
        (1, {"fd", "fd_se", "fd_half", "fd_floor", "fd_excess", "n_floor", "kid_x1e3", "kid_se"}),
        (2, {"fd_se", "fd_half", "fd_floor", "fd_excess", "n_floor", "kid_se"}),
        (3, {"fd_half", "fd_floor", "fd_excess", "n_floor"}),
        (4, set()),
    ],
)
def test_tiny_classes_have_none_and_a_reason(n, missing):
    scores = measure(features({0: n, 1: 30}, 0), features({0: n + (n == 0), 1: 30}, 1), NAMES)
    row = scores.rows[0]
    not_asked = {"density", "coverage", "coverage_expected"}
    assert {key for key, value in vars(row).items() if value is None} == missing | not_asked
    assert bool(row.reason) == bool(missing) and row.flag == "unreliable"
    nulls = {key for key, value in scores.values.items() if value is None}
    assert set(scores.reasons) == nulls and "fd/se" in nulls
    assert ("fd/class/ant" in nulls) == ("fd" in missing)


def test_flags_and_balance_follow_the_counts():
    assert measure(features({0: 20, 1: 20}, 0), features({0: 30, 1: 40}, 1)).balanced
    flags = [row.flag for row in measure(features({0: 19, 1: 20}, 0), features({0: 30, 1: 40}, 1)).rows]
    assert flags == ["unreliable", ""]
    assert not measure(features({0: 20, 1: 21}, 0), features({0: 30, 1: 40}, 1)).balanced


def test_pooled_uses_the_matched_images():
    real, generated = features({0: 20, 1: 30}, 0), features({0: 20, 1: 30}, 1)
    values = measure(generated, real).values
    assert values["fd"] == pytest.approx(frechet_distance(generated.values, real.values), rel=1e-9)
    x, y = (np.concatenate([side.of(0), side.of(1)]) for side in (generated, real))
    assert values["kid_x1e3"] == pytest.approx(1e3 * kid(x, y, (20, 30)), rel=1e-9)


def test_unlabelled_features_have_pooled_figures_alone():
    one, two = (Features(features({0: n}, n).values, None, "e") for n in (30, 40))
    scores = measure(one, two)
    assert set(scores.values) == {"fd", "kid_x1e3"} and scores.rows == () and not scores.balanced
    assert scores.n == 30
    with pytest.raises(ValueError, match="accuracy needs labelled"):
        measure(one, two, metrics=("accuracy",))


def test_copies_of_the_training_images_have_no_distance_to_them():
    train, held_out = features({0: 60, 1: 60}, 0), features({0: 60, 1: 60}, 1)
    copies = Features(train.values, train.labels, train.extractor)
    scale = np.trace(np.cov(train.values.T))
    for real, far in ((train, False), (held_out, True)):
        for name, value in frechet(copies, real, NAMES).items():
            if name == "fd" or "/class/" in name:
                assert (value > 0.1) if far else abs(value) < 1e-9 * scale


def test_public_frechet_names_and_uses_every_row():
    generated, real = features({0: 25, 1: 1, 3: 30}, 0), features({0: 30, 1: 5, 3: 40}, 1)
    values = frechet(generated, real)
    assert values["fd"] == frechet_distance(generated.values, real.values)
    assert values["fd/class/3"] == frechet_distance(generated.of(3), real.of(3))
    assert values["fd/class/1"] is None and values["fd/classes"] == 2.0
    assert set(values) == {
        *("fd", "fd/class/0", "fd/class/1", "fd/class/3"),
        *("fd/mean", "fd/median", "fd/worst", "fd/se", "fd/classes"),
    }
    assert "fd/class/dog" in frechet(generated, real, NAMES)


def test_fid_is_a_name_for_inception_features_alone():
    generated, real = (features({0: 25}, seed, "inception-2015-12-05") for seed in (0, 1))
    assert fid(generated, real)["fid"] == frechet(generated, real)["fd"]
    named = measure(generated, real, metrics=("fid",)).values
    assert {"fid", "fid/class/0", "fid_excess/class/0"} <= set(named) and "fd" not in named
    for call in (fid, lambda g, r: measure(g, r, metrics=("fid",))):
        with pytest.raises(ValueError, match="cls-toy-0.*call it FD"):
            call(features({0: 25}, 0), features({0: 25}, 1))


@pytest.mark.parametrize(
    "generated, real, names, said",
    [
        (features({0: 5}, 0), features({0: 5}, 0, "other"), (), "'cls-toy-0', real ones from 'other'"),
        (features({0: 5}, 0), features({0: 5}, 0, d=7), (), "6 columns, real ones 7"),
        (features({0: 5}, 0), Features(np.ones((5, 6)), None, "cls-toy-0"), (), "one side has labels"),
        (features({2: 5}, 0), features({2: 5}, 0), ("a", "b"), "label 2 has no name"),
    ],
)
def test_what_does_not_compare_is_refused(generated, real, names, said):
    for call in (frechet, measure):
        with pytest.raises(ValueError, match=said):
            call(generated, real, names)


def test_unknown_metric():
    with pytest.raises(ValueError, match=r"unknown metrics \['isc'\]; known are .*'fd'"):
        measure(features({0: 5}, 0), features({0: 5}, 0), metrics=("fd", "isc"))


def test_aggregate():
    values = {"a": 1.0, "b": 9.0, "c": 3.0, "d": 4.0, "e": 2.0, "f": 8.0, "small": 99.0, "none": None}
    total = aggregate(values, {key: 19 if key == "small" else 20 for key in values})
    assert total.worst == (("b", 9.0), ("f", 8.0), ("d", 4.0), ("c", 3.0), ("e", 2.0))
    assert (total.mean, total.median, total.classes, total.of) == (4.5, 3.5, 6, 8)
    empty = aggregate({"small": 99.0}, {"small": 19})
    assert (empty.mean, empty.median, empty.se, empty.worst, empty.classes) == (None, None, None, (), 0)


def test_accuracy():
    asked, predicted = np.array([0, 0, 2, 2, 2, 2]), np.array([0, 1, 2, 2, 2, 0])
    assert accuracy(predicted, asked) == Figure(4 / 6, pytest.approx(np.std(predicted == asked, ddof=1) / 6**0.5), 6)
    assert accuracy(predicted[:1], asked[:1]) == Figure(1.0, None, 1, reason="no error from one image")
    for bad in (predicted[:3], predicted[:0]):
        with pytest.raises(ValueError, match="one prediction per asked label"):
            accuracy(bad, asked)


def test_accuracy_is_a_row_of_the_table():
    generated = features({0: 5, 1: 15}, 0)
    scores = measure(
        generated, features({0: 5, 1: 15}, 1), NAMES, ("accuracy",), outputs={"classes": np.zeros(20, int)}
    )
    assert scores.values == {"accuracy": 0.25, "accuracy/class/ant": 1.0, "accuracy/class/bee": 0.0}
    assert scores.rows[0].fd is None
