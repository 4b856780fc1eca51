import numpy as np
import pytest

from diffusion.metrics import mmd
from diffusion.metrics.clip_metrics import clip_score, cmmd


def by_loops(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """As written in Gretton 2012, eq. 3 and 5."""

    def k(a, b):
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        return np.exp(-np.sum((a - b) ** 2) / (2 * 10**2))

    n, m = len(x), len(y)
    cross = 2 * sum(k(a, b) for a in x for b in y) / (n * m)
    v = sum(k(a, b) for a in x for b in x) / n**2 + sum(k(a, b) for a in y for b in y) / m**2
    u = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    u += sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return {"cmmd_v": 1000 * (v - cross), "cmmd_u": 1000 * (u - cross)}


def draws(seed: int, n: int, m: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6)) + 1, 3 * (rng.normal(size=(m, 6)) + 1 + shift)


@pytest.mark.parametrize("n, m", [(3, 3), (25, 31), (40, 7)])
def test_cmmd_agrees_with_loops(n, m, monkeypatch):
    monkeypatch.setattr(mmd, "CHUNK", 8)
    x, y = draws(n, n, m, 0.2)
    found, wanted = cmmd(x, y), by_loops(x, y)
    assert set(found) == set(wanted)
    for name, figure in found.items():
        assert figure.value == pytest.approx(wanted[name], abs=1e-11)
        assert cmmd(y, x)[name].value == pytest.approx(figure.value, abs=1e-11)
        assert (figure.n_gen, figure.n_real) == (n, m)


def test_cmmd_of_equal_sets_and_of_equal_distributions():
    x, _ = draws(0, 30, 3)
    assert cmmd(x, x)["cmmd_v"].value == pytest.approx(0, abs=1e-11)
    values = {"cmmd_v": [], "cmmd_u": []}
    for seed in range(300):
        for name, figure in cmmd(*draws(seed, 25, 30)).items():
            values[name].append(figure.value)
    u, v = np.array(values["cmmd_u"]), np.array(values["cmmd_v"])
    assert abs(u.mean()) < 4 * u.std(ddof=1) / 300**0.5
    assert (v > 0).all() and (u < 0).any()
    assert v.mean() > 10 * v.std(ddof=1) / 300**0.5


@pytest.mark.parametrize("statistic", ["cmmd_u", "cmmd_v"])
def test_error_of_cmmd_over_replicates(statistic):
    found = [cmmd(*draws(seed, 30, 50, 0.7))[statistic] for seed in range(300)]
    spread = np.std([figure.value for figure in found], ddof=1)
    assert np.mean([figure.se for figure in found]) == pytest.approx(spread, rel=0.3)


def test_clip_score_by_hand():
    images = np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 5]])
    texts = np.array([[1.0, 0, 0], [0, 1, 1], [1, 0, 0]])
    figure = clip_score(images, texts)
    cosines = np.array([1, 0.5**0.5, 0])
    assert figure.value == pytest.approx(100 * cosines.mean(), rel=1e-12)
    assert figure.se == pytest.approx(100 * cosines.std(ddof=1) / 3**0.5, rel=1e-12)
    assert (figure.n_gen, figure.n_real) == (3, None)


def test_clip_score_clamps_the_mean_not_the_pairs():
    images, texts = np.eye(2), np.array([[1.0, 0], [0, -0.5]])
    assert clip_score(images, texts).value == pytest.approx(0, abs=1e-12)
    assert clip_score(images, np.array([[0.6, 0.8], [0, -1]])).value == 0
    assert clip_score(images, np.array([[1.0, 0], [3, -0.5]])).value > 0
    one = clip_score(images[:1], texts[:1])
    assert (one.value, one.se, one.reason) == (100.0, None, "one image has no error")


def test_refusals():
    good = np.ones((4, 3))
    for call in (clip_score, cmmd):
        with pytest.raises(ValueError, match=r"1 embeddings of .* are 0 or not finite; the first is 2"):
            call(np.where(np.arange(4)[:, None] == 2, np.nan, good), good)
        with pytest.raises(ValueError, match=r"0 or not finite; the first is 1"):
            call(good, np.where(np.arange(4)[:, None] == 1, 0.0, good))
        with pytest.raises(ValueError, match=r"\[n d\]"):
            call(good[0], good)
    with pytest.raises(ValueError, match="each image needs its text"):
        clip_score(good, good[:3])
    with pytest.raises(ValueError, match="at least 3 images"):
        cmmd(good[:2], good)
    with pytest.raises(ValueError, match="3 columns on one side and 2"):
        cmmd(good, good[:, :2])
