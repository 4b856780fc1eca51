import numpy as np
import pytest

from diffusion.data.transforms import Transform, channels, flip, jittered, make_transform, resize_crop, rotated
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


def test_what_came_later_is_in_its_identity_where_it_is_used():
    """Runs begun before could not turn or jitter, and go on."""
    plain = "shape=(8, 8, 1), resize=False, flip=False"
    assert repr(make_transform(0, 0, False, (8, 8, 1))) == f"Transform({plain})"
    assert repr(make_transform(0, 0, False, (8, 8, 1), rotate=5.0)) == f"Transform({plain}, rotate=5.0)"
    assert repr(make_transform(0, 0, False, (8, 8, 1), jitter=0.1)) == f"Transform({plain}, jitter=0.1)"


SMOOTH = (127.5 + 100 * np.sin(np.add.outer(np.arange(24) / 5, np.arange(24) / 7)))[:, :, None].astype(np.uint8)


class TestRotated:
    @pytest.mark.parametrize("c", [1, 3])
    def test_by_nothing_and_by_half_a_turn_it_is_exact(self, c):
        image = RGB[:, :, :c]
        np.testing.assert_array_equal(rotated(image, 0.0), image)
        np.testing.assert_array_equal(rotated(image, 180.0), image[::-1, ::-1])

    def test_counterclockwise(self):
        np.testing.assert_array_equal(rotated(SMOOTH, 90.0), np.rot90(SMOOTH))

    @pytest.mark.parametrize("degrees", [-180.0, -45.0, 3.0, 20.0, 90.0, 135.0])
    @pytest.mark.parametrize("shape", [(1, 1), (2, 9), (9, 2), (24, 24), (40, 40)])
    def test_no_corner_is_black(self, shape, degrees):
        for c in (1, 3):
            turned = rotated(np.full((*shape, c), 200, np.uint8), degrees)
            assert turned.shape == (*shape, c) and turned.dtype == np.uint8 and (turned == 200).all()

    def test_there_and_back_is_where_it_was(self):
        """But for what a u8 loses twice; the corners came from outside."""
        back = rotated(rotated(SMOOTH, 25.0), -25.0).astype(int)
        assert np.abs(back - SMOOTH)[6:-6, 6:-6].max() <= 4
        assert np.abs(rotated(SMOOTH, 25.0).astype(int) - SMOOTH)[6:-6, 6:-6].max() > 20

    def test_the_channels_turn_together(self):
        grey = rotated(SMOOTH, 33.0)
        np.testing.assert_array_equal(rotated(np.repeat(SMOOTH, 3, axis=2), 33.0), np.repeat(grey, 3, axis=2))


class TestJittered:
    def test_by_hand(self):
        image = np.array([[[100], [200]]], np.uint8)
        for brightness, contrast, wanted in [
            (1.0, 1.0, [100, 200]),
            (0.5, 1.0, [50, 100]),
            (1.0, 0.5, [125, 175]),
            (1.0, 1.5, [75, 225]),
            (1.5, 1.5, [113, 255]),  # 112.5 is rounded up, 337.5 clipped
            (1.25, 0.5, [156, 219]),
        ]:
            assert jittered(image, brightness, contrast)[0, :, 0].tolist() == wanted
        assert jittered(image, 0.1, 3.0).dtype == np.uint8 and jittered(image, 1.0, 4.0).min() == 0

    def test_the_channels_share_one_mean(self):
        image = np.array([[[0, 100, 200]]], np.uint8)
        assert jittered(image, 1.0, 0.5).ravel().tolist() == [50, 100, 150]


class TestAugmented:
    def test_each_part_has_its_own_draws_in_this_order(self):
        """Mirrored, turned by (2 u - 1) of the degrees, brightness and contrast by 1 + (2 u - 1) jitter."""
        transform = make_transform(0, 0, True, (6, 4, 3), rotate=40.0, jitter=0.2)
        assert transform.draws == 4
        wanted = jittered(rotated(RGB[:, ::-1], 20.0), 0.9, 1.1)
        np.testing.assert_array_equal(transform(RGB, np.array([0.1, 0.75, 0.25, 0.75])), wanted)

    @pytest.mark.parametrize("fields", [{"rotate": 30.0}, {"jitter": 0.3}, {"rotate": 30.0, "jitter": 0.3}])
    def test_only_draws_augment_and_the_middle_of_them_changes_nothing(self, fields):
        transform = make_transform(0, 0, False, (6, 4, 3), **fields)
        np.testing.assert_array_equal(transform(RGB, None), RGB)
        np.testing.assert_array_equal(transform(RGB, np.full(transform.draws, 0.5)), RGB)
        assert (transform(RGB, np.full(transform.draws, 0.9)) != RGB).any()

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [({"rotate": float("nan")}, "data.rotate: is nan"), ({"jitter": -0.1}, r"data.jitter: is -0.1; .*\[0, 1\)")],
    )
    def test_what_cannot_be_is_refused(self, fields, problem):
        with pytest.raises(ConfigError, match=problem):
            make_transform(0, 0, False, (6, 4, 3), **fields)
