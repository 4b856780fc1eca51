"""CLIP's and DINOv2's weights under Hugging Face's names: which there must be, and their places in our trees.

torch keeps dense kernels [out in] and convolutions [out in h w], we [in out] and [h w in out]; equal blocks, numbered
there, are stacked along a first axis here.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from diffusion.nets.clip import ClipShape
from diffusion.nets.vit import StackShape, VitShape


class Place(NamedTuple):
    """Where a tensor goes.

    Attributes:
      shape: as published.
      path: in the tree, as "a/b/c"; "" for what inference does not read.
      order: of the axes, as in ``transpose``; none where they stay.
      layer: its number in a stack, or None.
    """

    shape: tuple[int, ...]
    path: str
    order: tuple[int, ...] = ()
    layer: int | None = None


Places = dict[str, Place]

# Names of a block's parts, of ours: theirs
CLIP_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
}
DINOV2_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    **{name: f"attention.attention.{name}" for name in ("query", "key", "value")},
    "out": "attention.output.dense",
    "scale1": "layer_scale1.lambda1",
    "scale2": "layer_scale2.lambda1",
}
IGNORED = (r".*\.position_ids",)  # 0, 1, 2, …, which older files hold


def clip_places(shape: ClipShape) -> Places:
    """Of ``openai/clip-vit-*`` into the tree of ``Clip``."""
    image, text = shape.image, shape.text
    d, e = image.stack.width, text.stack.width
    vision, texts = "vision_model", "text_model"
    return {
        "logit_scale": Place((), ""),
        "visual_projection.weight": Place((shape.features, d), "image_projection/kernel", (1, 0)),
        "text_projection.weight": Place((shape.features, e), "text_projection/kernel", (1, 0)),
        f"{vision}.embeddings.class_embedding": Place((d,), "image_tower/class_token"),
        f"{vision}.embeddings.patch_embedding.weight": _patches(image, "image_tower/patches/kernel"),
        f"{vision}.embeddings.position_embedding.weight": Place((1 + image.table**2, d), "image_tower/positions"),
        **_norm(f"{vision}.pre_layrnorm", "image_tower/pre_norm", d),
        **dict(_blocks(f"{vision}.encoder.layers", "image_tower", image.stack, CLIP_BLOCK)),
        **_norm(f"{vision}.post_layernorm", "image_tower/norm", d),
        f"{texts}.embeddings.token_embedding.weight": Place((text.vocabulary, e), "text_tower/tokens"),
        f"{texts}.embeddings.position_embedding.weight": Place((text.length, e), "text_tower/positions"),
        **dict(_blocks(f"{texts}.encoder.layers", "text_tower", text.stack, CLIP_BLOCK)),
        **_norm(f"{texts}.final_layer_norm", "text_tower/norm", e),
    }


def dinov2_places(shape: VitShape) -> Places:
    """Of ``facebook/dinov2-*`` into the tree of ``Vit``."""
    d = shape.stack.width
    return {
        "embeddings.cls_token": Place((1, 1, d), "class_token"),
        "embeddings.mask_token": Place((1, d), ""),
        "embeddings.position_embeddings": Place((1, 1 + shape.table**2, d), "positions"),
        "embeddings.patch_embeddings.projection.weight": _patches(shape, "patches/kernel"),
        "embeddings.patch_embeddings.projection.bias": Place((d,), "patches/bias"),
        **dict(_blocks("encoder.layer", "", shape.stack, DINOV2_BLOCK)),
        **_norm("layernorm", "norm", d),
    }


def shapes(places: Places) -> dict[str, tuple[int, ...]]:
    """What a file must hold: {name: shape}."""
    return {name: place.shape for name, place in places.items()}


def tree(places: Places, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The f32 weights in our places; other tensors are left out, whatever they are."""
    found: dict[str, dict[int | None, np.ndarray]] = {}
    for name, place in places.items():
        if place.path:
            tensor = np.asarray(tensors[name], np.float32)
            turned = tensor.transpose(place.order) if place.order else tensor.reshape(_without_ones(place.shape))
            found.setdefault(place.path, {})[place.layer] = turned
    whole = {path: np.stack([p[i] for i in sorted(p)]) if None not in p else p[None] for path, p in found.items()}
    return unflatten_dict(whole, sep="/")


def _blocks(theirs: str, ours: str, stack: StackShape, names: Mapping[str, str]) -> Iterator[tuple[str, Place]]:
    d = stack.width
    wide = {"fc1": (4 * d, d), "fc2": (d, 4 * d)}
    ours = f"{ours}/blocks".removeprefix("/")
    for i in range(stack.depth):
        for part, name in names.items():
            here, there = f"{theirs}.{i}.{name}", f"{ours}/{part}"
            if part.startswith("scale"):
                yield here, Place((d,), there, layer=i)
            elif part.startswith("norm"):
                yield from _norm(here, there, d, i).items()
            else:
                out = wide.get(part, (d, d))
                yield f"{here}.weight", Place(out, f"{there}/kernel", (1, 0), i)
                yield f"{here}.bias", Place(out[:1], f"{there}/bias", layer=i)


def _norm(theirs: str, ours: str, d: int, layer: int | None = None) -> Places:
    return {
        f"{theirs}.weight": Place((d,), f"{ours}/scale", layer=layer),
        f"{theirs}.bias": Place((d,), f"{ours}/bias", layer=layer),
    }


def _patches(shape: VitShape, path: str) -> Place:
    return Place((shape.stack.width, 3, shape.patch, shape.patch), path, (2, 3, 1, 0))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of tokens and tables, which torch keeps with leading axes of 1."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape
