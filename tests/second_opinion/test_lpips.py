"""LPIPS against its authors' package, on random trunks: `make test-second-opinion`."""

from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion.classifier_fit import scaled
from diffusion.nets.lpips import TRUNKS, Lpips, params
from tests.nets.lpips_weights import pairs, tensors
from tests.second_opinion.lpips_package import answers

pytestmark = pytest.mark.second_opinion


@pytest.mark.parametrize("published_heads", [False, True])
@pytest.mark.parametrize("net", TRUNKS)
def test_lpips(net, published_heads):
    wanted, heads = answers(net, published_heads)
    tree = params(net, tensors(net)[0], heads)
    found = jax.jit(Lpips(net).apply)({"params": tree}, *(scaled(images) for images in pairs(net)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("net", TRUNKS)
def test_the_fixture_is_what_the_package_says(net):
    with np.load(Path(__file__).parent.parent / "fixtures/lpips.npz") as fixture:
        np.testing.assert_allclose(fixture[net], answers(net)[0], rtol=1e-9)
