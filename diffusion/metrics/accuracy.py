"""Share of generated images that a classifier reads as the class that was asked for."""

import numpy as np

from diffusion.metrics.figure import Figure


def accuracy(predicted: np.ndarray, asked: np.ndarray) -> Figure:
    """The share, in [0, 1]; its error is binomial, sqrt(p (1 - p) / (n - 1)).

    Args:
      predicted: i[n], the classifier's reading.
      asked: i[n], the label each image was generated for.

    Raises:
      ValueError: no images, or arrays that do not pair up.
    """
    predicted, asked = np.asarray(predicted), np.asarray(asked)
    if predicted.shape != asked.shape or predicted.ndim != 1 or not len(asked):
        raise ValueError(
            f"accuracy needs one prediction per asked label, n >= 1; got {predicted.shape} and {asked.shape}"
        )
    n, p = len(asked), float(np.mean(predicted == asked))
    if n == 1:
        return Figure(p, None, n, reason="no error from one image")
    return Figure(p, float(np.sqrt(p * (1 - p) / (n - 1))), n)
