"""DINOv2 as extractor (Oquab 2023), for the distance that Stein 2023 proposes in place of FID."""

import jax
import jax.numpy as jnp

from diffusion import weight_files
from diffusion.errors import ConfigError
from diffusion.extractors.extractor import Extractor, Given
from diffusion.extractors.hub import on_hub
from diffusion.extractors.pillow import resized_uint8
from diffusion.extractors.pixels import normalised, three_channels
from diffusion.nets.vit import StackShape, Vit, VitShape
from diffusion.nets.vit_weights import IGNORED, dinov2_places, shapes, tree
from diffusion.types import Array, Frozen

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def dinov2(given: Given, *, weights: str = "", model: str = "vit_l_14") -> Extractor:
    """DINOv2: features are the class token after the last norm, f32[b d].

    Images are resized to 224 x 224, whatever their sides, bicubic by Pillow. Positions are interpolated as DINOv2's
    own code does it, which published FD-DINOv2 were computed with.

    Args:
      weights: path or URL of the file or folder on Hugging Face; "" looks in the cache folders (docs/weights.md).
      model: a row of ``MODELS``.

    Raises:
      ConfigError: an unknown model, or weights that are missing or another model's.
    """
    if model not in MODELS:
        raise ConfigError("eval.dinov2.model", f"{model!r} is not one of {', '.join(MODELS)}")
    shape, file = MODELS[model]
    places = dinov2_places(shape)
    loaded = weight_files.load(weights, file, field="eval.dinov2.weights", shapes=shapes(places), ignore=IGNORED)
    net = Vit(shape)

    def extract(frozen: Frozen, images: Array) -> dict[str, Array]:
        x = normalised(resized_uint8(three_channels(images), (shape.size, shape.size)), MEAN, STD)
        return {"features": net.apply({"params": frozen}, x)}

    about = {
        "model": model,
        "tap": "class token after the last norm",
        "normalisation": f"(x / 255 - {MEAN}) / {STD}",
        "channels": "grey repeated",
        "resize": f"Pillow bicubic to {shape.size} x {shape.size}, 8 bits",
        "positions": f"{shape.table} x {shape.table}, bicubic, offset {shape.offset}",
        "precision": "float32",
    }
    name = f"dinov2-{model}-{loaded.sha256[:8]}"
    frozen = jax.tree.map(jnp.asarray, tree(places, loaded.tensors))
    return Extractor(name, loaded.sha256, frozen, extract, about)


MODELS = {
    "vit_l_14": (
        VitShape(StackShape(1024, 24, 16, "gelu", 1e-6, layer_scale=True), size=224, patch=14, table=37, offset=0.1),
        on_hub("facebook/dinov2-large"),
    ),
}
