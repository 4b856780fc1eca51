"""A classifier of the digits that the program does not know: scikit-learn's SVC on the pixels."""

import numpy as np


def svc():
    """(judge, pixels f[n 64] in [0, 1] and labels i[n] of the training split, on which it was fitted).

    Raises:
      ValueError: it reads fewer than 98 % of the test split as labelled.
    """
    from sklearn.svm import SVC

    from diffusion.data.sources import digits

    splits = {}
    for split in ("train", "test"):
        records = digits("", 0).open(split)
        images = np.stack([records[i].image for i in range(len(records))])
        splits[split] = pixels(images), records.labels
    judge = SVC(gamma=0.5, C=10).fit(*splits["train"])
    if judge.score(*splits["test"]) <= 0.98:
        raise ValueError(f"the judge reads only {judge.score(*splits['test']):.1%} of held-out digits as labelled")
    return judge, *splits["train"]


def pixels(images: np.ndarray) -> np.ndarray:
    """u8[n 8 8 1] -> f[n 64] in [0, 1]."""
    return images.reshape(len(images), -1) / 255.0
