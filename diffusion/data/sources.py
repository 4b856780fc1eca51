"""Where records come from. A row: (root, seed, *, its own config fields) -> Dataset.

``root`` is ``data.root`` (``~`` is expanded) and ``seed`` is ``data.split_seed``.
"""

import functools

import numpy as np

from diffusion.data.fewshot import fewshot
from diffusion.data.folder import folder
from diffusion.data.latents import latents
from diffusion.data.npz import npz
from diffusion.data.records import ArrayRecords, Dataset, Record, Records, opener
from diffusion.data.split import check_fraction, sizes_of_counts, stratified
from diffusion.data.tfds_source import tfds

__all__ = ["SOURCES", "Dataset", "Record", "Records", "digits"]

DIGITS_PER_CLASS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


def digits(root: str, seed: int, *, test_fraction: float = 0.2) -> Dataset:
    """scikit-learn's 1,797 real handwritten digits, 8x8 grey, ten classes.

    Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits" (its test set). Needs no file:
    ``root`` is not read. The original 0..16 is mapped to 0..255 by x * 255 / 16, rounded half up.

    Args:
      test_fraction: share of every class that is held out, in (0, 1).
    """
    check_fraction("data.digits.test_fraction", test_fraction)

    def split(name: str) -> ArrayRecords:
        images, labels = _load_digits()
        kept = stratified(labels, test_fraction, seed)[name]
        return ArrayRecords(images[kept], labels[kept], labelled=True)

    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        sizes=sizes_of_counts(list(DIGITS_PER_CLASS), test_fraction, "digits"),
        image_shape=(8, 8, 1),
        open=opener({name: functools.partial(split, name) for name in ("train", "test")}),
    )


@functools.cache
def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = np.floor(loaded.images * (255 / 16) + 0.5).astype(np.uint8)
    return images[..., None], loaded.target.astype(np.int32)


SOURCES = {"digits": digits, "tfds": tfds, "folder": folder, "npz": npz, "latents": latents, "fewshot": fewshot}
