"""Random weights and images for the Inception net, and what the public PyTorch network makes of them."""

import hashlib
import importlib.util
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).parent.parent / "tests" / "fixtures" / "inception.npz"
SIDE = 107  # the last maps are then 2 x 2: small, but a mean and a maximum differ
TAPS = ("64", "192", "768", "2048", "logits_unbiased", "logits")


def images() -> np.ndarray:
    """u8[2 40 52 3]: blocks of noise, so that neighbouring pixels are alike in part."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 192, (2, 10, 13, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return (coarse + rng.integers(0, 64, (2, 40, 52, 3))).astype(np.uint8)


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights under which the maps keep about the same size from layer to layer; always the same ones."""
    rng = np.random.default_rng(0)
    return {name: _random(rng, name, shapes[name]) for name in sorted(shapes)}


def digest(weights: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(np.ascontiguousarray(weights[name]))
    return found.hexdigest()


def theirs(weights: Mapping[str, np.ndarray], images: np.ndarray, side: int) -> dict[str, np.ndarray]:
    """What torch-fidelity's network, resize and normalisation make of uint8 images; needs torch."""
    import torch

    bare_torch_fidelity()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in weights.items()}
    load, torch.load = torch.load, lambda *_, **__: _Lenient(state)
    try:
        net = FeatureExtractorInceptionV3("inception", list(TAPS), "random")
    finally:
        torch.load = load
    net.INPUT_IMAGE_SIZE = side
    with torch.no_grad():
        found = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return {name: tensor.numpy() for name, tensor in zip(TAPS, found, strict=True)}


class _Lenient(dict):
    """A state dict that holds every counter that torch's BatchNorm asks for."""

    def __init__(self, state):
        import torch

        counters = {name.replace("running_mean", "num_batches_tracked") for name in state if "running_mean" in name}
        super().__init__(state | {name: torch.tensor(0) for name in counters})


def bare_torch_fidelity() -> None:
    """Lets one module be imported without the package's ``__init__``, which wants a dozen others."""
    if "torch_fidelity" not in sys.modules:
        spec = importlib.util.find_spec("torch_fidelity")
        bare = types.ModuleType("torch_fidelity")
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules["torch_fidelity"] = bare


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = rng.random(shape, dtype=np.float32)  # [0, 1): the draw that no release of NumPy has changed
    if name.endswith(("bn.weight", "running_var")):
        return drawn + np.float32(0.5)
    centred = drawn - np.float32(0.5)
    if len(shape) == 1:
        return centred
    return centred * np.float32(np.sqrt(24 / np.prod(shape[1:])))
