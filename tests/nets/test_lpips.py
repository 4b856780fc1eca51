"""LPIPS against its authors' package, frozen (scripts/freeze_lpips.py): random weights, so only distances are kept."""

from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion.classifier_fit import scaled
from diffusion.nets import lpips
from diffusion.nets.lpips import ALEX, LEAST, TRUNKS, Conv, Lpips, Pool, distance, params
from tests.nets.lpips_weights import pairs, tensors

FIXTURE = Path(__file__).parent.parent / "fixtures/lpips.npz"


def found(net: str) -> np.ndarray:
    tree = params(net, *tensors(net))
    return np.asarray(jax.jit(Lpips(net).apply)({"params": tree}, *(scaled(images) for images in pairs(net))))


def wanted(net: str) -> np.ndarray:
    with np.load(FIXTURE) as fixture:
        return fixture[net]


@pytest.mark.parametrize("net", TRUNKS)
def test_distances_are_those_of_the_package(net):
    distances = found(net)
    np.testing.assert_allclose(distances, wanted(net), rtol=1e-5, atol=1e-7)
    assert distances[3] < 1e-12 < distances[1] < distances[0]


def with_taps(*indices: int) -> tuple:
    return tuple(x._replace(tap=x.index in indices) if isinstance(x, Conv) else x for x in ALEX)


MUTATIONS = {
    "no unit vectors": ("_unit", lambda x: x),
    "no shift": ("SHIFT", (0.0, 0.0, 0.0)),
    "no scale": ("SCALE", (1.0, 1.0, 1.0)),
    "pools that keep what does not fill a window": ("_pool", None),
    "pools of 2": ("TRUNKS", {"alex": tuple(Pool(2) if isinstance(x, Pool) else x for x in ALEX)}),
    "a map after its pool": ("TRUNKS", None),
    "no first map": ("TRUNKS", {"alex": with_taps(3, 6, 8, 10)}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_shows(name, monkeypatch):
    what, mistake = MUTATIONS[name]
    tree, right = params("alex", *tensors("alex")), wanted("alex")
    if what == "_pool":
        floor = lpips.nn.max_pool
        monkeypatch.setattr(lpips.nn, "max_pool", lambda x, window, strides, padding: floor(x, window, strides, "SAME"))
    elif name == "a map after its pool":
        monkeypatch.setattr(Lpips, "_maps", _pooled_maps(Lpips._maps))
    else:
        monkeypatch.setattr(lpips, what, mistake)
    if name == "no first map":
        tree |= {f"head_{i}": tree[f"head_{i + 1}"] for i in range(4)}
    images = [scaled(images) for images in pairs("alex")]
    wrong = np.asarray(jax.jit(Lpips("alex").apply)({"params": tree}, *images))
    assert np.abs(wrong - right)[:3].max() > 1e-3 * right.max()


def _pooled_maps(right):
    def maps(self, x):
        first, *others = right(self, x)
        return [lpips.nn.max_pool(first, (3, 3), (2, 2)), *others]

    return maps


def test_the_distance_by_hand():
    """Two layers of two channels, one pixel and two."""
    x = [np.array([[[[3.0, 4.0]]]]), np.array([[[[0.0, 2.0]], [[1.0, 0.0]]]])]
    y = [np.array([[[[4.0, 3.0]]]]), np.array([[[[0.0, 5.0]], [[0.0, 0.0]]]])]
    heads = [np.array([1.0, 3.0]), np.array([5.0, 7.0])]
    # layer 1: (.6 - .8)^2 * 1 + (.8 - .6)^2 * 3; layer 2: pixel 1 equal, pixel 2 (1 - 0)^2 * 5
    wanted = 0.04 * 4 + (0 + 5) / 2
    to32 = [[np.float32(layer) for layer in layers] for layers in (x, y, heads)]
    np.testing.assert_allclose(distance(*to32), [wanted], rtol=1e-6)


@pytest.mark.parametrize("net", TRUNKS)
def test_the_smallest_image(net):
    def shape_of(side: int):
        images = np.zeros((1, side, side + 9, 3), np.float32)
        return jax.eval_shape(Lpips(net).init, jax.random.key(0), images, images)

    shape_of(LEAST[net])
    with pytest.raises(ValueError, match=f"at least {LEAST[net]} x {LEAST[net]}"):
        shape_of(LEAST[net] - 1)


@pytest.mark.parametrize("net", TRUNKS)
def test_one_pixel_less_would_leave_a_map_without_pixels(net, monkeypatch):
    least, sides = LEAST[net], []
    monkeypatch.setitem(LEAST, net, 1)
    monkeypatch.setattr(lpips, "distance", lambda x, y, heads: sides.append(min(layer.shape[1] for layer in x)))
    for side in (least, least - 1):
        images = np.zeros((1, side, side, 3), np.float32)
        try:
            jax.eval_shape(Lpips(net).init, jax.random.key(0), images, images)
        except Exception:  # some layers refuse an empty map, others pass it on
            sides.append(0)
    assert sides[0] >= 1 and sides[1] == 0
