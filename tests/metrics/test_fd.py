import numpy as np
import pytest
from scipy.linalg import sqrtm

from diffusion.metrics.fd import frechet_distance, frechet_from_statistics, frechet_se
from diffusion.metrics.floor import half_split

SHAPES = [(10, 10, 30), (200, 200, 20), (12, 31, 30), (40, 200, 30), (100, 17, 16)]  # n, m, d


def draw(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features with a column that is always 0 on both sides, as a dead unit gives."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    x, y = rng.normal(size=(n, d)) @ mix, rng.normal(size=(m, d)) @ mix * 1.3 + 0.2
    x[:, 0] = y[:, 0] = 0
    return x, y


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x.T)


def trace(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)))


def by_root(x: np.ndarray, y: np.ndarray, shared) -> float:
    (mx, sx), (my, sy) = statistics(x), statistics(y)
    return float(np.sum((mx - my) ** 2) + np.trace(sx) + np.trace(sy) - 2 * shared(sx, sy, x, y))


def eigh_root(sx, sy, x, y):
    values, vectors = np.linalg.eigh(sx)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return np.sqrt(np.linalg.eigvalsh(root @ sy @ root).clip(0)).sum()


def gram_root(sx, sy, x, y):
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    return np.linalg.norm(a @ b.T, "nuc")


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_other_ways_to_compute_it(shape):
    x, y = draw(*shape)
    value, scale = frechet_distance(x, y), trace(x, y)
    assert value == pytest.approx(by_root(x, y, gram_root), abs=1e-10 * scale)
    singular = min(shape[:2]) <= shape[2]
    assert value == pytest.approx(by_root(x, y, eigh_root), abs=1e-6 * scale)
    x, y = (z[:, 1:] for z in (x, y))  # without the dead column the covariances of n > d are regular
    value = frechet_distance(x, y)
    reference = by_root(x, y, lambda sx, sy, *_: sqrtm(sx @ sy).real.trace())
    assert value == pytest.approx(reference, abs=1e-6 * scale if singular else 1e-9 * value)
    if not singular:
        assert value == pytest.approx(by_root(x, y, eigh_root), rel=1e-10)


@pytest.mark.parametrize("shape", [(40, 30, 6), (7, 9, 12)])
def test_from_statistics(shape):
    x, y = draw(*shape)
    value = frechet_from_statistics(*statistics(x), *statistics(y))
    assert value == pytest.approx(frechet_distance(x, y), abs=1e-7 * trace(x, y))


def test_closed_forms():
    d, m, s = 5, np.arange(5.0), 1.7
    assert frechet_from_statistics(np.zeros(d), np.eye(d), m, s**2 * np.eye(d)) == pytest.approx(
        m @ m + d * (1 - s) ** 2, abs=1e-10
    )
    cov = np.cov(np.random.default_rng(1).normal(size=(5, 40)))
    assert frechet_from_statistics(np.zeros(d), cov, m, cov) == pytest.approx(m @ m, abs=1e-10)


@pytest.mark.parametrize(
    "cov, said",
    [
        (np.diag([1.0, -1.0]), "semi-definite"),
        (np.array([[1.0, 0.5], [0, 1]]), "symmetric"),
        (np.ones((2, 3)), r"symmetric \[d d\]"),
    ],
)
def test_what_is_no_covariance_is_refused(cov, said):
    with pytest.raises(ValueError, match=said):
        frechet_from_statistics(np.zeros(2), np.eye(2), np.zeros(2), cov)


