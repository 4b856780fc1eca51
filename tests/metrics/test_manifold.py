import numpy as np
import pytest

from diffusion.metrics import distances
from diffusion.metrics.manifold import density_coverage, expected_coverage, precision_recall
from tests.metrics.manifold_sets import SHAPES, draw

NAMES = ("precision", "recall", "density", "coverage")

PRDC = {  # by version 0.2 of the prdc package, from sets without ties: `tests/second_opinion/test_prdc.py`
    ((7, 7, 3), 3): (1.0, 0.8571428571428571, 1.7142857142857144, 1.0),
    ((7, 7, 3), 5): (1.0, 1.0, 1.2571428571428571, 1.0),
    ((40, 60, 8), 3): (0.975, 0.5833333333333334, 1.5583333333333331, 0.9166666666666666),
    ((40, 60, 8), 5): (0.975, 0.6833333333333333, 1.705, 1.0),
    ((200, 90, 16), 3): (0.92, 0.5111111111111111, 1.5299999999999998, 0.9666666666666667),
    ((200, 90, 16), 5): (0.975, 0.6333333333333333, 1.4800000000000002, 1.0),
    ((25, 25, 300), 3): (1.0, 0.0, 5.853333333333333, 1.0),
    ((25, 25, 300), 5): (1.0, 0.0, 4.192, 1.0),
}


def measured(generated: np.ndarray, real: np.ndarray, k: int) -> dict:
    return precision_recall(generated, real, k) | density_coverage(generated, real, k)


def by_definition(generated: np.ndarray, real: np.ndarray, k: int) -> tuple[float, ...]:
    def between(a, b):
        return np.linalg.norm(a[:, None] - b, axis=2)

    balls_real, balls_made = (np.sort(between(z, z), axis=1)[:, k] for z in (real, generated))  # place 0 is itself
    across = between(generated, real)
    return (
        np.mean((across <= balls_real).any(1)),
        np.mean((across <= balls_made[:, None]).any(0)),
        np.sum(across < balls_real) / (k * len(generated)),
        np.mean((across < balls_real).any(0)),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [3, 5])
def test_equal_to_the_definition_and_to_the_prdc_package(shape, k, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", 16)
    generated, real = draw(*shape)
    found = measured(generated, real, k)
    assert tuple(found[name].value for name in NAMES) == PRDC[shape, k]
    assert tuple(found[name].value for name in NAMES) == pytest.approx(by_definition(generated, real, k), rel=1e-15)
    assert all((figure.n_gen, figure.n_real) == shape[:2] for figure in found.values())


def jackknifed(x: np.ndarray, statistic) -> float:
    """Variance by leaving out each of 20 groups and computing everything again."""
    group = np.arange(len(x)) % min(20, len(x))
    h = len(x) / np.bincount(group)
    value, without = statistic(x), np.array([statistic(x[group != g]) for g in range(len(h))])
    pseudo = h * value - (h - 1) * without
    return np.mean((pseudo - np.average(pseudo, weights=1 / h)) ** 2 / (h - 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_errors_are_those_of_leaving_groups_out(shape, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", 16)
    generated, real = draw(*shape)
    k = 3
    found = measured(generated, real, k)
    across = np.linalg.norm(generated[:, None] - real, axis=2)
    balls = np.sort(np.linalg.norm(real[:, None] - real, axis=2), axis=1)[:, k]
    own = np.sort(np.linalg.norm(generated[:, None] - generated, axis=2), axis=1)[:, k]
    counted = [(across <= balls).any(1), (across <= own[:, None]).any(0), (across < balls).sum(1) / k]
    of_points = [float(np.var(each, ddof=1)) / len(each) for each in counted]
    expected = [
        of_points[0] + jackknifed(real, lambda rest: by_definition(generated, rest, k)[0]),
        of_points[1] + jackknifed(generated, lambda rest: by_definition(rest, real, k)[1]),
        of_points[2] + jackknifed(real, lambda rest: by_definition(generated, rest, k)[2]),
        jackknifed(real, lambda rest: by_definition(generated, rest, k)[3])
        + jackknifed(generated, lambda rest: np.mean((np.linalg.norm(rest[:, None] - real, axis=2) < balls).any(0))),
    ]
    assert [found[name].se for name in NAMES] == pytest.approx(np.sqrt(expected), rel=1e-9)


def test_a_collapsed_generator_inside_the_data_is_precise_and_recalls_little():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 8))
    found = measured(0.05 * rng.normal(size=(400, 8)), real, 3)
    assert found["precision"].value > 0.8 and found["recall"].value < 0.3
    found = measured(real, 0.05 * rng.normal(size=(400, 8)), 3)  # the other way round: it covers, and strays
    assert found["precision"].value < 0.3 and found["recall"].value > 0.8


@pytest.mark.parametrize("n, m", [(30, 30), (20, 60), (60, 20)])
def test_expected_coverage_is_that_of_equal_distributions(n, m):
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        found.append(density_coverage(rng.normal(size=(n, 5)), rng.normal(size=(m, 5)))["coverage"].value)
    figure = density_coverage(rng.normal(size=(n, 5)), rng.normal(size=(m, 5)))["coverage_expected"]
    assert abs(np.mean(found) - expected_coverage(n, m)) < 3 * np.std(found, ddof=1) / np.sqrt(len(found))
    assert figure.value == expected_coverage(n, m) and figure.se is None and figure.reason


@pytest.mark.parametrize("n, m, d, shift, scale", [(60, 60, 4, 0, 1), (50, 120, 16, 0.2, 0.8)])
def test_errors_are_never_narrow(n, m, d, shift, scale):
    """A jackknife of nearest neighbours is wide: up to twice the spread of replicates."""
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        figures = measured(shift + scale * rng.normal(size=(n, d)), rng.normal(size=(m, d)), 5)
        found.append([(figures[name].value, figures[name].se) for name in NAMES])
    values, errors = np.moveaxis(found, 2, 0)
    ratio = errors.mean(0) / values.std(0, ddof=1)
    assert (ratio > 0.8).all() and (ratio < 2.5).all()


def test_a_copying_generator_lies_on_the_reals():
    real = np.random.default_rng(0).normal(size=(40, 6))
    found = measured(real, real, 3)
    assert [found[name].value for name in ("precision", "recall", "coverage")] == [1, 1, 1]


@pytest.mark.parametrize("n, m, missing", [(3, 9, {"precision", "recall"}), (9, 3, set(NAMES)), (4, 4, set())])
def test_too_few_neighbours_have_a_reason(n, m, missing):
    rng = np.random.default_rng(0)
    found = measured(rng.normal(size=(n, 4)), rng.normal(size=(m, 4)), 3)
    assert {name for name in NAMES if found[name].value is None} == missing
    assert all("3 nearest neighbours need more than 3" in found[name].reason for name in missing)
