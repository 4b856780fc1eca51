"""What a confusion matrix says: figures over all classes, and of each class by itself."""

from collections.abc import Sequence

import numpy as np

HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "small_recall")
OF_CLASS = ("recall", "precision", "f1")


def confusion(labels: np.ndarray, read: np.ndarray, classes: int) -> np.ndarray:
    """i64[k k]: images of the row's class that were read as the column's; labels, read: i[n] in [0, k)."""
    pairs = np.asarray(labels, np.int64) * classes + np.asarray(read, np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def headline(matrix: np.ndarray, small: Sequence[int]) -> dict[str, np.ndarray]:
    """f64[...] in [0, 1] by name of `HEADLINE`, of confusion matrices [... k k] in which every row has an image.

    Balanced accuracy is the mean recall over the classes, small_recall that over the classes ``small`` alone, and
    macro_f1 the mean F1 over the classes.
    """
    found = of_classes(matrix)
    right = np.trace(matrix, axis1=-2, axis2=-1)
    return {
        "accuracy": right / matrix.sum((-2, -1)),
        "balanced_accuracy": found["recall"].mean(-1),
        "macro_f1": found["f1"].mean(-1),
        "small_recall": found["recall"][..., list(small)].mean(-1),
    }


def of_classes(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """f64[... k] in [0, 1] by name of `OF_CLASS`; precision is nan where no image was read as that class.

    F1 is 2 right / (images + read as it), which is 0 there.
    """
    right = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    images, read = matrix.sum(-1), matrix.sum(-2)
    with np.errstate(invalid="ignore"):
        precision = right / read
    return {"recall": right / images, "precision": precision, "f1": 2 * right / (images + read)}
