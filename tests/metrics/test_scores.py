import numpy as np
import pytest

from diffusion.metrics import Features, Scores, error_name, measure
from diffusion.metrics.fd import frechet_distance, frechet_se
from diffusion.metrics.floor import half_split_of
from diffusion.metrics.kid import kid_with_se
from diffusion.metrics.matching import match_classes
from tests.metrics.feature_sets import NAMES, features

REAL, MADE = features({0: 30, 1: 25, 2: 60, 3: 7}, 0), features({0: 20, 1: 25, 2: 60, 3: 7}, 1)


def of(side: Features, labels: tuple[int, ...]) -> np.ndarray:
    return side.values[np.isin(side.labels, labels)]


def test_a_group_holds_the_images_its_classes_are_compared_with():
    scores = measure(MADE, REAL, NAMES, ("fd", "kid"), groups={"seen": [2, 1], "rare": [0, 3], "all": range(4)}, seed=5)
    pairs = {pair.name: pair for pair in match_classes(MADE, REAL, NAMES, seed=5)}
    x, y = (np.concatenate([getattr(pairs[name], side) for name in ("ant", "dog")]) for side in ("generated", "real"))
    seen, rare, everything = scores.groups
    assert (rare.name, rare.n_gen, rare.n_real, rare.n_floor) == ("rare", 27, 27, 15 + 3)
    assert rare.fd == scores.values["fd/group/rare"] == pytest.approx(frechet_distance(x, y), rel=1e-12)
    assert rare.fd_se == scores.errors["fd/group/rare"] == pytest.approx(frechet_se(x, y), rel=1e-12)
    assert (rare.kid_x1e3, rare.kid_se) == pytest.approx(1e3 * np.array(kid_with_se(x, y, (20, 7))), rel=1e-12)
    assert rare.fd_excess == scores.values["fd_excess/group/rare"] == rare.fd_half - rare.fd_floor
    assert seen.fd == pytest.approx(frechet_distance(*(np.concatenate([s.of(1), s.of(2)]) for s in (MADE, REAL))))
    assert everything.fd == scores.values["fd"] and everything.n_gen == scores.n == 112
    rows = {row.name: row for row in scores.rows}
    assert scores.values["fd/group/seen/mean"] == pytest.approx((rows["bee"].fd + rows["cat"].fd) / 2)
    assert scores.values["fd/group/rare/mean"] == rows["ant"].fd, "of 7 images the dog's is not reliable"
    assert scores.values["fd/group/rare/classes"] == 1
    assert scores.aggregates["fd/group/seen"].of == 2


def test_the_floor_of_a_group_keeps_its_mixture():
    """Two classes far apart: halves of another mixture would differ by far more than their noise."""
    rng = np.random.default_rng(0)
    sets = [
        (rng.normal(size=(n, 3)) + far, rng.normal(size=(m, 3)) + far) for n, m, far in [(20, 200, 0), (30, 60, 90)]
    ]
    floor = half_split_of(sets, np.random.default_rng(0))
    assert floor.n == 50 and floor.floor < 5 and abs(floor.excess) < 2


def test_a_group_without_images_has_a_reason():
    none = measure(features({0: 20}, 0), features({0: 20}, 1), NAMES, groups={"gone": [3], "few": [3, 0]})
    assert none.values["fd/group/gone"] is None and "0 images" in none.reasons["fd/group/gone"]
    assert none.groups[0].n_gen == 0 and none.groups[0].reason
    assert none.values["fd/group/few"] == none.values["fd"]


@pytest.mark.parametrize("groups, said", [({"none": []}, "'none' holds no classes"), ({"some": [0]}, "labelled")])
def test_a_group_that_cannot_be(groups, said):
    sides = [features({0: 20}, seed) for seed in (0, 1)]
    if "some" in groups:
        sides = [Features(side.values, None, side.extractor) for side in sides]
    with pytest.raises(ValueError, match=said):
        measure(*sides, groups=groups)


def test_equal_counts_over_classes():
    scores = measure(MADE, REAL, NAMES, equal_n=True, seed=2)
    assert scores.equal_n == 7 and scores.balanced and scores.n == 28
    assert {(row.n_gen, row.n_real) for row in scores.rows} == {(7, 7)}
    whole = measure(MADE, REAL, NAMES, seed=2)
    assert whole.equal_n is None and whole.rows[3].fd == scores.rows[3].fd
    one = measure(features({0: 1, 1: 30, 2: 40}, 0), features({0: 9, 1: 30, 2: 40}, 1), equal_n=True)
    assert one.equal_n == 30 and [row.n_gen for row in one.rows] == [1, 30, 30]


