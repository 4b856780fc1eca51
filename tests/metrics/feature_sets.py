"""Features of labelled sets for the tests."""

import numpy as np

from diffusion.metrics import Features

NAMES = ("ant", "bee", "cat", "dog")


def features(counts: dict[int, int], seed: int, extractor: str = "cls-toy-0", d: int = 6) -> Features:
    """Interleaved classes, each around its own centre."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(list(counts), list(counts.values())))
    return Features(rng.normal(size=(len(labels), d)) + labels[:, None], labels, extractor)
