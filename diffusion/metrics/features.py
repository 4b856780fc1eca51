"""What every metric takes: the features of a set of images."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Features:
    """Features of n images, one row each, checked at the door.

    Attributes:
      values: f64[n d], finite; any real dtype is accepted and widened.
      labels: i64[n], the class of each row, at least 0; None for unlabelled images.
      extractor: who made them ("cls-digits-1a2b3c4d", "inception-..."); only equal ones compare.

    Raises:
      ValueError: not a non-empty [n d] array of finite reals, or labels that do not fit it.
    """

    values: np.ndarray
    labels: np.ndarray | None
    extractor: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _checked_values(self.values, self.extractor))
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels, len(self.values)))

    def __len__(self) -> int:
        return len(self.values)

    def of(self, label: int) -> np.ndarray:
        """The rows of one class, in order: f64[n_c d]."""
        if self.labels is None:
            raise ValueError("these features have no labels, so no class can be taken from them")
        return self.values[self.labels == label]


def check_comparable(generated: Features, real: Features) -> None:
    """Raises ValueError unless both sides come from one extractor and both or neither are labelled."""
    if generated.extractor != real.extractor:
        raise ValueError(
            f"generated features come from {generated.extractor!r}, real ones from {real.extractor!r}; "
            "extract both with the same weights"
        )
    if generated.values.shape[1] != real.values.shape[1]:
        raise ValueError(
            f"generated features have {generated.values.shape[1]} columns, real ones {real.values.shape[1]}"
        )
    if (generated.labels is None) != (real.labels is None):
        raise ValueError("one side has labels and the other none; give labels to both or to neither")


def _checked_values(values: np.ndarray, extractor: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"features of {extractor!r} must be [n d] with n, d >= 1; got shape {values.shape}")
    if np.iscomplexobj(values):
        raise ValueError(f"features of {extractor!r} must be real; got {values.dtype}")
    values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(values)} feature rows of {extractor!r} are not finite; the first is {bad[0]}"
        )
    return values


def _checked_labels(labels: np.ndarray, n: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers of shape ({n},); got {labels.dtype} {labels.shape}")
    if labels.min() < 0:
        raise ValueError(f"labels must be at least 0, got {labels.min()}; unlabelled features have labels=None")
    return labels.astype(np.int64)