def test_equal_counts_are_drawn_on_both_sides_by_seed_and_label():
    first, _, third, _ = match_classes(MADE, REAL, NAMES, seed=2, equal_n=True)
    for pair, label in ((first, 0), (third, 2)):
        for side, whole in ((pair.generated, MADE), (pair.real, REAL)):
            assert len(np.unique(side, axis=0)) == 7
            assert set(map(tuple, side)) <= set(map(tuple, whole.of(label)))
    again = match_classes(MADE, REAL, NAMES, seed=2, equal_n=True)[2]
    np.testing.assert_array_equal(third.generated, again.generated)


def test_errors_stand_beside_their_figures():
    scores = measure(MADE, REAL, NAMES, ("fd",))
    assert {name for name in scores.errors if "/" not in name} == {"fd"}
    assert (
        scores.logged["fd_se"]
        == scores.errors["fd"]
        == pytest.approx(
            frechet_se(
                *(
                    np.concatenate([getattr(p, side) for p in match_classes(MADE, REAL)])
                    for side in ("generated", "real")
                )
            )
        )
    )
    assert scores.logged["fd_se/class/ant"] == scores.rows[0].fd_se
    assert set(scores.values) < set(scores.logged) and error_name("fd/class/a_b/c") == "fd_se/class/a_b/c"
    assert not set(scores.values) & {error_name(name) for name in scores.errors}


def test_scores_of_several_networks_are_merged():
    other = "inception-fid-tf-0"
    sides = [features({0: 20, 1: 25}, seed) for seed in (0, 1)]
    seen = [Features(side.values[:, ::-1] ** 3, side.labels, other) for side in sides]
    parts = [measure(*sides, NAMES, ("kid",), groups={"g": [0]}), measure(*seen, NAMES, ("fid",), groups={"g": [0]})]
    both = Scores.merged(parts)
    assert both.values == parts[0].values | parts[1].values and both.errors == parts[0].errors | parts[1].errors
    assert both.rows[0].fd == parts[1].rows[0].fd and both.rows[0].kid_x1e3 == parts[0].rows[0].kid_x1e3
    assert both.groups[0].fd == parts[1].groups[0].fd and set(both.aggregates) == {
        *("kid_x1e3", "fid", "fid_excess", "kid_x1e3/group/g", "fid/group/g", "fid_excess/group/g")
    }
    assert both.extractors == {"kid": "cls-toy-0", "fid": other} and both.extractor == "cls-toy-0"
    fd_too = Scores.merged([measure(*sides, NAMES, ("fd",)), measure(*seen, NAMES, ("fid",))])
    assert fd_too.rows[0].fd == fd_too.values["fd/class/ant"] != fd_too.values["fid/class/ant"]
    assert Scores.merged(parts[:1]) == parts[0]


def test_scores_that_do_not_belong_together_are_refused():
    sides = [features({0: 20, 1: 25}, seed) for seed in (0, 1)]
    smaller, renamed = features({0: 20, 1: 24}, 0), ("a", "b")
    one = measure(*sides, NAMES, ("fd",))
    for other, said in [
        (one, "'?fd.* stands in both"),
        (measure(smaller, sides[1], NAMES, ("kid",)), "of 45 and of 44 images"),
        (measure(*sides, renamed, ("kid",)), r"\('ant', 20, 20\) and \('a', 20, 20\)"),
    ]:
        with pytest.raises(ValueError, match=said):
            Scores.merged([one, other])


def test_pooled_figures_of_other_images():
    one = measure(MADE, REAL, NAMES, ("fd",))
    few = np.arange(len(MADE)) % 3 > 0
    made = Features(MADE.values[few], MADE.labels[few], MADE.extractor)
    pool = measure(made, REAL, NAMES, per_class=False)
    both = one.with_pooled(pool)
    assert set(pool.values) == {"fd", "kid_x1e3"} and pool.rows == pool.groups == ()
    assert pool.values.items() <= measure(made, REAL, NAMES).values.items(), "matched by class as ever"
    assert both.values["fd"] == pool.values["fd"] != one.values["fd"]
    assert both.values["fd/class/ant"] == one.values["fd/class/ant"] and both.rows == one.rows
    assert (both.n, both.balanced) == (len(made), False)


def test_the_worst_of_a_figure_that_should_be_high_are_its_lowest():
    scores = measure(MADE, REAL, NAMES, ("precision_recall", "fd"))
    by_class = {row.name: scores.values[f"precision/class/{row.name}"] for row in scores.rows if not row.flag}
    assert scores.aggregates["precision"].worst[0][1] == min(by_class.values())
    assert scores.aggregates["fd"].worst[0][1] == max(row.fd for row in scores.rows if not row.flag)
