import numpy as np
import pytest

from diffusion.metrics import distances as module
from diffusion.metrics.distances import distances, nearest
from diffusion.metrics.figure import Figure


def by_loop(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([[np.sqrt(np.sum((a - b) ** 2)) for b in y] for a in x])


@pytest.mark.parametrize("n, m, d", [(1, 1, 1), (23, 41, 4), (40, 9, 300)])
def test_distances_agree_with_a_double_loop(n, m, d, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, d)) + 1e3, rng.normal(size=(m, d)) + 1e3
    np.testing.assert_allclose(distances(x, y), by_loop(x, y), rtol=1e-9)


def test_equal_rows_are_at_distance_0_and_near_ones_keep_their_digits():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 50)) * 10.0 ** rng.uniform(-6, 6, size=(30, 1))
    step = 1e-9 * rng.normal(size=x.shape)
    assert (np.diag(distances(x, x)) == 0).all() and (distances(x, np.roll(x, 1, 0))[1:, 0] > 0).any()
    near = x * (1 + step)
    np.testing.assert_allclose(np.diag(distances(near, x)), np.sqrt(np.sum((near - x) ** 2, axis=1)), rtol=1e-3)


def test_nearest_are_sorted_and_leave_the_row_itself_out(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    x = np.random.default_rng(1).normal(size=(25, 3))
    x[4] = x[9]
    all_of_them = by_loop(x, x)
    found, places = nearest(x, x, 3)
    np.testing.assert_allclose(found, np.sort(all_of_them, axis=1)[:, :3], atol=1e-12)
    assert (found[:, 0] == 0).all()
    np.fill_diagonal(all_of_them, np.inf)
    found, places = nearest(x, x, 3, itself=False)
    np.testing.assert_allclose(found, np.sort(all_of_them, axis=1)[:, :3], atol=1e-12)
    assert (places != np.arange(25)[:, None]).all() and found[4, 0] == 0 and places[4, 0] == 9
    np.testing.assert_allclose(np.take_along_axis(all_of_them, places, 1), found, atol=1e-12)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: distances(np.ones((2, 3)), np.ones((2, 4))), "3 columns on one side and 4"),
        (lambda: distances(np.ones((0, 3)), np.ones((2, 3))), "need rows"),
        (lambda: nearest(np.ones((4, 3)), np.ones((4, 3)), 5), "5 nearest neighbours of 4"),
        (lambda: nearest(np.ones((4, 3)), np.ones((4, 3)), 4, itself=False), "4 nearest neighbours of 3"),
        (lambda: nearest(np.ones((4, 3)), np.ones((5, 3)), 1, itself=False), "rows of one set"),
        (lambda: Figure(None, None, 3), "needs a reason"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_figure_in_another_unit():
    assert Figure(0.5, None, 3, 4, "one group").scaled(1e3) == Figure(500.0, None, 3, 4, "one group")
    assert Figure(0.5, 0.25, 3).scaled(2) == Figure(1.0, 0.5, 3)
