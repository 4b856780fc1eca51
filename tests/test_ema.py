import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import ema
from diffusion.ema import EMAS


@pytest.mark.parametrize(("n", "expected"), [(0, 0.1), (1, 2 / 11), (90, 0.91), (1790, 0.995), (10**6, 0.995)])
def test_warm_up(n, expected):
    np.testing.assert_allclose(EMAS["constant"](decay=0.995).decays["ema"](jnp.int32(n)), expected, rtol=1e-6)


def test_without_warm_up_the_decay_is_the_asked_one():
    assert float(EMAS["constant"](decay=0.5, warmup=False).decays["ema"](jnp.int32(0))) == 0.5


def test_update_is_the_weighted_mean_in_float32():
    params = {"w": jnp.full((3,), 2.0, jnp.bfloat16)}
    averages = ema.update({"w": jnp.ones((3,))}, params, jnp.float32(0.9))
    assert averages["w"].dtype == jnp.float32
    np.testing.assert_allclose(averages["w"], 1.1, rtol=1e-6)


def test_averages_start_as_float32_copies_in_buffers_of_their_own():
    params = {"w": jnp.ones((3,), jnp.float32)}
    averages = ema.init(params)
    jax.jit(lambda p, e: (p["w"] + e["w"], e["w"]), donate_argnums=(0, 1))(params, averages)
    assert ema.init({"w": jnp.ones((3,), jnp.bfloat16)})["w"].dtype == jnp.float32


def test_every_k_updates_moves_once_with_the_kth_power():
    decays = [float(ema.decay_at(jnp.float32(0.9), jnp.int32(n), 4)) for n in range(1, 9)]
    assert decays == [1.0, 1.0, 1.0, pytest.approx(0.9**4), 1.0, 1.0, 1.0, pytest.approx(0.9**4)]


def test_a_decay_of_one_changes_no_bit():
    averages = {"w": jnp.asarray([0.1, -3e-7, 5e20])}
    kept = ema.update(averages, {"w": jnp.asarray([1.7, 2.0, -1.0])}, jnp.float32(1.0))
    np.testing.assert_array_equal(kept["w"], averages["w"])


@pytest.mark.parametrize("name", EMAS)
def test_every_row_forgets_less_with_time(name):
    averages = EMAS[name]()
    assert averages.use == next(iter(averages.decays))
    for decay in averages.decays.values():
        found = np.asarray([float(decay(jnp.int32(n))) for n in (0, 1, 2, 5, 10, 100, 1000, 10**5)])
        assert (found >= 0).all() and (found < 1).all() and (np.diff(found) >= 0).all()


@pytest.mark.parametrize("n", [0, 1, 7, 400, 19_999, 20_000, 10**6])
def test_the_half_life_of_edm(n):
    batch, half_nimg, ramp = 512, 500_000, 0.05  # as in training/training_loop.py of NVlabs/edm, in images
    wanted = 0.5 ** (batch / max(min(half_nimg, n * batch * ramp), 1e-8))
    found = EMAS["halflife"](updates=half_nimg / batch, ramp=ramp).decays["ema"](jnp.int32(n))
    np.testing.assert_allclose(found, wanted, rtol=2e-7)
    np.testing.assert_allclose(EMAS["halflife"](updates=10, ramp=0).decays["ema"](jnp.int32(n)), 0.5**0.1, rtol=2e-7)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.9721986), (0.10, 6.9372039), (18**-0.5, 1.0)])
def test_the_exponent_of_a_width(sigma_rel, gamma):
    """Golden values, and the width of the profile itself: the deviation of t under (gamma + 1) t**gamma on [0, 1]."""
    found = ema.exponent(sigma_rel)
    assert found == pytest.approx(gamma, abs=1e-7)
    moment = [(found + 1) / (found + 1 + k) for k in (1, 2)]
    assert np.sqrt(moment[1] - moment[0] ** 2) == pytest.approx(sigma_rel, rel=1e-9)


def test_power_averages_weigh_the_past_by_their_profiles():
    """The i-th of n weights counts (i**(gamma + 1) - (i - 1)**(gamma + 1)) / n**(gamma + 1): nothing of the start."""
    trajectory, averages = np.random.default_rng(0).normal(size=60), EMAS["power"](sigma_rels=(0.05, 0.1, 0.25))
    held = dict.fromkeys(averages.decays, {"w": jnp.float32(1e3)})
    for n, value in enumerate(trajectory, 1):
        decays = ema.decays_at(averages, jnp.int32(n - 1), every=1)
        held = {name: ema.update(held[name], {"w": jnp.float32(value)}, decay) for name, decay in decays.items()}
    for name, sigma_rel in averages.sigma_rels.items():
        edges = (np.arange(61) / 60) ** (ema.exponent(sigma_rel) + 1)
        np.testing.assert_allclose(held[name]["w"], np.diff(edges) @ trajectory, rtol=3e-5)


@pytest.mark.parametrize("n", [10, 1000, 10**6])
def test_power_decays_keep_their_digits_late_in_training(n):
    gamma = ema.exponent(0.1)
    moves = 1 - float(EMAS["power"]().decays["0.10"](jnp.int32(n - 1)))
    assert moves == pytest.approx(-np.expm1((gamma + 1) * np.log1p(-1 / n)), rel=2**-24 / (gamma / n) + 1e-6)


def test_widths_are_named_with_two_digits_or_more():
    widths = (0.05, 0.1, 0.075, 0.1234)
    assert list(EMAS["power"](sigma_rels=widths).decays) == ["0.05", "0.10", "0.075", "0.1234"]


def test_illegal_numbers_are_named():
    with pytest.raises(ValueError, match="^decay: "):
        EMAS["constant"](decay=1.0)
    with pytest.raises(ValueError, match="^ramp: "):
        EMAS["halflife"](ramp=-1)
    for wrong in (), (0.1, 0.1), (0.0,), (0.3,):
        with pytest.raises(ValueError, match="^sigma_rels: "):
            EMAS["power"](sigma_rels=wrong)
    with pytest.raises(ValueError, match="^every: "):
        ema.decay_at(jnp.float32(0.9), jnp.int32(1), 0)
