"""Paired metrics against direct loops and numbers of scikit-image."""

import numpy as np
import pytest

from diffusion.metrics.paired import compare, joined, ssim

# What scikit-image 0.26 says of the pairs that `noisy_pairs` makes; tests/second_opinion/test_skimage.py asks it anew.
SKIMAGE = {(11, 11, 1): 0.916745265729603, (16, 23, 1): 0.9434625250465223, (20, 14, 3): 0.9286019090537064}


def noisy_pairs() -> dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]]:
    """An image and its truth of each shape, f64 in [0, 255]."""
    rng, pairs = np.random.default_rng(3), {}
    for shape in SKIMAGE:
        truth = rng.integers(0, 256, shape).astype(np.float64)
        pairs[shape] = np.clip(truth + rng.normal(0, 30, shape), 0, 255).round(), truth
    return pairs


PAIRS = noisy_pairs()


def images(n: int, shape=(12, 13, 3), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, 256, (n, *shape)).astype(np.uint8) for _ in range(2))


def ssim_by_loops(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Wang 2004, eqs. 13 to 16, one window at a time."""
    offsets = np.arange(11) - 5
    w = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    w /= w.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            for c in range(x.shape[2]):
                a, b = (z[top : top + 11, left : left + 11, c] for z in (x, y))
                ma, mb = np.sum(w * a), np.sum(w * b)
                va, vb, cov = (np.sum(w * p * q) for p, q in ((a - ma, a - ma), (b - mb, b - mb), (a - ma, b - mb)))
                found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize("shape", SKIMAGE, ids=str)
def test_ssim(shape):
    x, y = PAIRS[shape]
    found = ssim(x, y, 255.0)
    assert found == pytest.approx(SKIMAGE[shape], abs=1e-10)
    assert found == pytest.approx(ssim_by_loops(x, y, 255.0), abs=1e-12)


def test_means_over_images_their_errors_and_pooled_values():
    x, y = images(5)
    figures = compare(x, y, 255).figures()
    nmse, rmse, psnr, similar, error, truth = [], [], [], [], 0.0, 0.0
    for a, b in zip(x.astype(float), y.astype(float), strict=True):
        mse = np.mean((a - b) ** 2)
        nmse.append(np.sum((a - b) ** 2) / np.sum(b**2))
        rmse.append(np.sqrt(mse))
        psnr.append(10 * np.log10(255**2 / mse))
        similar.append(ssim_by_loops(a, b, 255.0))
        error, truth = error + np.sum((a - b) ** 2), truth + np.sum(b**2)
    for name, wanted in {"nmse": nmse, "rmse": rmse, "psnr": psnr, "ssim": similar}.items():
        figure = figures[name]
        assert figure.value == pytest.approx(np.mean(wanted), rel=1e-12)
        assert figure.se == pytest.approx(np.std(wanted, ddof=1) / np.sqrt(5), rel=1e-9)
        assert (figure.n_gen, figure.n_real, figure.reason) == (5, 5, "")
    pooled = np.sqrt(error / y.size)
    assert figures["nmse_pooled"].value == pytest.approx(error / truth, rel=1e-12)
    assert figures["rmse_pooled"].value == pytest.approx(pooled, rel=1e-12)
    assert figures["psnr_pooled"].value == pytest.approx(20 * np.log10(255 / pooled), rel=1e-12)
    assert figures["psnr_pooled"].value < figures["psnr"].value  # Jensen: the mean of logarithms is not theirs


def test_psnr_is_of_the_rmse_over_the_range():
    x, y = images(1)
    figures = compare(x, y, 255).figures()
    assert figures["psnr"].value == pytest.approx(-20 * np.log10(figures["rmse"].value / 255), rel=1e-12)
    assert figures["psnr"].se is None and "one image" in figures["psnr"].reason


def test_the_range_is_the_callers():
    """Both ends scaled alike give the same figures but for RMSE."""
    x, y = images(3)
    bytes_, units = compare(x, y, 255).figures(), compare(x / 255, y / 255, 1.0).figures()
    for name in ("nmse", "psnr", "ssim", "psnr_pooled"):
        assert units[name].value == pytest.approx(bytes_[name].value, rel=1e-9), name
    assert compare(x / 255, y / 255, 2.0).figures()["psnr"].value > units["psnr"].value + 6


def test_an_image_that_equals_its_truth():
    x, y = images(3)
    x[1] = y[1]
    figures = compare(x, y, 255).figures()
    assert figures["psnr"].value is None and figures["psnr"].se is None
    assert "1 of 3 images equal their truth" in figures["psnr"].reason
    assert np.isfinite(figures["psnr_pooled"].value) and np.isfinite(figures["nmse"].value)
    exact = compare(y, y, 255).figures()
    assert exact["psnr_pooled"].value is None and "infinite" in exact["psnr_pooled"].reason
    assert exact["nmse"].value == exact["rmse"].value == 0 and exact["ssim"].value == 1


def test_a_truth_of_zeros():
    x, y = images(2)
    y[0] = 0
    figures = compare(x, y, 255).figures()
    assert figures["nmse"].value is None and "1 of 2 truths" in figures["nmse"].reason
    assert np.isfinite(figures["nmse_pooled"].value)
    assert compare(x, 0 * y, 255).figures()["nmse_pooled"].value is None


def test_images_smaller_than_the_window_have_no_ssim():
    x, y = images(2, (8, 8, 1))
    figures = compare(x, y, 255).figures()
    assert figures["ssim"].value is None and "11 x 11" in figures["ssim"].reason
    assert np.isfinite(figures["psnr"].value)


def test_the_parts_of_a_stream():
    x, y = images(5)
    parts = [compare(x[:2], y[:2], 255), compare(x[2:], y[2:], 255)]
    assert joined(parts).figures() == compare(x, y, 255).figures()
    with pytest.raises(ValueError, match="one image size"):
        joined([parts[0], compare(x, y, 1.0)])


@pytest.mark.parametrize(
    "x, y, data_range, said",
    [
        (np.zeros((2, 4, 4, 1)), np.zeros((3, 4, 4, 1)), 1.0, "shape"),
        (np.zeros((0, 4, 4, 1)), np.zeros((0, 4, 4, 1)), 1.0, "n >= 1"),
        (np.full((1, 4, 4, 1), np.nan), np.zeros((1, 4, 4, 1)), 1.0, "not finite"),
        (np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 1)), 0.0, "data_range"),
    ],
)
def test_what_cannot_be_compared_is_named(x, y, data_range, said):
    with pytest.raises(ValueError, match=said):
        compare(x, y, data_range)
