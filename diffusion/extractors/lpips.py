"""Perceptual distances, ``Extractor.distance``: LPIPS, and offline its formula on the data set's own classifier."""

import functools
import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from diffusion.classifier_fit import scaled
from diffusion.errors import ConfigError
from diffusion.extractors.classifier import classifier
from diffusion.extractors.extractor import Extractor, Given, check_images
from diffusion.nets import lpips as net_of
from diffusion.nets.classifier import Classifier
from diffusion.types import Array, Frozen
from diffusion.weight_files import WeightFile, load

TORCHVISION = "https://download.pytorch.org/models"
HEADS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1"

TRUNK_FILES = {  # torchvision puts the first digits of the sha256 into the name
    name: WeightFile((file,), sha256=file.removesuffix(".pth").rsplit("-")[-1], urls=(f"{TORCHVISION}/{file}",))
    for name, file in {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}.items()
}
HEAD_FILES = {  # as the wheel of lpips 0.1.4 on PyPI holds them
    name: WeightFile((f"lpips-{name}-v0.1.pth",), sha256=sha256, urls=(f"{HEADS}/{name}.pth",))
    for name, sha256 in {
        "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    }.items()
}


def lpips(given: Given, *, weights: str = "", heads: str = "", net: str = "alex") -> Extractor:
    """LPIPS v0.1 (Zhang et al. 2018) on torchvision's AlexNet or VGG16.

    Args:
      weights: path or URL of torchvision's file; "" looks in the cache folders.
      heads: path or URL of the linear heads; "" takes those of the installed package lpips, or the cache folders'.
      net: alex (the usual for measuring) or vgg.

    Raises:
      ConfigError: an unknown net, or files that are missing, damaged or another network's.
    """
    if net not in net_of.TRUNKS:
        raise ConfigError("eval.lpips.net", f"is {net!r}; there are: {', '.join(net_of.TRUNKS)}")
    trunk = load(
        *(weights, TRUNK_FILES[net]),
        field="eval.lpips.weights",
        shapes=net_of.trunk_shapes(net),
        ignore=(r"classifier\..*",),
    )
    linear = load(
        heads or _installed_heads(net), HEAD_FILES[net], field="eval.lpips.heads", shapes=net_of.head_shapes(net)
    )
    if negative := [name for name, head in linear.tensors.items() if head.min() < 0]:
        raise ConfigError("eval.lpips.heads", f"{linear.path}: {negative[0]} is negative somewhere: no heads of LPIPS")
    sha256 = hashlib.sha256(f"{trunk.sha256} {linear.sha256}".encode()).hexdigest()
    about = _about("x / 127.5 - 1, then LPIPS' own shift and scale", net_of.LEAST[net])
    about |= {"trunk_sha256": trunk.sha256, "heads_sha256": linear.sha256, "version": "0.1"}
    frozen = jax.tree.map(jnp.asarray, net_of.params(net, trunk.tensors, linear.tensors))
    model = net_of.Lpips(net)

    def distance(frozen: Frozen, x: Array, y: Array) -> Array:
        x, y = (scaled(_three_channels(images)) for images in _checked(x, y))
        return model.apply({"params": frozen}, x, y)

    return Extractor(f"lpips-{net}-{sha256[:8]}", sha256, frozen, _nothing, about, distance=distance)


@functools.wraps(classifier)  # its keywords are the config fields of the classifier, so that both are one network
def on_classifier(given: Given, **recipe) -> Extractor:
    """The formula of LPIPS on the maps of the data set's own classifier, all heads 1; not comparable with LPIPS.

    Zhang et al. 2018, eq. 1 with w = 1: twice the cosine distance, averaged over pixels, summed over maps.
    """
    base = classifier(given, **recipe)
    model = Classifier(given.classes)

    def distance(frozen: Frozen, x: Array, y: Array) -> Array:
        x, y = _checked(x, y)
        _, sown = model.apply({"params": frozen}, scaled(jnp.concatenate([x, y])), mutable=["intermediates"])
        maps = sown["intermediates"]["maps"]
        heads = [jnp.ones(layer.shape[-1]) for layer in maps]
        return net_of.distance([layer[: len(x)] for layer in maps], [layer[len(x) :] for layer in maps], heads)

    about = _about("x / 127.5 - 1", 8) | {"heads": "all 1"}
    name = f"lpips-{base.name}"
    return Extractor(name, base.sha256, base.frozen, _nothing, about, base.accuracy, distance=distance)


def _about(normalisation: str, least_side: int) -> dict:
    shared = {"normalisation": normalisation, "resize": "none", "precision": "float32", "least_side": least_side}
    return shared | {"tap": "unit vectors over channels of every map, spatial mean, sum over maps"}


def _nothing(frozen: Frozen, images: Array) -> dict[str, Array]:
    """These networks are for pairs of images alone."""
    check_images(images)
    return {}


def _checked(x: Array, y: Array) -> tuple[Array, Array]:
    for images in (x, y):
        check_images(images)
    if x.shape != y.shape:
        raise TypeError(f"pairs must be of one shape; got {tuple(x.shape)} and {tuple(y.shape)}")
    return x, y


def _three_channels(images: Array) -> Array:
    return jnp.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def _installed_heads(net: str) -> str:
    """Where the package lpips keeps them, without importing it (it needs torch); "" where it is not installed."""
    found = importlib.util.find_spec("lpips")
    if found is None or not found.submodule_search_locations:
        return ""
    path = Path(found.submodule_search_locations[0]) / "weights/v0.1" / f"{net}.pth"
    return str(path) if path.is_file() else ""


PERCEPTUAL: dict[str, Callable[..., Extractor]] = {"lpips": lpips, "classifier": on_classifier}
