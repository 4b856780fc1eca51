import numpy as np
import pytest
from scipy.stats import linregress

from diffusion.metrics.fd import frechet_distance
from diffusion.metrics.fd_infinity import fd_infinity, intercept, least_images


def test_the_bias_is_taken_off():
    """Two sets of one distribution: FD itself is far above 0, its limit is left with the bias of the reals."""
    rng = np.random.default_rng(0)
    generated, real = rng.normal(size=(5000, 32)), rng.normal(size=(60000, 32))
    figure = fd_infinity(generated, real, rng)
    plain = frechet_distance(generated, real)
    assert (figure.n_gen, figure.n_real) == (5000, 60000)
    assert abs(figure.value) < 0.2 * plain and plain > 0.05
    assert 0 < figure.se < 0.2 * plain


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
