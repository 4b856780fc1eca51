"""The images themselves as features: nearest neighbours in pixels need no weights."""

import hashlib

import jax
import jax.numpy as jnp

from diffusion.extractors.extractor import Extractor, Given, check_images
from diffusion.types import Array, Frozen


def pixels(given: Given, *, side: int = 32) -> Extractor:
    """Pixels in [0, 1], of an image reduced to at most ``side`` by ``side``, as f32[b side*side*c].

    Raises:
      ValueError: a side below 1.
    """
    if side < 1:
        raise ValueError(f"side is {side}; at least 1 is needed")

    def extract(frozen: Frozen, images: Array) -> dict[str, Array]:
        check_images(images)
        b, h, w, c = images.shape
        x = images.astype(jnp.float32) / 255
        reduced = jax.image.resize(x, (b, min(h, side), min(w, side), c), "linear", antialias=True)
        return {"features": reduced.reshape(b, -1)}

    about = {
        "tap": "pixels",
        "normalisation": "x / 255",
        "resize": f"linear, antialiased, to {side}",
        "precision": "float32",
    }
    return Extractor(f"pixels-{side}", hashlib.sha256().hexdigest(), {}, extract, about)
