"""Random weights and images for LPIPS, drawn anew wherever they are needed."""

import numpy as np

from diffusion.nets.lpips import TRUNKS, head_shapes, trunk_shapes

SIDES = {"alex": (37, 45), "vgg": (21, 35)}  # pools meet odd sides, so that floor and ceil differ


def tensors(net: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(torchvision's tensors, the heads) under their published names, f32; activations keep their size."""
    rng = np.random.default_rng(sorted(TRUNKS).index(net))
    trunk = {
        name: (rng.normal(size=shape) * (np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1)).astype(np.float32)
        for name, shape in trunk_shapes(net).items()
    }
    heads = {name: rng.uniform(0, 1, shape).astype(np.float32) for name, shape in head_shapes(net).items()}
    return trunk, heads


def pairs(net: str) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of images, u8[4 h w 3]: one pair far apart, one near, one half dark, one equal."""
    rng = np.random.default_rng(5)
    x, y = (rng.integers(0, 256, (4, *SIDES[net], 3)).astype(np.uint8) for _ in range(2))
    y[1] = np.clip(x[1].astype(int) + rng.integers(-8, 9, x[1].shape), 0, 255)
    x[2, : SIDES[net][0] // 2] = 0
    y[3] = x[3]
    return x, y
