"""KID as most papers print it: mean and standard deviation over random subsets (Bińkowski et al. 2018, app. D.1)."""

import numpy as np

from diffusion.metrics.figure import Figure
from diffusion.metrics.kid import kid

SUBSETS, SIZE = 100, 1000


def kid_subsets(generated: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[Figure, Figure]:
    """(mean, standard deviation) of KID over 100 subsets of min(1000, n) images a side, n the smaller side.

    The deviation says how far KIDs of 1000 images lie apart, not how well the mean is known: for that see
    ``kid.kid_with_se`` on all images. Rows are taken for independent draws, as papers do: where class counts are fixed
    the mean is as far below 0 as that of all pairs (see ``stratified``). Where a subset is the whole set there is one
    subset, and no deviation.

    Raises:
      ValueError: fewer than two rows on a side, or widths that differ.
    """
    counts = (len(generated), len(real))
    size = min(SIZE, *counts)
    whole = "each subset is the whole set: the deviation over subsets has no meaning"
    if counts == (size, size):
        value = kid(generated, real)
        return Figure(value, None, *counts, reason=whole), Figure(None, None, *counts, reason=whole)
    values = [kid(*(x[rng.choice(len(x), size, replace=False)] for x in (generated, real))) for _ in range(SUBSETS)]
    spread = Figure(None, None, *counts, reason=whole)
    if size < min(counts):
        spread = Figure(float(np.std(values)), None, *counts, reason="a deviation, which has no error of its own")
    return Figure(float(np.mean(values)), None, *counts, reason="subsets share images: see KID for an error"), spread
