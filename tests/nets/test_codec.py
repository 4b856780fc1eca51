import jax
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


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "fields", [{"channels": 12}, {"channels": 12, "depth": 3, "scale": 0.3, "deviation": 0.1}, {"depth": 0}], ids=str
)
def test_random_conv_takes_back_what_it_made(fields):
    codec = CODECS["random_conv"]((8, 8, 3), **fields)
    x = codec.net_units(codec.frozen, jnp.asarray(IMAGES))
    assert x.shape[1:] == codec.shape((8, 8, 3)) == (4, 4, fields.get("channels", 4))
    back = np.asarray(codec.decode(codec.frozen, x))
    if fields.get("channels") == 12:
        np.testing.assert_array_equal(back, IMAGES)
    else:  # the means of the patches are among what is kept
        means = [a.reshape(3, 4, 2, 4, 2, 3).mean((2, 4), dtype=float) for a in (back, np.clip(IMAGES, 0, 255))]
        assert np.abs(means[0] - means[1]).mean() < 12  # values beyond white and black are clipped
    assert not codec.bounded


def test_random_conv_is_the_same_everywhere_and_another_by_its_seed():
    one, same, other = (CODECS["random_conv"]((8, 8, 1), seed=seed).frozen for seed in (3, 3, 4))
    np.testing.assert_equal(one, same)
    assert one["coupling_0"]["inner"][0, 0, 0, 0] != other["coupling_0"]["inner"][0, 0, 0, 0]
    np.testing.assert_allclose(one["patch"].T @ one["patch"], np.eye(4), atol=1e-6)


def test_what_was_encoded_before_is_drawn_as_images_are():
    codec = CODECS["random_conv"]((8, 8, 3), deviation=0.2)
    images, keys = jnp.asarray(IMAGES), jax.random.split(jax.random.key(0), 3)
    kept = codec.encode(codec.frozen, images)
    assert kept.shape == (3, 4, 4, 8)
    drawn = codec.net_units(codec.frozen, images, keys)
    np.testing.assert_array_equal(codec.net_units(codec.frozen, kept, keys), drawn)
    np.testing.assert_array_equal(codec.net_units(codec.frozen, kept), kept[..., :4])
    share = (drawn - kept[..., :4]) / np.exp(kept[..., 4:] / 2)
    assert 0.8 < float(jnp.std(share)) < 1.2 and abs(float(share.mean())) < 0.3
    assert (
        0.2 / np.e <= float(jnp.exp(kept[..., 4:] / 2).min()) <= float(jnp.exp(kept[..., 4:] / 2).max()) <= 0.2 * np.e
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"factor": 3}, "factor is 3; it must divide the images' sides, 8x8"),
        ({"channels": 13}, r"channels is 13; of these images it must be even and in \[3, 12\]"),
        ({"channels": 5}, "must be even"),
        ({"channels": 2}, r"in \[3, 12\]"),
        ({"width": 0}, "width is 0"),
        ({"depth": -1}, "depth is -1"),
        ({"deviation": -0.1}, "deviation is -0.1"),
        ({"scale": 0.0}, "scale is 0.0; it must be positive"),
        ({"seed": -1}, "seed is -1"),
    ],
    ids=str,
)
def test_random_conv_refuses_what_cannot_be(fields, said):
    with pytest.raises(ValueError, match=f"^{said}" if not said.startswith(("must", "in")) else said):
        CODECS["random_conv"]((8, 8, 3), **fields)
