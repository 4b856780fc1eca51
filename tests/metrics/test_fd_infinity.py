import numpy as np
import pytest
from scipy.stats import linregress

from diffusion.metrics.fd import frechet_distance
from diffusion.metrics.fd_infinity import fd_infinity, intercept, least_images


def test_the_bias_of_the_generated_side_is_taken_off():
    """Of one distribution FD is a bias that goes as 1/n + 1/m; the part of the m reals is what is left."""
    rng = np.random.default_rng(0)
    generated, real = rng.normal(size=(5000, 24)), rng.normal(size=(15000, 24))
    figure = fd_infinity(generated, real, rng)
    plain = frechet_distance(generated, real)
    assert (figure.n_gen, figure.n_real) == (5000, 15000)
    assert figure.se < plain / 4 and abs(figure.value - plain / 4) < 4 * figure.se


@pytest.mark.parametrize("n, m, d", [(4999, 9000, 4), (9000, 4999, 4), (5100, 9000, 2600)])
def test_refused_below_the_least_number(n, m, d):
    assert least_images(d) == max(5000, 2 * d)
    with pytest.raises(ValueError, match=rf"max\(5000, 2d\) = {least_images(d)} images a side; there are {n} and {m}"):
        fd_infinity(np.zeros((n, d)), np.zeros((m, d)), np.random.default_rng(0))


def test_the_line_is_that_of_scipy():
    x = 1 / np.linspace(2500, 9000, 15)
    y = 3 + 500 * x + np.random.default_rng(0).normal(size=15)
    theirs = linregress(x, y)
    assert intercept(x, y) == pytest.approx((theirs.intercept, theirs.intercept_stderr), rel=1e-9)
