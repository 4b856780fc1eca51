import numpy as np
import pytest

from diffusion.metrics import Features

VALUES = np.arange(12.0).reshape(4, 3)
LABELS = np.array([0, 1, 1, 2])


def spoilt(rows: list[int], value: float) -> np.ndarray:
    values = VALUES.copy()
    values[rows, 1] = value
    return values


@pytest.mark.parametrize(
    "values, labels, said",
    [
        (spoilt([1, 3], np.nan), None, r"2 of 4 feature rows of 'e' are not finite; the first is 1"),
        (spoilt([2], np.inf), None, "1 of 4"),
        (VALUES[:0], None, "n, d >= 1"),
        (VALUES[0], None, r"\[n d\]"),
        (VALUES * 1j, None, "real"),
        (VALUES, LABELS[:3], r"shape \(4,\)"),
        (VALUES, LABELS / 2, "integers"),
        (VALUES, LABELS - 1, "labels=None"),
    ],
)
def test_bad_features_are_named(values, labels, said):
    with pytest.raises(ValueError, match=said):
        Features(values, labels, "e")


def test_features_are_widened_and_sorted_by_class():
    features = Features(VALUES.astype(np.float32), LABELS.astype(np.int8), "e")
    assert features.values.dtype == np.float64 and len(features) == 4
    np.testing.assert_array_equal(features.of(1), VALUES[1:3])
    with pytest.raises(ValueError, match="no labels"):
        Features(VALUES, None, "e").of(1)