@pytest.mark.parametrize("shape", SHAPES)
def test_invariances(shape):
    x, y = draw(*shape)
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(shape[2], shape[2])))[0]
    value, tolerance = frechet_distance(x, y), 1e-9 * trace(x, y)
    assert value > 100 * tolerance
    assert frechet_distance(x, x) == pytest.approx(0, abs=tolerance)
    for a, b in ((y, x), (rng.permutation(x), rng.permutation(y)), (x @ turn, y @ turn), (x + 7, y + 7)):
        assert frechet_distance(a, b) == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_features_in_padded_batches_lose_little(shape):
    """As an evaluation gives them: single precision, out of padded batches, invalid rows dropped by their mask."""
    x, y = draw(*shape)
    sides = []
    for z in (x, y):
        batches = -(-len(z) // 8)
        padded = np.full((batches, 8, z.shape[1]), np.nan, np.float32)
        valid = np.arange(batches * 8).reshape(batches, 8) < len(z)
        padded[valid] = z
        sides.append(padded[valid])
    assert frechet_distance(*sides) == pytest.approx(frechet_distance(x, y), abs=1e-5 * trace(x, y))


def test_covariance_has_ddof_1():
    x = np.array([[0.0], [2.0]])
    assert frechet_distance(x, np.array([[0.0], [0.0]])) == pytest.approx(1 + 2, abs=1e-12)


@pytest.mark.parametrize("n, m", [(1, 5), (5, 1), (0, 5)])
def test_too_few_rows(n, m):
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(np.ones((n, 3)), np.ones((m, 3)))
    with pytest.raises(ValueError, match="at least 3"):
        frechet_se(np.ones((2, 3)), np.ones((5, 3)))


def test_widths_must_agree():
    with pytest.raises(ValueError, match="3 columns on one side and 4"):
        frechet_distance(np.ones((5, 3)), np.ones((5, 4)))


@pytest.mark.parametrize("shape", [*SHAPES, (3, 3, 8), (25, 60, 40), (60, 25, 40)])
def test_error_is_the_jackknife_of_the_distance(shape):
    x, y = draw(*shape)
    value, total = frechet_distance(x, y), 0.0
    for z, distance in ((x, lambda rest: frechet_distance(rest, y)), (y, lambda rest: frechet_distance(x, rest))):
        group = np.arange(len(z)) % min(20, len(z))
        h = len(z) / np.bincount(group)
        without = np.array([distance(z[group != g]) for g in range(len(h))])
        pseudo = h * value - (h - 1) * without
        total += np.mean((pseudo - np.average(pseudo, weights=1 / h)) ** 2 / (h - 1))
    assert frechet_se(x, y) == pytest.approx(np.sqrt(total), rel=1e-5)


@pytest.mark.parametrize("n, m, d", [(33, 33, 16), (30, 47, 64), (120, 60, 8)])
def test_jackknife_error_is_the_spread_of_replicates(n, m, d):
    pairs = [_drawn(n, m, d, seed) for seed in range(200)]
    spread = np.std([frechet_distance(x, y) for x, y in pairs])
    errors = np.mean([frechet_se(x, y) for x, y in pairs[:40]])
    assert errors == pytest.approx(spread, rel=0.3)


def _drawn(n: int, m: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    mix = np.random.default_rng(99).normal(size=(d, d)) / np.sqrt(d)
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)) @ mix, rng.normal(size=(m, d)) @ mix * 1.2 + 0.2
    return np.maximum(x, 0), np.maximum(y, 0)


@pytest.mark.parametrize("n, m, side", [(20, 20, 10), (20, 21, 10), (20, 39, 19), (20, 41, 20), (4, 100, 4)])
def test_floor_sizes(n, m, side):
    floor = half_split(*draw(n, m, 6), np.random.default_rng(0))
    assert floor.n == side
    assert floor.excess == floor.half - floor.floor


def test_floor_of_a_perfect_generator_leaves_no_excess():
    """Half and floor are then alike on average, though FD itself is far from 0."""
    rng = np.random.default_rng(0)
    sets = [(rng.normal(size=(30, 16)), rng.normal(size=(30, 16))) for _ in range(40)]
    excess = np.array([half_split(x, y, rng).excess for x, y in sets])
    assert abs(excess.mean()) < 4 * excess.std(ddof=1) / np.sqrt(len(excess))
    assert np.mean([frechet_distance(x, y) for x, y in sets]) > 5


def test_floor_uses_disjoint_halves_of_the_reals():
    """Ten distinct points in ten dimensions: halves that shared a point would be closer."""
    reals = 10.0 * np.eye(10)
    floor = half_split(np.zeros((10, 10)), reals, np.random.default_rng(0))
    one, other = reals[:5], reals[5:]
    assert floor.floor == pytest.approx(frechet_distance(one, other), rel=1e-12)
    assert floor.half == pytest.approx(frechet_distance(np.zeros((5, 10)), one), rel=1e-12)
