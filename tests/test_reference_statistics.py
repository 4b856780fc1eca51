"""Published mean and covariance: taken where they fit the extractor, refused with the reason elsewhere."""

import hashlib

import numpy as np
import pytest

from diffusion.errors import ConfigError
from diffusion.metrics.fd import frechet_distance, frechet_from_statistics
from diffusion.reference_statistics import read_statistics

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(50, 6)), RNG.normal(size=(40, 6)) + 0.3
MU, SIGMA = X.mean(0), np.cov(X, rowvar=False)


def read(path, d: int = 6, **arrays):
    np.savez(path / "theirs.npz", **arrays)
    return read_statistics(str(path / "theirs.npz"), d, extractor="inception-x", field="eval.statistics")


def test_fd_from_a_file(tmp_path):
    found = read(tmp_path, mu=MU, sigma=SIGMA, mu_s=np.zeros(3), sigma_s=np.zeros((3, 3)))
    sha256 = hashlib.sha256((tmp_path / "theirs.npz").read_bytes()).hexdigest()
    assert found.sha256 == sha256
    assert found.label == f"statistics of theirs.npz ({sha256[:8]}), n unknown"
    ours = frechet_from_statistics(found.mean, found.cov, Y.mean(0), np.cov(Y, rowvar=False))
    assert ours == pytest.approx(frechet_distance(X, Y), rel=1e-9)


def test_single_precision_and_singular_covariances_are_taken(tmp_path):
    wide = RNG.normal(size=(20, 300)) * 10.0 ** RNG.uniform(-3, 0, 300)  # rank 19: eigenvalues 0 up to rounding
    found = read(tmp_path, 300, mu=wide.mean(0).astype(np.float32), sigma=np.cov(wide.T).astype(np.float32))
    assert found.mean.dtype == found.cov.dtype == np.float64
    assert np.isfinite(frechet_from_statistics(found.mean, found.cov, found.mean, np.eye(300)))


def without(i: int, j: int, value: float) -> np.ndarray:
    changed = SIGMA.copy()
    changed[i, j] = value
    return changed


BAD = {
    "no sigma": ({"mu": MU}, "no array 'sigma'; there are: mu"),
    "another extractor's": ({"mu": np.zeros(4), "sigma": np.eye(4)}, r"mu is float64\[4\]; inception-x has 6 features"),
    "sigma of another size": ({"mu": MU, "sigma": np.eye(5)}, r"sigma is float64\[5, 5\]; .* \[6, 6\]"),
    "variances alone": ({"mu": MU, "sigma": np.ones(6)}, r"sigma is float64\[6\]"),
    "integers": ({"mu": MU, "sigma": np.eye(6, dtype=int)}, r"sigma is int64"),
    "nan": ({"mu": MU, "sigma": without(2, 2, np.nan)}, "sigma holds 1 values that are not finite"),
    "infinite": ({"mu": np.full(6, np.inf), "sigma": SIGMA}, "mu holds 6 values"),
    "skew": ({"mu": MU, "sigma": without(1, 2, 0.9)}, "not symmetric"),
    "indefinite": ({"mu": MU, "sigma": without(1, 1, -0.5)}, "least eigenvalue is -0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused(tmp_path, name):
    arrays, said = BAD[name]
    with pytest.raises(ConfigError, match=said) as error:
        read(tmp_path, **arrays)
    assert error.value.field == "eval.statistics" and "theirs.npz" in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.npz is no file"):
        read_statistics(str(tmp_path / "nowhere.npz"), 6, extractor="x", field="eval.statistics")
