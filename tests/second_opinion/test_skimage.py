"""SSIM and PSNR against scikit-image: `make test-second-opinion`."""

import numpy as np
import pytest

from diffusion.metrics.paired import compare

pytestmark = pytest.mark.second_opinion


@pytest.mark.parametrize("shape", [(11, 11, 1), (16, 23, 1), (20, 14, 3)], ids=str)
def test_ssim_and_psnr(shape):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    rng = np.random.default_rng(3)
    truth = rng.integers(0, 256, shape).astype(np.float64)
    image = np.clip(truth + rng.normal(0, 30, shape), 0, 255).round()
    figures = compare(image[None], truth[None], 255).figures()
    wanted = structural_similarity(
        *(image, truth), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2
    )
    assert figures["ssim"].value == pytest.approx(wanted, abs=1e-12)
    assert figures["psnr"].value == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=255), rel=1e-12)
