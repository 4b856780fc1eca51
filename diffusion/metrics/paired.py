"""Distances between an image and its truth: NMSE, RMSE, PSNR and SSIM, of each image and pooled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.metrics.figure import Figure

SIGMA, RADIUS = 1.5, 5  # Wang et al. 2004, sec. III-B: an 11 x 11 Gaussian window
K1, K2 = 0.01, 0.03  # Wang et al. 2004, sec. III-C
WINDOW = 2 * RADIUS + 1


@dataclass(frozen=True, eq=False)
class Pairs:
    """What the metrics need of n pairs; parts of a stream are joined by ``joined``.

    Attributes:
      squared_error: f64[n], sum of (x - y)^2 over an image.
      squared_truth: f64[n], sum of y^2 over an image.
      ssim: f64[n] in [-1, 1]; None where the images are smaller than the window.
      pixels: numbers in one image, h w c.
      data_range: largest possible value less the smallest, 255 for uint8.
    """

    squared_error: np.ndarray
    squared_truth: np.ndarray
    ssim: np.ndarray | None
    pixels: int
    data_range: float

    def figures(self) -> dict[str, Figure]:
        """nmse, rmse, psnr (dB), ssim: means over images; and each ``_pooled``: all images taken as one.

        An image equal to its truth has an infinite PSNR, so their mean is no number either: the value is None and
        the reason counts such images; ``psnr_pooled`` stands beside it unless every image is so. Nothing is clamped.
        NMSE of a truth that is 0 everywhere likewise.
        """
        error, truth, n = self.squared_error, self.squared_truth, len(self.squared_error)
        rmse, pooled_rmse = np.sqrt(error / self.pixels), np.sqrt(error.sum() / (n * self.pixels))
        blank, exact = int(np.sum(truth == 0)), int(np.sum(error == 0))
        no_nmse = f"{blank} of {n} truths are 0 everywhere: their NMSE divides by 0" if blank else ""
        no_psnr = f"{exact} of {n} images equal their truth: their PSNR is infinite" if exact else ""
        no_ssim = f"SSIM needs images of at least {WINDOW} x {WINDOW}" if self.ssim is None else ""
        return {
            "nmse": _figure(no_nmse or error / truth, n),
            "nmse_pooled": _pooled(no_nmse if blank == n else error.sum() / truth.sum(), n),
            "rmse": _figure(rmse, n),
            "rmse_pooled": _pooled(pooled_rmse, n),
            "psnr": _figure(no_psnr or _psnr(rmse, self.data_range), n),
            "psnr_pooled": _pooled(no_psnr if exact == n else _psnr(pooled_rmse, self.data_range), n),
            "ssim": _figure(no_ssim or self.ssim, n),
            # images of one size: the mean of all windows is the mean of the images
            "ssim_pooled": _pooled(no_ssim or self.ssim.mean(), n),
        }


def compare(x: np.ndarray, y: np.ndarray, data_range: float) -> Pairs:
    """Compares images x [n h w c] with their truths y [n h w c], image by image, in float64.

    NMSE = |x - y|^2 / |y|^2, which depends on where 0 lies: both must be on the scale that it is meant for.
    PSNR = -20 log10(RMSE / data_range).

    Args:
      data_range: largest possible value less the smallest (255 for uint8, 2 for [-1, 1]); never guessed.
    Raises:
      ValueError: shapes that differ or are not [n h w c], n = 0, values that are not finite, a range that is not > 0.
    """
    if not (np.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range must be above 0; got {data_range}")
    x, y = (_checked(z, name) for z, name in ((x, "x"), (y, "y")))
    if x.shape != y.shape:
        raise ValueError(f"images have shape {x.shape}, their truths {y.shape}")
    error, truth = (np.sum(z**2, axis=(1, 2, 3)) for z in (x - y, y))
    large = min(x.shape[1:3]) >= WINDOW
    similar = np.array([ssim(*pair, data_range) for pair in zip(x, y, strict=True)]) if large else None
    return Pairs(error, truth, similar, int(np.prod(x.shape[1:])), float(data_range))


def joined(parts: Sequence[Pairs]) -> Pairs:
    """The parts of a stream as one.

    Raises:
      ValueError: no parts, or parts of images of another size or range.
    """
    if len({(part.pixels, part.data_range, part.ssim is None) for part in parts}) != 1:
        raise ValueError("paired metrics need at least one part, all of one image size and data range")
    first = parts[0]
    error, truth = (np.concatenate([getattr(p, name) for p in parts]) for name in ("squared_error", "squared_truth"))
    similar = None if first.ssim is None else np.concatenate([part.ssim for part in parts])
    return Pairs(error, truth, similar, first.pixels, first.data_range)


def ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Structural similarity of x and y f64[h w c], h and w at least 11: Wang et al. 2004, eq. 13.

    Gaussian weights, population covariances, windows that lie inside the image, mean over windows and channels.
    """
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    cov = _blurred(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return float(np.mean(above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def _blurred(x: np.ndarray) -> np.ndarray:
    """Gaussian means over all windows inside x [h w c]: [h-10 w-10 c]."""
    weights = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    weights /= weights.sum()
    height, width = x.shape[0] - 2 * RADIUS, x.shape[1] - 2 * RADIUS
    rows = sum(weight * x[i : i + height] for i, weight in enumerate(weights))
    return sum(weight * rows[:, i : i + width] for i, weight in enumerate(weights))


def _psnr(rmse: np.ndarray, data_range: float) -> np.ndarray:
    return -20 * np.log10(rmse / data_range)


def _figure(values: np.ndarray | str, n: int) -> Figure:
    """Mean and its error of one value per image; a string is the reason why there are none."""
    if isinstance(values, str):
        return Figure(None, None, n, n, values)
    se, reason = (float(values.std(ddof=1) / np.sqrt(n)), "") if n > 1 else (None, "no error from one image")
    return Figure(float(values.mean()), se, n, n, reason)


def _pooled(value: float | str, n: int) -> Figure:
    if isinstance(value, str):
        return Figure(None, None, n, n, value)
    return Figure(float(value), None, n, n, "the images are taken as one, so there is no error")


def _checked(x: np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"paired metrics need images [n h w c], n >= 1; {name} has shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds values that are not finite")
    return x
