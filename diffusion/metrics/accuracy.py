"""Share of generated images that a classifier reads as the class that was asked for."""

from collections.abc import Sequence

import numpy as np

from diffusion.metrics.per_class import class_name


def accuracy(predicted: np.ndarray, asked: np.ndarray, names: Sequence[str] = ()) -> dict[str, float]:
    """Shares in [0, 1]: ``accuracy`` over all images and ``accuracy/class/<name>`` over each class asked for.

    Args:
      predicted: i[n], the classifier's reading.
      asked: i[n], the label each image was generated for.
      names: class names by label; without them the label stands in the key.

    Raises:
      ValueError: no images, or arrays that do not pair up.
    """
    predicted, asked = np.asarray(predicted), np.asarray(asked)
    if predicted.shape != asked.shape or predicted.ndim != 1 or not len(asked):
        raise ValueError(
            f"accuracy needs one prediction per asked label, n >= 1; got {predicted.shape} and {asked.shape}"
        )
    right = predicted == asked
    shares = {"accuracy": float(right.mean())}
    for label in np.unique(asked).tolist():
        shares[f"accuracy/class/{class_name(label, names)}"] = float(right[asked == label].mean())
    return shares
