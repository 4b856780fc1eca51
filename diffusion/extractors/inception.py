"""The FID's Inception-v3 as extractor: its weights, and the three ways in which images are brought to 299 x 299."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import weight_files
from diffusion.errors import ConfigError
from diffusion.extractors.extractor import Extractor, Given, check_images
from diffusion.extractors.resizing import half_pixel_bilinear, pil_bicubic, resized, tf1_bilinear
from diffusion.nets.inception import TAPS, Inception, from_published, published_shapes
from diffusion.types import Array, Frozen
from diffusion.weight_files import WeightFile

SIDE = 299
WEIGHTS = WeightFile(
    names=("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    urls=(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
)


@dataclass(frozen=True)
class Preset:
    """How uint8 images become the network's input. Features of two presets do not compare.

    Attributes:
      matrix: (n_in, n_out) -> f32[n_out n_in], the resize along one axis.
      normalise: f32 in [0, 255] -> what the network reads.
      resize, antialias, normalisation: the same in words.
    """

    matrix: Callable[[int, int], np.ndarray]
    normalise: Callable[[Array], Array]
    resize: str
    antialias: bool
    normalisation: str


def inception(given: Given, *, weights: str = "", preset: str = "fid-tf", tap: int = 2048) -> Extractor:
    """Inception-v3 with the weights of 2015-12-05, whose Fréchet distance is called FID.

    Args:
      weights: a path or URL of them; "" looks in the cache folders (docs/weights.md).
      preset: a row of ``PRESETS``.
      tap: the map whose spatial mean the features are, by its channels; 2048 for the FID as everyone reports it.

    Raises:
      ConfigError: an unknown preset or tap; weights that are not there or not these.
    """
    if preset not in PRESETS:
        raise ConfigError("eval.inception.preset", f"{preset!r} is not one of: {', '.join(PRESETS)}")
    if tap not in TAPS:
        raise ConfigError("eval.inception.tap", f"{tap} is not one of: {', '.join(map(str, TAPS))}")
    loaded = weight_files.load(weights, WEIGHTS, field="eval.inception.weights", shapes=published_shapes())
    frozen = jax.tree.map(jnp.asarray, from_published(loaded.tensors))

    def extract(frozen: Frozen, images: Array) -> dict[str, Array]:
        found = Inception().apply(frozen, prepared(images, preset))
        return {"features": found[str(tap)], "logits": found["logits_unbiased"]}

    how = PRESETS[preset]
    about = {
        "tap": tap,
        "side": SIDE,
        "resize": how.resize,
        "antialias": how.antialias,
        "normalisation": how.normalisation,
        "precision": "float32",
    }
    other_tap = "" if tap == 2048 else f"-tap{tap}"
    return Extractor(f"inception-{preset}{other_tap}-{loaded.sha256[:8]}", loaded.sha256, frozen, extract, about)


def prepared(images: Array, preset: str) -> Array:
    """u8[b h w c], c 1 or 3 -> f32[b 299 299 3] as the network reads them.

    Raises:
      TypeError: other than uint8 [b h w c].
      ValueError: neither 1 nor 3 channels.
    """
    check_images(images)
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"Inception-v3 reads images of 1 or 3 channels; got {images.shape[-1]}")
    how = PRESETS[preset]
    down, across = (how.matrix(n, SIDE) for n in images.shape[1:3])
    coloured = jnp.broadcast_to(jnp.asarray(images, jnp.float32), (*images.shape[:3], 3))
    return how.normalise(resized(coloured, down, across))


PRESETS = {
    # TensorFlow 1's graph, which ADM, EDM and torch-fidelity follow
    "fid-tf": Preset(
        tf1_bilinear, lambda x: (x - 128) / 128, "bilinear without half-pixel centres", False, "(x - 128) / 128"
    ),
    # pytorch-fid
    "fid-pytorch": Preset(
        half_pixel_bilinear, lambda x: 2 * (x / 255) - 1, "bilinear with half-pixel centres", False, "2 x / 255 - 1"
    ),
    # clean-fid (Parmar et al. 2022), which clips what the bicubic kernel overshoots
    "fid-clean": Preset(
        pil_bicubic, lambda x: (x.clip(0, 255) - 128) / 128, "Pillow's bicubic, in float32", True, "(x - 128) / 128"
    ),
}
