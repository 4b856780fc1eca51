"""Small data sets and tiny runs that evaluations are tried on."""

from pathlib import Path

import numpy as np

QUIET = {"val__every": 0, "sample__every": 0, "eval__every": 0, "train__steps": 2, "checkpoint__every": 1}
NO_CLASSIFIER = {"eval__extractor": "pixels", "eval__metrics": "fd,kid"}


def digits_of(sizes: dict[int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(u8[n 8 8 1], i32[n]): so many real digits of each kind, shifted at random where there are too few."""
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), np.random.default_rng(seed)
    images, labels = [], []
    for label, (kind, n) in enumerate(sizes.items()):
        rows = np.resize(rng.permutation(np.flatnonzero(digits.target == kind)), n)
        found = (digits.images[rows] * 255 / 16).round().astype(np.uint8)
        later = np.arange(n) >= np.sum(digits.target == kind)
        found[later] = np.roll(found[later], 1, axis=2)
        images.append(found[..., None])
        labels += [label] * n
    return np.concatenate(images), np.array(labels, np.int32)


def write_npz(path: Path, sizes: dict[int, int], *, labelled: bool = True, seed: int = 0, **more: np.ndarray) -> Path:
    """An npz for ``data.source=npz`` or ``eval.images``; the classes are called k0, k1, …"""
    images, labels = digits_of(sizes, seed)
    arrays = {"images": images} | ({"labels": labels} if labelled else {}) | more
    np.savez(path, **arrays)
    return path


def stand_in(name: str, **more):
    """An extractor of that name: features are pixel means of the quarters, logits and texts are made from them."""
    import jax.numpy as jnp

    from diffusion.extractors import Extractor, check_images

    def extract(frozen, images):
        check_images(images)
        b, h, w, _ = images.shape
        x = images[..., 0].astype(jnp.float32).reshape(b, 2, h // 2, 2, w // 2).mean(axis=(2, 4)).reshape(b, 4)
        return {"features": x + 1, "logits": jnp.tile(x / 64, (1, 4))}

    def tokenise(texts):
        return np.array([[len(text), *map(ord, text[-2:])] for text in texts], np.int32)

    def text(frozen, ids):
        return jnp.concatenate([ids.astype(jnp.float32), jnp.ones((len(ids), 1))], axis=1)

    return lambda given: Extractor(name, "0" * 64, {}, extract, {"tap": "quarters"}, tokenise=tokenise, text=text)
