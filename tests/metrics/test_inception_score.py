import math

import numpy as np
import pytest

from diffusion.metrics.inception_score import LEAST, inception_score, scores

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (1013, 5))


def direct(logits) -> float:
    """exp of the mean KL, image by image and class by class."""
    p = []
    for row in logits.tolist():
        total = math.fsum(math.exp(value) for value in row)
        p.append([math.exp(value) / total for value in row])
    mean = [math.fsum(column) / len(p) for column in zip(*p, strict=True)]
    divergences = [math.fsum(a * math.log(a / b) for a, b in zip(row, mean, strict=True)) for row in p]
    return math.exp(math.fsum(divergences) / len(p))


def test_each_split_is_scored_as_by_a_double_loop():
    order = np.random.default_rng(7).permutation(1013)
    sizes = [102] * 3 + [101] * 7
    expected = [direct(LOGITS[rows]) for rows in np.split(order, np.cumsum(sizes)[:-1])]
    np.testing.assert_allclose(scores(LOGITS, seed=7), expected, rtol=1e-12)
    figure = inception_score(LOGITS, seed=7)
    assert figure.value == pytest.approx(sum(expected) / 10, rel=1e-12)
    mean = sum(expected) / 10
    assert figure.se == pytest.approx(math.sqrt(sum((e - mean) ** 2 for e in expected) / 9 / 10), rel=1e-9)
    assert (figure.n_gen, figure.n_real) == (1013, None)


def test_it_is_one_for_one_reading_and_k_for_sure_even_ones():
    assert inception_score(np.tile(LOGITS[:1], (LEAST, 1))).value == pytest.approx(1, abs=1e-12)
    sure = np.full((10_000, 4), -2000.0)  # exp underflows: no 0 * log 0
    sure[np.arange(10_000), np.arange(10_000) % 4] = 2000
    assert inception_score(sure).value == pytest.approx(4, rel=5e-3)
    sure[:, 3] = -3000
    sure[3::4, 0] = 2000
    assert 2 < inception_score(sure).value < 3


def test_a_constant_added_to_an_images_logits_changes_nothing():
    moved = LOGITS + RANDOM.normal(0, 100, (1013, 1))
    assert inception_score(moved).value == pytest.approx(inception_score(LOGITS).value, rel=1e-9)


def test_images_in_the_order_of_their_classes_are_spread_over_the_splits():
    sure = 50.0 * np.eye(10)[np.repeat(np.arange(10), 200)]
    assert inception_score(sure).value > 9


def test_the_seed_decides_the_splits():
    assert inception_score(LOGITS, 1) == inception_score(LOGITS, 1) != inception_score(LOGITS, 2)


def test_the_error_is_that_of_the_replicates():
    values = [inception_score(np.random.default_rng(i).normal(0, 2, (1000, 6))) for i in range(60)]
    spread = np.std([figure.value for figure in values], ddof=1)
    assert np.mean([figure.se for figure in values]) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize(
    "logits, said",
    [
        (LOGITS[: LEAST - 1], r"at least 1000 images; got \(999, 5\)"),
        (LOGITS[:, 0], "at least 1000 images"),
        (np.where(np.arange(1013)[:, None] == 12, np.nan, LOGITS), "image 12"),
    ],
)
def test_what_has_no_score_is_refused(logits, said):
    with pytest.raises(ValueError, match=said):
        inception_score(logits)
