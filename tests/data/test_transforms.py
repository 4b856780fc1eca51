import numpy as np
import pytest

from diffusion.data.transforms import Transform, channels, flip, make_transform, resize_crop
from diffusion.errors import ConfigError, DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)


class TestChannels:
    def test_grey_is_repeated_and_comes_back(self):
        grey = RGB[:, :, :1]
        np.testing.assert_array_equal(channels(grey, 3), np.concatenate([grey] * 3, axis=2))
        np.testing.assert_array_equal(channels(channels(grey, 3), 1), grey)

    def test_luma_is_rounded_half_up(self):
        pixels = np.array([[[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]], np.uint8)
        assert channels(pixels, 1)[0, :, 0].tolist() == [255, 76, 150, 29, 0]

    @pytest.mark.parametrize("c", [1, 3])
    def test_what_fits_is_not_touched(self, c):
        image = RGB[:, :, :c]
        assert channels(image, c) is image


class TestResizeCrop:
    @pytest.mark.parametrize("c", [1, 3])
    @pytest.mark.parametrize("shape", [(12, 8), (8, 12), (5, 31), (3, 3), (1, 9)])
    @pytest.mark.parametrize("size", [4, 8])
    def test_any_image_becomes_square(self, shape, c, size):
        image = np.full((*shape, c), 77, np.uint8)
        result = resize_crop(image, size)
        assert result.shape == (size, size, c) and result.dtype == np.uint8
        assert np.all(result == 77)

    def test_the_centre_is_kept(self):
        image = np.zeros((4, 12, 1), np.uint8)
        image[:, 4:8] = 200
        assert np.all(resize_crop(image, 4) == 200)

    def test_shrinking_averages_instead_of_picking(self):
        stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))[:, :, None]
        inside = resize_crop(stripes, 8)[2:-2, 2:-2]
        assert np.all(np.abs(inside.astype(int) - 128) < 16)

    def test_what_fits_is_not_touched(self):
        image = RGB[:4]
        assert resize_crop(image, 4) is image


@pytest.mark.parametrize(("u", "mirrored"), [(0.0, True), (0.499, True), (0.5, False), (0.999, False)])
def test_flip_mirrors_left_to_right_half_of_the_time(u, mirrored):
    np.testing.assert_array_equal(flip(RGB, u), RGB[:, ::-1] if mirrored else RGB)


@pytest.mark.parametrize(
    ("size", "c", "native", "shape"),
    [
        (0, 0, (6, 4, 3), (6, 4, 3)),
        (0, 1, (6, 4, 3), (6, 4, 1)),
        (5, 0, (6, 4, 3), (5, 5, 3)),
        (5, 1, None, (5, 5, 1)),
    ],
)
def test_shape_is_known_beforehand_and_kept(size, c, native, shape):
    transform = make_transform(size, c, False, native)
    assert transform.shape == shape
    result = transform(RGB, None)
    assert result.shape == shape and result.dtype == np.uint8


@pytest.mark.parametrize(
    ("size", "c", "native", "problem"),
    [
        (0, 1, None, "data.size: is 0"),
        (8, 0, None, "data.channels: is 0"),
        (8, 2, (8, 8, 1), "data.channels: is 2"),
        (-1, 1, (8, 8, 1), "data.size: is -1"),
    ],
)
def test_what_cannot_be_known_is_refused(size, c, native, problem):
    with pytest.raises(ConfigError, match=problem):
        make_transform(size, c, False, native)


def test_without_a_size_a_differing_record_is_refused():
    with pytest.raises(DataError, match="is 6x4 pixels, the set is 4x4; set data.size"):
        make_transform(0, 0, False, (4, 4, 3))(RGB, None)


def test_only_draws_augment():
    transform = make_transform(0, 0, True, (6, 4, 3))
    np.testing.assert_array_equal(transform(RGB, None), RGB)
    np.testing.assert_array_equal(transform(RGB, np.array([0.1])), RGB[:, ::-1])
    assert transform.draws == 1 and make_transform(0, 0, False, (6, 4, 3)).draws == 0


def test_its_identity_is_its_settings():
    assert repr(make_transform(0, 0, True, (8, 8, 1))) == repr(Transform((8, 8, 1), resize=False, flip=True))
    assert repr(make_transform(0, 0, True, (8, 8, 1))) != repr(make_transform(0, 0, False, (8, 8, 1)))
