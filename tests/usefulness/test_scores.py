"""Figures of a confusion matrix, against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from diffusion.usefulness.scores import HEADLINE, OF_CLASS, confusion, headline, of_classes


def predictions(seed: int, never: int | None = None):
    """(labels, read) of 5 classes of unequal sizes; class ``never`` is not read."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(5), rng.choice(5, 80, p=[0.5, 0.2, 0.15, 0.1, 0.05])])
    read = np.where(rng.random(85) < 0.6, labels, rng.integers(0, 5, 85))
    return labels, np.where(read == never, 0, read)


@pytest.mark.parametrize("seed, never", [(0, None), (1, None), (2, 3)])
def test_the_figures_are_scikit_learns(seed, never):
    labels, read = predictions(seed, never)
    matrix = confusion(labels, read, 5)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(labels, read))
    found = headline(matrix, [1, 3])
    each = metrics.recall_score(labels, read, average=None)
    wanted = {
        "accuracy": metrics.accuracy_score(labels, read),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, read),
        "macro_f1": metrics.f1_score(labels, read, average="macro"),
        "small_recall": (each[1] + each[3]) / 2,
    }
    assert tuple(found) == HEADLINE and found == pytest.approx(wanted, abs=1e-12)
    per_class = of_classes(matrix)
    assert tuple(per_class) == OF_CLASS
    np.testing.assert_allclose(per_class["recall"], each)
    np.testing.assert_allclose(per_class["f1"], metrics.f1_score(labels, read, average=None))
    precision = metrics.precision_score(labels, read, average=None, zero_division=np.nan)
    np.testing.assert_allclose(per_class["precision"], precision)
    assert np.isnan(per_class["precision"]).tolist() == [c == never for c in range(5)]


def test_many_matrices_at_once():
    matrices = np.stack([confusion(*predictions(seed), 5) for seed in range(3)])
    together, each = headline(matrices, [2]), [headline(matrix, [2]) for matrix in matrices]
    for name in HEADLINE:
        np.testing.assert_array_equal(together[name], [one[name] for one in each])
