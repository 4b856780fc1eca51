"""FD extrapolated to infinitely many generated images (Chong & Forsyth 2020, Effectively unbiased FID, sec. 4)."""

import numpy as np

from diffusion.metrics.fd import frechet_distance
from diffusion.metrics.figure import Figure

LEAST = 5000
PER_FEATURE = 2
POINTS = 15


def least_images(d: int) -> int:
    """Fewest images a side: below 2d the bias is not linear in 1/n, and the intercept is wrong by tens."""
    return max(LEAST, PER_FEATURE * d)


def fd_infinity(generated: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> Figure:
    """Intercept of FD(n images, all reals) against 1/n, at 15 sizes from half the least number of images to all.

    Its error is the fit's. The subsets share images, so it is too small; the bias that the number of reals leaves
    stays, as in the paper.

    Raises:
      ValueError: fewer than max(5000, 2d) images on a side.
    """
    least = least_images(generated.shape[1])
    if min(len(generated), len(real)) < least:
        raise ValueError(
            f"FD at infinity needs max({LEAST}, 2d) = {least} images a side; there are {len(generated)} and {len(real)}"
        )
    sizes = np.linspace(least // 2, len(generated), POINTS).astype(int)
    found = [frechet_distance(generated[rng.choice(len(generated), n, replace=False)], real) for n in sizes]
    return Figure(*intercept(1 / sizes, np.array(found)), len(generated), len(real))


def intercept(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Where the least-squares line through (x, y) meets x = 0, and its standard error."""
    away = x - x.mean()
    slope = away @ y / (away @ away)
    value = y.mean() - slope * x.mean()
    noise = np.sum((y - value - slope * x) ** 2) / (len(x) - 2)
    return float(value), float(np.sqrt(noise * (1 / len(x) + x.mean() ** 2 / (away @ away))))
