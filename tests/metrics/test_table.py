import re

import numpy as np
import pytest

from diffusion.metrics import METRICS, Features, measure, rankable, refused
from diffusion.metrics.fd import frechet_distance
from diffusion.metrics.paired import compare
from diffusion.metrics.table import NEEDS
from tests.metrics.feature_sets import NAMES, features

SIZES = {0: 25, 1: 30, 2: 40}
ENOUGH = {metric: {label: max(n, row.least // 3 + 1) for label, n in SIZES.items()} for metric, row in METRICS.items()}
EXTRACTOR = {"": "cls-toy-0", "perceptual": "cls-toy-0"}


def given(n: int, extractor: str, seed: int = 0) -> dict:
    """Whatever any metric needs, for n generated images."""
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 3
    text = rng.normal(size=(n, 6))
    return {
        "outputs": {"classes": rng.integers(0, 3, n), "logits": rng.normal(size=(n, 5))},
        "train": features(SIZES, 7, extractor),
        "held_out": features(SIZES, 8, extractor),
        "text": text / np.linalg.norm(text, axis=1, keepdims=True),
        "diversity": {side: (rng.random(40), labels) for side in ("generated", "real")},
        "pairs": compare(*rng.integers(0, 256, (2, 3, 12, 12, 1)), data_range=255),
    }


def measured(metric: str, groups=None, labelled: bool = True, **changed):
    row = METRICS[metric]
    extractor = EXTRACTOR.get(row.network, f"{row.network}-0")
    sides = [features(ENOUGH[metric], seed, extractor) for seed in (0, 1)]
    if not labelled:
        sides = [Features(side.values, None, extractor) for side in sides]
    beside = given(len(sides[0]), extractor) | changed
    return measure(*sides, NAMES if labelled else (), (metric,), groups=groups, **beside)


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_gives_the_figures_that_it_names(metric):
    """All of them, with counts, and an error or a word on why there is none; and no other heads of names."""
    scores = measured(metric, {"seen": [0, 2]})
    row = METRICS[metric]
    names = {name for figure in row.figures for name in figure.names(NAMES[:3], ["seen"])}
    assert names <= set(scores.figures)
    assert {name.partition("/")[0] for name in scores.figures} == {figure.name for figure in row.figures}
    for name, figure in scores.figures.items():
        assert not (name.partition("/")[0].endswith("_real") and figure.n_gen), "reals count as reals"
        assert (figure.n_gen or figure.n_real) and (figure.se is not None or figure.reason)
        assert figure.value is None or type(figure.value) is float
    assert scores.extractors == {metric: scores.extractor}


@pytest.mark.parametrize("metric", METRICS)
def test_every_figure_that_ranks_is_there(metric):
    scores = measured(metric, {"seen": [0, 2]})
    ranks = rankable([metric], NAMES[:3], ["seen"])
    assert set(ranks.values()) <= {"min", "max"}
    assert {name for name in ranks if name not in scores.values or scores.values[name] is None} == set()


@pytest.mark.parametrize("metric", [name for name, row in METRICS.items() if "labels" not in row.needs])
def test_unlabelled_sets_give_pooled_figures_alone(metric):
    scores = measured(metric, labelled=False)
    assert set(scores.figures) == {figure.name for figure in METRICS[metric].figures if figure.pooled}
    assert scores.rows == scores.groups == () and scores.aggregates == {}


@pytest.mark.parametrize("metric, need", [(name, need) for name, row in METRICS.items() for need in row.needs])
def test_what_is_missing_is_named(metric, need):
    without = {"outputs": {}} if need in ("classes", "logits") else {need: None}
    labelled = need != "labels"
    with pytest.raises(ValueError, match=f"^{metric} needs .*{re.escape(NEEDS[need])}"):
        measured(metric, labelled=labelled, **(without if labelled else {}))


@pytest.mark.parametrize(
    "metric", [name for name, row in METRICS.items() if row.least > 2 and "train" not in row.needs]
)
def test_too_few_images_are_named(metric):
    row, extractor = METRICS[metric], EXTRACTOR.get(METRICS[metric].network, f"{METRICS[metric].network}-0")
    sides = [features({0: row.least - 1}, seed, extractor) for seed in (0, 1)]
    with pytest.raises(
        ValueError, match=f"^{metric} needs at least {row.least} images a side; there are {row.least - 1}"
    ):
        measure(*sides, NAMES, (metric,), **given(row.least - 1, extractor))


@pytest.mark.parametrize("metric", [name for name, row in METRICS.items() if row.about])
def test_a_metric_of_one_network_refuses_the_features_of_another(metric):
    assert METRICS[metric].network
    sides = [features(ENOUGH[metric], seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="'cls-toy-0'"):
        measure(*sides, NAMES, (metric,), **given(len(sides[0]), "cls-toy-0"))


def test_directions_and_names():
    ranks = rankable(("fd", "kid", "accuracy", "precision_recall", "density_coverage"), ("ant",), ("seen",))
    assert {ranks[f"fd{name}"] for name in ("", "/class/ant", "/mean", "/median", "/group/seen")} == {"min"}
    assert ranks["accuracy"] == ranks["accuracy/class/ant"] == ranks["recall/group/seen/worst"] == "max"
    assert "fd_excess" not in ranks and ranks["fd_excess/mean"] == "min"
    assert "accuracy/mean" not in ranks and not any(name.startswith("coverage_expected") for name in ranks)
    assert "kid_x1e3" in ranks and "kid" not in ranks


def test_an_inception_score_of_a_class_is_refused_with_the_reason():
    assert "meaningless" in refused("is/class/cat") and "meaningless" in refused("is/group/seen")
    assert refused("is") == refused("fd/class/cat") == refused("nothing/class/cat") == ""
    assert set(measured("is").figures) == {"is"}


def test_training_features_of_another_extractor_are_refused():
    with pytest.raises(ValueError, match="'cls-toy-0', real ones from 'cls-other-1'"):
        measured("memorisation", train=features(SIZES, 7, "cls-other-1"))


def test_the_gap_knows_the_classes():
    made, train, held_out = (features(SIZES, seed) for seed in (6, 7, 8))
    few = held_out.labels < 2
    held_out = Features(held_out.values[few], held_out.labels[few], held_out.extractor)
    found = measure(made, train, NAMES, ("memorisation",), train=train, held_out=held_out)
    assert found.counts["memorisation_gap"] == (95, 55)
    wanted = frechet_distance(made.values, held_out.values) - frechet_distance(
        made.values, train.values[train.labels < 2]
    )
    assert found.values["memorisation_gap"] == pytest.approx(wanted, rel=1e-9)


def test_a_copying_generator_is_seen():
    train = features(SIZES, 7)
    scores = measure(train, train, NAMES, ("memorisation",), train=train, held_out=features(SIZES, 8))
    assert scores.values["memorisation_auth_percent"] == 0 == scores.values["memorisation_ratio_median"]
    assert scores.values["memorisation_copied_percent"] == 100 and scores.values["memorisation_gap"] > 0
    assert all(made == copied and ratio == 0 for made, copied, ratio in scores.suspicious) and scores.suspicious
