"""Averages reconstructed from snapshots against the same averages tracked all along, in float64."""

import re

import numpy as np
import pytest

from diffusion import posthoc, snapshots
from diffusion.ema import exponent, width_name
from diffusion.errors import ConfigError, DataError
from diffusion.posthoc import fit
from diffusion.snapshots import Origin

STORED = (0.05, 0.10)
N, EVERY = 4096, 128
TIMES = range(EVERY, N + 1, EVERY)


def tracked(trajectory, sigma_rel):
    """The average after every update, f64[n w], by the recursion of the paper."""
    held, gamma = np.zeros_like(trajectory), exponent(sigma_rel)
    for n in range(1, len(trajectory) + 1):
        decay = (1 - 1 / n) ** (gamma + 1)
        held[n - 1] = decay * held[n - 2] + (1 - decay) * trajectory[n - 1]
    return held


def stored():
    return [(s, time) for time in TIMES for s in STORED]


@pytest.fixture(scope="module")
def noise():
    """256 weights that are white noise in time: whatever a profile misses is seen in full."""
    return np.random.default_rng(0).normal(size=(N, 256))


@pytest.fixture(scope="module")
def kept(noise):
    """(width, time) -> snapshot."""
    averages = {s: tracked(noise, s) for s in STORED}
    return {(s, time): averages[s][time - 1] for s, time in stored()}


@pytest.mark.parametrize("sigma_rel", [0.04, 0.06, 0.075, 0.09, 0.12, 0.2])
def test_a_width_is_that_of_the_average_tracked_all_along(noise, kept, sigma_rel):
    """The error is what the fit says of itself, no more and no less, and small."""
    found = fit(*zip(*stored(), strict=True), sigma_rel, N)
    made = sum(c * kept[term] for c, term in zip(found.coefficients, stored(), strict=True))
    wanted = tracked(noise, sigma_rel)[-1]
    error = np.sqrt(np.mean((made - wanted) ** 2) / np.mean(wanted**2))
    assert 0.7 * found.error < error < 1.4 * found.error
    assert found.error < (1.5e-3 if 0.05 < sigma_rel < 0.10 else 7e-3)
    assert found.coefficients.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("sigma_rel", [0.06, 0.075, 0.09])
def test_weights_that_settle_come_back_to_many_digits(sigma_rel):
    """Weights move by far less than noise does: here each goes to its own end, at its own pace."""
    rate = np.linspace(0.3, 3, 20)
    trajectory = (1 + np.arange(N)[:, None] / 50) ** -rate
    averages = {s: tracked(trajectory, s) for s in STORED}
    found = fit(*zip(*stored(), strict=True), sigma_rel, N)
    made = sum(c * averages[s][t - 1] for c, (s, t) in zip(found.coefficients, stored(), strict=True))
    np.testing.assert_allclose(made, tracked(trajectory, sigma_rel)[-1], rtol=2e-5)


@pytest.mark.parametrize("sigma_rel", STORED)
@pytest.mark.parametrize("time", [EVERY, 16 * EVERY, N])
def test_a_stored_width_is_its_snapshot(kept, sigma_rel, time):
    terms = [term for term in stored() if term[1] <= time]
    found = fit(*zip(*terms, strict=True), sigma_rel, time)
    made = sum(c * kept[term] for c, term in zip(found.coefficients, terms, strict=True))
    np.testing.assert_allclose(made, kept[sigma_rel, time], rtol=0, atol=1e-6 * np.abs(made).max())
    assert found.error < 1e-7


@pytest.mark.parametrize("sigma_rel", [0.03, 0.075, 0.25])
def test_the_fit_solves_the_papers_normal_equations(sigma_rel):
    """Inner products of two profiles in closed form, from their integral up to the earlier end."""
    widths, times = (np.asarray(a) for a in zip(*[(s, t) for s, t in stored() if t % 512 == 0], strict=True))

    def product(a, ta, b, tb):
        first = np.minimum(ta, tb)
        powers = (first / ta) ** (a + 1) * (first / tb) ** (b + 1) / first
        return (a + 1) * (b + 1) / (a + b + 1) * powers

    gamma, t = np.asarray([exponent(s) for s in widths]), times / N
    gram = product(gamma[:, None], t[:, None], gamma[None], t[None])
    wanted = product(gamma, t, exponent(sigma_rel), 1.0)
    solved = np.linalg.solve(gram, wanted)
    found = fit(widths, times, sigma_rel, N)
    np.testing.assert_allclose(found.coefficients, solved / solved.sum(), atol=1e-8 * np.abs(solved).max())


def test_snapshots_of_the_same_update_share_their_part():
    """Steps that are no updates leave two snapshots of one time."""
    once = fit(STORED * 2, (100, 100, 200, 200), 0.07, 200)
    twice = fit(STORED * 3, (100, 100, 200, 200, 200, 200), 0.07, 200)
    halves = twice.coefficients[2:].reshape(2, 2)
    np.testing.assert_allclose(halves[0], halves[1], rtol=1e-9)
    np.testing.assert_allclose(halves.sum(0), once.coefficients[2:], rtol=1e-9)


