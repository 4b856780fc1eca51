"""Precision, recall, density and coverage against the package of Naeem et al.: `make test-second-opinion`."""

import pytest

from diffusion.metrics.manifold import density_coverage, precision_recall
from tests.metrics.manifold_sets import SHAPES, draw

pytestmark = pytest.mark.second_opinion


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [3, 5])
def test_equal_to_the_prdc_package(shape, k):
    import prdc

    generated, real = draw(*shape)
    theirs = prdc.compute_prdc(real_features=real, fake_features=generated, nearest_k=k)
    ours = precision_recall(generated, real, k) | density_coverage(generated, real, k)
    assert {name: ours[name].value for name in theirs} == theirs
