import jax
import numpy as np
import pytest
from PIL import Image

from diffusion.extractors.pillow import bicubic, resized_uint8

SIZES = [((8, 8), (14, 14)), ((13, 40), (9, 29)), ((45, 30), (28, 28)), ((10, 10), (10, 25)), ((40, 40), (7, 7))]
RANDOM = np.random.default_rng(0)


def images(size: tuple[int, int]) -> np.ndarray:
    """Noise, and black and white, whose edges overshoot."""
    noise = RANDOM.integers(0, 256, (2, *size, 3), np.uint8)
    return np.concatenate([noise, 255 * (noise > 127).astype(np.uint8)])


def by_pillow(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Across, then down; in one call Pillow 13 takes another order where the height shrinks more."""
    across = Image.fromarray(image).resize((size[1], len(image)), Image.Resampling.BICUBIC)
    return np.asarray(across.resize(size[::-1], Image.Resampling.BICUBIC))


def test_square_images_in_one_call():
    for n in (8, 20, 40):
        x = images((n, n))[:1]
        whole = Image.fromarray(x[0]).resize((28, 28), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(resized_uint8(x, (28, 28))[0], np.asarray(whole))


@pytest.mark.parametrize("size, wanted", SIZES)
def test_8_bits_are_those_of_pillow(size, wanted):
    x = images(size)
    found = jax.jit(resized_uint8, static_argnums=1)(x, wanted)
    np.testing.assert_array_equal(found, [by_pillow(image, wanted) for image in x])


@pytest.mark.parametrize("size, wanted", SIZES)
def test_weights_are_those_of_pillow(size, wanted):
    """In its mode "F" nothing is rounded."""
    x = images(size)[:, :, :, 0].astype(np.float32)
    found = bicubic(size[0], wanted[0]) @ x @ bicubic(size[1], wanted[1]).T
    np.testing.assert_allclose(found, [by_pillow(image, wanted) for image in x], rtol=1e-6, atol=255e-6)


def test_weights_of_a_pixel_sum_to_one():
    for n, m in ((8, 224), (1024, 224), (5, 5)):
        np.testing.assert_allclose(bicubic(n, m).sum(1), np.ones(m), rtol=1e-12)
    np.testing.assert_array_equal(bicubic(5, 5), np.eye(5))


def test_floats_are_refused_as_8_bits():
    with pytest.raises(TypeError, match="takes uint8 images; got float32"):
        resized_uint8(np.zeros((1, 8, 8, 3), np.float32), (4, 4))
