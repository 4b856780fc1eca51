"""Tiny CLIPs and DINOv2s, with weights and inputs that a seed gives, for tests and for the script of their fixture."""

import zlib
from dataclasses import replace

import numpy as np

from diffusion.nets.clip import Clip, ClipShape, TextShape
from diffusion.nets.vit import StackShape, Vit, VitShape
from diffusion.nets.vit_weights import Places, clip_places, dinov2_places

QUICK = StackShape(width=32, depth=2, heads=4, activation="quick_gelu", eps=1e-5)
CLIPS = {
    f"clip_{patch}": ClipShape(
        VitShape(QUICK, size=2 * patch, patch=patch, table=2, pre_norm=True),
        TextShape(replace(QUICK, width=24), vocabulary=60, length=9),
        features=16,
    )
    for patch in (14, 32)
}
GELU = replace(QUICK, activation="gelu", eps=1e-6, layer_scale=True)
DINOV2S = {
    "dinov2_56": VitShape(GELU, size=56, patch=14, table=4),  # as many patches as positions
    "dinov2_28": VitShape(GELU, size=28, patch=14, table=5),
    "dinov2_28_offset": VitShape(GELU, size=28, patch=14, table=5, offset=0.1),
}


def published(name: str) -> tuple[Places, dict[str, np.ndarray]]:
    """The places of a tiny net's weights, and weights under their published names.

    Embeddings are small, so that the eps of the first norm shows; scales are away from 1, biases from 0.
    """
    places = clip_places(CLIPS[name]) if name in CLIPS else dinov2_places(DINOV2S[name])
    return places, {key: np.asarray(_drawn(key, place.shape)) for key, place in places.items()}


def pixels(name: str) -> np.ndarray:
    """Normalised images f32[3 h w 3]."""
    size = (CLIPS[name].image if name in CLIPS else DINOV2S[name]).size
    return np.random.default_rng(1).standard_normal((3, size, size, 3)).astype(np.float32)


def texts(name: str) -> np.ndarray:
    """Ids i32[3 l] of texts that begin with the last token but one and end at different places; the last fills up."""
    text = CLIPS[name].text
    ids = np.random.default_rng(2).integers(0, text.vocabulary - 2, (3, text.length)).astype(np.int32)
    ids[:, 0] = text.vocabulary - 2
    for row, end in enumerate((3, 6, text.length - 1)):
        ids[row, end:] = text.vocabulary - 1
    return ids


def net(name: str) -> Clip | Vit:
    return Clip(CLIPS[name]) if name in CLIPS else Vit(DINOV2S[name])


def _drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if "embed" in key:
        return np.float32(5e-4) * normal
    scales = "norm" in key and key.endswith("weight") or "layer_scale" in key
    return np.float32(scales) + np.float32(0.3) * normal
