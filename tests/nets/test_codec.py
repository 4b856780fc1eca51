import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.nets.codec import CODECS, from_uint8, to_uint8

EVERY_VALUE = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)


def test_every_value_survives_a_round_trip():
    pixels = CODECS["pixels"]()
    x = pixels.encode(pixels.frozen, EVERY_VALUE)
    assert x.dtype == jnp.float32
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    back = pixels.decode(pixels.frozen, x)
    assert back.dtype == jnp.uint8
    np.testing.assert_array_equal(back, EVERY_VALUE)


@pytest.mark.parametrize(
    ("level", "value"),
    [(0.49, 0), (0.5, 1), (1.5, 2), (2.5, 3), (127.4, 127), (127.5, 128), (254.5, 255), (-40, 0), (300, 255)],
)
def test_to_uint8_rounds_half_up_and_clips(level, value):
    assert int(to_uint8(jnp.float32(level) / 127.5 - 1.0)) == value


def test_from_uint8_is_linear_and_leaves_floats_alone():
    np.testing.assert_allclose(from_uint8(jnp.asarray([0, 51, 255], jnp.uint8)), [-1.0, -0.6, 1.0], rtol=1e-6)
    floats = jnp.asarray([-3.0, 0.2, 9.0])
    assert from_uint8(floats) is floats


def test_pixels_keep_their_shape_and_are_bounded():
    pixels = CODECS["pixels"]()
    assert pixels.shape((8, 9, 3)) == (8, 9, 3)
    assert pixels.bounded and pixels.frozen is None


def test_latents_are_scaled_and_shown_in_three_channels():
    codec = CODECS["latents"](scale=0.5, shift=1.0)
    x = codec.encode(codec.frozen, jnp.full((1, 2, 2, 4), 7.0, jnp.float16))
    assert x.dtype == jnp.float32 and (np.asarray(x) == 3.0).all() and not codec.bounded
    shown = codec.decode(codec.frozen, jnp.broadcast_to(jnp.asarray([3.0, -3.0, 0.0, 9.0]), (1, 2, 2, 4)))
    assert shown.dtype == jnp.uint8
    np.testing.assert_array_equal(shown[0, 0, 0], [255, 0, 128])
    assert codec.decode(codec.frozen, jnp.zeros((1, 2, 2, 2))).shape == (1, 2, 2, 1)