def leave(workdir, steps=(4, 8, 12), updates=None):
    """Snapshots of two averages of one leaf, f32[3]; returns them by (name, step)."""
    rng, left = np.random.default_rng(1), {}
    for step in steps:
        averages = {width_name(s): {"w": np.float32(rng.normal(size=3))} for s in STORED}
        origin = Origin(step, (updates or {}).get(step, step), dict(zip(averages, STORED, strict=True)))
        snapshots.write(snapshots.path_at(workdir, step), origin, averages)
        left |= {(name, step): tree["w"] for name, tree in averages.items()}
    return left


@pytest.mark.parametrize("step", ["latest", "8"])
def test_files_give_back_their_own_average(tmp_path, step):
    left, at = leave(tmp_path), 12 if step == "latest" else int(step)
    for sigma_rel in STORED:
        origin, arrays, _ = posthoc.reconstruct(tmp_path, sigma_rel, step)
        name = width_name(sigma_rel)
        assert origin == Origin(at, at, {name: sigma_rel})
        np.testing.assert_allclose(arrays[f"{name}/w"], left[name, at], rtol=0, atol=1e-6)
        assert arrays[f"{name}/w"].dtype == np.float32


@pytest.mark.parametrize("step", ["12", "latest"])
def test_files_are_added_with_the_coefficients_of_their_updates(tmp_path, step):
    """Step 4 came before the first update and holds no average yet; of the first 8 steps one was skipped."""
    last = 12 if step == "12" else 16
    left = leave(tmp_path, (4, 8, 12, 16), updates={4: 0, 8: 7, 12: 11, 16: 15})
    _, arrays, _ = posthoc.reconstruct(tmp_path, 0.07, step)
    times = [n for n in (7, 7, 11, 11, 15, 15) if n < last]
    found = fit(STORED * (len(times) // 2), times, 0.07, max(times))
    terms = [left[width_name(s), step] for step in (8, 12, 16) if step <= last for s in STORED]
    np.testing.assert_allclose(arrays["0.07/w"], np.float32(found.coefficients @ np.float64(terms)), rtol=1e-6)


@pytest.mark.parametrize(
    ("steps", "sigma_rel", "step", "field", "said"),
    [
        ((), 0.07, "latest", "ema.snapshot_every", "no snapshots"),
        ((4, 8, 12), 0.07, "9", "posthoc.step", "no snapshot of step 9; there are: 4, 8, 12"),
        ((4, 8, 12), 0.01, "latest", "posthoc.sigma_rel", "0.01 lies outside what 6 averages of widths 0.05, 0.10"),
        ((4, 8, 12), 0.25, "latest", "posthoc.sigma_rel", "of its profile is missed, 10% may be"),
    ],
)
def test_what_cannot_be_reconstructed_is_named(tmp_path, steps, sigma_rel, step, field, said):
    leave(tmp_path, steps)
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        posthoc.reconstruct(tmp_path, sigma_rel, step)
    assert refused.value.field == field


def test_a_damaged_snapshot_is_named(tmp_path):
    """A flipped bit anywhere is seen, or is none of the arrays or of what is said of them."""
    leave(tmp_path)
    path = snapshots.path_at(tmp_path, 8)
    whole, (origin, arrays), seen = path.read_bytes(), snapshots.read(path), 0
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            again = snapshots.read(path)
        except DataError as error:
            assert str(path) in str(error)
            seen += 1
        else:
            assert again[0] == origin
            np.testing.assert_equal(again[1], arrays)
    assert seen > 0.5 * len(range(0, len(whole), 7))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="step_00000008"):
        posthoc.reconstruct(tmp_path, 0.07, "latest")


def test_a_swapped_value_is_seen_by_the_seal(tmp_path):
    """Another whole archive with the header of this one."""
    leave(tmp_path)
    path = snapshots.path_at(tmp_path, 8)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["0.05/w"] = arrays["0.05/w"] + np.float32(1e-6)
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="does not match its checksum"):
        snapshots.read(path)


def test_a_snapshot_is_whole_or_not_there(tmp_path, monkeypatch):
    leave(tmp_path, steps=(4,))
    before = snapshots.path_at(tmp_path, 4).read_bytes()
    leave(tmp_path, steps=(4,))
    assert snapshots.path_at(tmp_path, 4).read_bytes() == before, "the same averages give the same bytes"
    monkeypatch.setattr(snapshots.os, "replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        leave(tmp_path, steps=(4, 8))
    assert [path.name for path in (tmp_path / snapshots.FOLDER).iterdir()] == ["step_00000004.npz"]
    assert snapshots.path_at(tmp_path, 4).read_bytes() == before


def test_later_snapshots_are_forgotten(tmp_path):
    leave(tmp_path)
    (tmp_path / snapshots.FOLDER / ".step_00000016.npz.77").touch()
    snapshots.forget_after(tmp_path, 8)
    assert [path.name for path in snapshots.in_workdir(tmp_path)] == ["step_00000004.npz", "step_00000008.npz"]
    assert len(list((tmp_path / snapshots.FOLDER).iterdir())) == 2
    snapshots.forget_after(tmp_path / "none", 0)
