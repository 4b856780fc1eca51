"""Trains the digits classifier that ships with the program: ``python -m scripts.train_digits_classifier``.

It writes ``diffusion/assets/cls-digits.npz`` (another path may be given) from scikit-learn's digits at their
native 8 x 8 under the default split (seed 0, a fifth held out). About half a minute on two cores. The same
machine gives the same weights; another one may round differently, and the name then shows other digits.
"""

import logging
import sys
from pathlib import Path

from diffusion.classifier_fit import Recipe, fit, labelled
from diffusion.data.sources import digits
from diffusion.data.transforms import make_transform
from diffusion.extractors.classifier import ASSETS
from diffusion.weights import save_weights

LEAST_ACCURACY = 0.97


def main(path: Path) -> None:
    """Trains, checks and writes; exits 1 without writing when the classifier reads too few digits."""
    dataset = digits("", 0)
    transform = make_transform(0, 0, flip=False, native=dataset.image_shape)
    train, test = (labelled(dataset.open(split), transform) for split in ("train", "test"))
    weights = fit(train, test, len(dataset.classes), Recipe())
    print(f"held-out accuracy {weights.accuracy:.2%} on {len(test.images)} digits")
    if weights.accuracy < LEAST_ACCURACY:
        sys.exit(f"that is below {LEAST_ACCURACY:.0%}: nothing was written")
    save_weights(path, weights)
    print(f"wrote {path} ({path.stat().st_size} bytes): cls-digits-{weights.sha256[:8]}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS / "cls-digits.npz")
