"""CLIP's image and text towers as extractor (Radford 2021)."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp

from diffusion import weight_files
from diffusion.errors import ConfigError, DataError
from diffusion.extractors.extractor import Extractor, Given
from diffusion.extractors.hub import on_hub
from diffusion.extractors.pillow import resized_uint8
from diffusion.extractors.pixels import normalised, three_channels
from diffusion.nets.clip import Clip, ClipShape, TextShape
from diffusion.nets.vit import StackShape, VitShape
from diffusion.nets.vit_weights import IGNORED, clip_places, shapes, tree
from diffusion.tokeniser import clip_tokeniser
from diffusion.types import Array, Frozen

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images
ABOUT = {
    "tap": "projected embedding, not normalised",
    "normalisation": f"(x / 255 - {MEAN}) / {STD}",
    "channels": "grey repeated",
    "precision": "float32",
}


def clip(given: Given, *, weights: str = "", model: str = "vit_l_14_336") -> Extractor:
    """CLIP: features are image embeddings f32[b d] after the projection, not normalised (CLIP score and CMMD do that).

    ``text`` gives embeddings of texts in the same space; ``tokenise`` needs the package ``tokenizers`` and the
    ``tokenizer.json`` beside the weights. Images are resized and cut as OpenAI does it, bicubic by Pillow.

    Args:
      weights: path or URL of the published file or folder; "" looks in the cache folders (docs/weights.md).
      model: a row of ``MODELS``.

    Raises:
      ConfigError: an unknown model, or weights that are missing or another model's.
    """
    if model not in MODELS:
        raise ConfigError("eval.clip.model", f"{model!r} is not one of {', '.join(MODELS)}")
    shape, file = MODELS[model]
    places = clip_places(shape)
    loaded = weight_files.load(weights, file, field="eval.clip.weights", shapes=shapes(places), ignore=IGNORED)
    net = Clip(shape)

    def extract(frozen: Frozen, images: Array) -> dict[str, Array]:
        x = normalised(cut(three_channels(images), shape.image.size), MEAN, STD)
        return {"features": net.apply({"params": frozen}, x, method="image")}

    def text(frozen: Frozen, ids: Array) -> Array:
        return net.apply({"params": frozen}, ids, method="text")

    return Extractor(
        f"clip-{model}-{loaded.sha256[:8]}",
        loaded.sha256,
        jax.tree.map(jnp.asarray, tree(places, loaded.tensors)),
        extract,
        ABOUT | {"model": model, "resize": f"Pillow bicubic, short side {shape.image.size}, centre, 8 bits"},
        tokenise=_tokenise(loaded.path, shape.text),
        text=text,
    )


def cut(images: Array, size: int) -> Array:
    """u8[b h w c] -> u8[b size size c]: the short side resized to size by Pillow's bicubic, then the middle."""
    h, w = images.shape[1:3]
    short = min(h, w)
    h, w = (size if side == short else int(size * side / short) for side in (h, w))
    top, left = round((h - size) / 2), round((w - size) / 2)  # half to even, as torchvision
    return resized_uint8(images, (h, w))[:, top : top + size, left : left + size]


def _tokenise(path: Path, text: TextShape):
    folder = path if path.is_dir() else path.parent

    @cache
    def reader():
        try:
            return clip_tokeniser(folder / "tokenizer.json", text.vocabulary, text.length)
        except DataError as error:
            raise ConfigError("eval.clip.weights", str(error)) from error

    return lambda texts: jnp.asarray(reader()(texts))


def _row(hub: str, size: int, patch: int, image: tuple[int, int, int], text: tuple[int, int, int], features: int):
    """Width, depth and heads of each tower -> a row of ``MODELS``."""
    stacks = [StackShape(*numbers, activation="quick_gelu", eps=1e-5) for numbers in (image, text)]
    vit = VitShape(stacks[0], size, patch, size // patch, pre_norm=True)
    return ClipShape(vit, TextShape(stacks[1]), features), on_hub(hub)


MODELS = {
    "vit_b_32": _row("openai/clip-vit-base-patch32", 224, 32, (768, 12, 12), (512, 12, 8), 512),
    "vit_l_14": _row("openai/clip-vit-large-patch14", 224, 14, (1024, 24, 16), (768, 12, 12), 768),
    "vit_l_14_336": _row("openai/clip-vit-large-patch14-336", 336, 14, (1024, 24, 16), (768, 12, 12), 768),
}
