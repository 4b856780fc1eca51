"""Sets of features for precision, recall, density and coverage; no two distances among them are equal."""

import numpy as np

SHAPES = [(7, 7, 3), (40, 60, 8), (200, 90, 16), (25, 25, 300)]  # generated, real, d


def draw(n_gen: int, n_real: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([n_gen, n_real, d])
    return 0.8 * rng.normal(size=(n_gen, d)) + 0.3, rng.normal(size=(n_real, d))
