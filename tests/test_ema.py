import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import ema
from diffusion.ema import EMAS


@pytest.mark.parametrize(("n", "expected"), [(0, 0.1), (1, 2 / 11), (90, 0.91), (1790, 0.995), (10**6, 0.995)])
def test_warm_up(n, expected):
    np.testing.assert_allclose(EMAS["constant"](decay=0.995)(jnp.int32(n)), expected, rtol=1e-6)


def test_without_warm_up_the_decay_is_the_asked_one():
    assert float(EMAS["constant"](decay=0.5, warmup=False)(jnp.int32(0))) == 0.5


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


def test_illegal_numbers_are_named():
    with pytest.raises(ValueError, match="^decay: "):
        EMAS["constant"](decay=1.0)
    with pytest.raises(ValueError, match="^every: "):
        ema.decay_at(jnp.float32(0.9), jnp.int32(1), 0)
