import numpy as np
import pytest

from diffusion.metrics import kid_subsets as subsets
from diffusion.metrics import mmd
from diffusion.metrics.kid import kid, kid_with_se


def double_loop(x: np.ndarray, y: np.ndarray) -> float:
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("n, m", [(2, 2), (3, 7), (25, 25), (23, 41)])
def test_agrees_with_a_double_loop(n, m, monkeypatch):
    monkeypatch.setattr(mmd, "CHUNK", 8)
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 4)), rng.normal(size=(m, 4)) + 0.3
    assert kid(x, y) == pytest.approx(double_loop(x, y), abs=1e-12)
    assert kid(y, x) == pytest.approx(kid(x, y), abs=1e-12)


@pytest.mark.parametrize("n, m", [(3, 3), (25, 31)])
def test_error_is_the_jackknife_of_the_double_loop(n, m):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 4)), rng.normal(size=(m, 4)) + 0.3
    value, se = kid_with_se(x, y)
    assert value == kid(x, y)
    total = 0.0
    for z, left_out in ((x, lambda rest: double_loop(rest, y)), (y, lambda rest: double_loop(x, rest))):
        group = np.arange(len(z)) % min(20, len(z))
        h = len(z) / np.bincount(group)
        without = np.array([left_out(z[group != g]) for g in range(len(h))])
        pseudo = h * value - (h - 1) * without
        total += np.mean((pseudo - np.average(pseudo, weights=1 / h)) ** 2 / (h - 1))
    assert se == pytest.approx(np.sqrt(total), rel=1e-9)


@pytest.mark.parametrize("n, m, shift", [(25, 25, 0.0), (30, 50, 0.5)])
def test_mean_and_error_over_replicates(n, m, shift):
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        found.append(kid_with_se(rng.normal(size=(n, 6)), rng.normal(size=(m, 6)) + shift))
    values, errors = np.array(found).T
    if shift == 0:
        assert abs(values.mean()) < 4 * values.std(ddof=1) / np.sqrt(len(values))
        assert (values < 0).any()
    else:
        assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.3)


def test_too_few_rows():
    with pytest.raises(ValueError, match="at least 2"):
        kid(np.ones((1, 3)), np.ones((5, 3)))
    with pytest.raises(ValueError, match="at least 3"):
        kid_with_se(np.ones((2, 3)), np.ones((5, 3)))
    with pytest.raises(ValueError, match="3 columns on one side and 4"):
        kid(np.ones((5, 3)), np.ones((5, 4)))


def test_subsets_as_papers_print_them(monkeypatch):
    monkeypatch.setattr(subsets, "SIZE", 20)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.normal(size=(50, 4)) + 1
    mean, spread = subsets.kid_subsets(x, y, np.random.default_rng(1))
    draw = np.random.default_rng(1)
    values = [kid(x[draw.choice(60, 20, replace=False)], y[draw.choice(50, 20, replace=False)]) for _ in range(100)]
    assert (mean.value, spread.value) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values)))
    assert mean.value == pytest.approx(kid(x, y), rel=0.2) and mean.se is spread.se is None
    assert (mean.n_gen, mean.n_real) == (60, 50)


@pytest.mark.parametrize("n, m", [(20, 20), (9, 9), (9, 30)])
def test_a_subset_that_is_the_whole_set_has_no_deviation(n, m, monkeypatch):
    monkeypatch.setattr(subsets, "SIZE", 20)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 4)), rng.normal(size=(m, 4))
    mean, spread = subsets.kid_subsets(x, y, rng)
    assert spread.value is None and "no meaning" in spread.reason
    assert mean.value == pytest.approx(kid(x, y), abs=1e-12 if n == m else 0.2)
