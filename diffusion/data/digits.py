"""scikit-learn's handwritten digits, which need no file."""

import functools

import numpy as np

from diffusion.data.records import ArrayRecords, Dataset, opener
from diffusion.data.split import check_fraction, sizes_of_counts, stratified

CLASSES = tuple("0123456789")
DIGITS_PER_CLASS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
SHAPE = (8, 8, 1)


def digits(root: str, seed: int, *, test_fraction: float = 0.2) -> Dataset:
    """scikit-learn's 1,797 real handwritten digits, 8x8 grey, ten classes.

    Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits" (its test set). Needs no file:
    ``root`` is not read. The original 0..16 is mapped to 0..255 by x * 255 / 16, rounded half up.

    Args:
      test_fraction: share of every class that is held out, in (0, 1).
    """
    check_fraction("data.digits.test_fraction", test_fraction)

    def split(name: str) -> ArrayRecords:
        images, labels = load_digits()
        kept = stratified(labels, test_fraction, seed)[name]
        return ArrayRecords(images[kept], labels[kept], labelled=True)

    return Dataset(
        name="digits",
        classes=CLASSES,
        sizes=sizes_of_counts(list(DIGITS_PER_CLASS), test_fraction, "digits"),
        image_shape=SHAPE,
        open=opener({name: functools.partial(split, name) for name in ("train", "test")}),
    )


@functools.cache
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """All of them: u8[n 8 8 1] and labels i32[n]."""
    from sklearn import datasets

    loaded = datasets.load_digits()
    images = np.floor(loaded.images * (255 / 16) + 0.5).astype(np.uint8)
    return images[..., None], loaded.target.astype(np.int32)
