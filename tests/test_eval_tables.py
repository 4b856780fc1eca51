import numpy as np
import pytest

from diffusion.class_figure import class_figure
from diffusion.eval_console import announcements
from diffusion.eval_pooled import BESIDE, NOTES
from diffusion.eval_tables import OF_DISTANCE, OTHERS, network_of_rows, other_networks, tables
from diffusion.metrics import METRICS, Features, Scores, measure

NAMES = ("ant", "bee", "cat")


def sides(extractor="cls-toy-12345678", labelled=True):
    rng, labels = np.random.default_rng(0), np.repeat([0, 1, 2], 25)
    return [Features(rng.normal(size=(75, 6)), labels if labelled else None, extractor) for _ in range(2)]


def test_a_labelled_evaluation_has_classes_groups_and_a_pool():
    metrics = ("fd", "kid", "density_coverage", "accuracy")
    outputs = {"classes": np.repeat([0, 1, 1], 25)}
    scores = measure(*sides(), NAMES, metrics, groups={"winged": [0, 1]}, outputs=outputs)
    text = tables(scores, where="classes.csv", over="over the classes' images", notes={"fd": "more to say"})
    lines = text.splitlines()
    heads = [i for i, line in enumerate(lines) if line.split()[0] in ("class", "group", "pooled")]
    assert [lines[i].split()[0] for i in heads] == ["class", "group", "pooled"]
    assert lines[heads[1] + 1].split()[:2] == ["winged", "50"]
    assert [line.split()[0] for line in lines[heads[2] + 1 :]] == ["fd", "kid_x1e3", "density", "coverage", "accuracy"]
    assert lines[heads[2] + 1].endswith("more to say") and "other networks" not in text
    assert {line.split()[-1] for line in lines if line.startswith("cat")} == {"0.0%"}


def test_an_unlabelled_evaluation_has_the_pool_alone():
    lines = tables(measure(*sides(labelled=False)), where="", over="all").splitlines()
    assert [line.split()[0] for line in lines] == ["pooled", "fd", "kid_x1e3"]


def test_the_table_names_the_network_of_its_distance():
    """A class's row keeps the first network's numbers, which need not be the network of the evaluation."""
    parts = [
        measure(*sides("clip-b-1"), NAMES, ("kid",)),
        measure(*sides("inception-x-1"), NAMES, ("fid",)),
    ]
    lines = tables(Scores.merged(parts), where="", over="all").splitlines()
    assert lines[0].startswith("FID[inception-x-1]")
    assert "on other networks: KID: clip-b-1" in lines
    assert [line.split()[6] for line in lines[-2:]] == ["clip-b-1", "inception-x-1"]


def test_networks_by_metric():
    assert network_of_rows({"kid": "a", "fid": "b", "fd": "c"}, "d") == "b"
    assert network_of_rows({"kid": "a"}, "d") == "d"
    assert other_networks({"fd": "a", "kid": "a"}, "a") == []


@pytest.mark.parametrize("metric", METRICS)
def test_every_pooled_figure_says_how_it_is_read(metric):
    beside = {name for name, _ in BESIDE.values()}
    for figure in METRICS[metric].figures:
        assert not figure.pooled or figure.name in beside or figure.name in NOTES, figure.name


def test_metrics_that_are_named_are_rows():
    assert {*OF_DISTANCE, *OTHERS} <= set(METRICS)


def test_classes_of_7_25_and_600_images():
    """Right counts, right flags, a line per class smaller than asked, and a picture of all three."""
    rng, labels = np.random.default_rng(1), np.repeat([0, 1, 2], [7, 25, 600])
    made, real = (Features(rng.normal(size=(632, 4)), labels, "cls-toy-12345678") for _ in range(2))
    scores = measure(made, real, NAMES)
    lines = tables(scores, where="", over="all").splitlines()
    shown = {line.split()[0]: line for line in lines[2:5]}
    assert {name: int(line.split()[1]) for name, line in shown.items()} == {"ant": 7, "bee": 25, "cat": 600}
    assert [line.split()[0] for line in lines if line.endswith("unreliable")] == ["ant"] == [list(shown)[-1]]
    assert "2 of 3" in lines[6]
    small = announcements(scores.rows, 600)
    assert [line.split(":")[0] for line in small] == ["class ant", "class bee"] and "unreliable" in small[0]
    assert class_figure(scores.rows, scores.extractor).ndim == 3
