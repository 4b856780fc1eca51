"""Sheets of sets and of supports: what stands where, with few images, many, or none; and names of what is evaluated."""

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion import events
from diffusion.eval_sheets import GAP, HEAD, ClassImages, set_sheet, support_sheet
from diffusion.variants import Variant
from diffusion.writers import MultiWriter
from tests.fewshot_runs import SETS
from tests.tiny import program

TILE, TITLE = 50, HEAD + 14
COLUMNS = {"support": 5, "generated": 6, "real": 4}


def images(n: int, shade: int, c: int = 1) -> np.ndarray:
    return np.full((n, 8, 8, c), shade, np.uint8)


def one(name="3", support=5, generated=6, real=4, c=1) -> ClassImages:
    return ClassImages(name, "5 shown", images(real, 30, c), images(generated, 20, c), images(support, 10, c))


def shades(sheet: np.ndarray) -> dict[int, int]:
    """{shade of a kind of tile: how many tiles have it}."""
    return {shade: round(np.sum(sheet[..., 0] == shade) / 48**2) for shade in (10, 20, 30)}


class TestSets:
    @pytest.mark.parametrize("c", [1, 3])
    @pytest.mark.parametrize("parts", [(1,), (3,), (3, 3), (2, 1)])
    def test_a_row_per_set_with_its_three_sides(self, parts, c):
        sheet = set_sheet({f"part {i}": [one(c=c)] * n for i, n in enumerate(parts)}, COLUMNS)
        rows = sum(parts)
        assert sheet.dtype == np.uint8 and sheet.shape[2] == c
        assert sheet.shape[0] == rows * TILE + len(parts) * (TITLE + 2) + (len(parts) - 1) * (GAP // 2)
        margin = sheet.shape[1] - sum(n * TILE + 2 for n in COLUMNS.values()) - 2 * GAP
        assert 30 < margin < 120, "the names"
        assert shades(sheet) == {10: 5 * rows, 20: 6 * rows, 30: 4 * rows}
        assert np.argmax(sheet[..., 0] == 10, axis=1).max() < np.argmax(sheet[..., 0] == 20, axis=1).max()

    @pytest.mark.parametrize(("support", "generated", "real"), [(0, 1, 1), (2, 3, 1), (5, 1, 0), (9, 9, 9)])
    def test_missing_tiles_are_white_and_more_than_fit_are_left_out(self, support, generated, real):
        few = set_sheet({"a": [one(), one("4", support, generated, real)]}, COLUMNS)
        assert few.shape == set_sheet({"a": [one(), one("4")]}, COLUMNS).shape
        shown = zip((10, 20, 30), (support, generated, real), COLUMNS.values(), (5, 6, 4), strict=True)
        assert shades(few) == {shade: min(n, most) + own for shade, n, most, own in shown}

    def test_a_part_without_sets_is_left_out(self):
        whole = set_sheet({"seen in training": [one()], "never seen": []}, COLUMNS)
        assert whole.shape[0] == TILE + 2 + TITLE

    def test_sides_that_are_not_asked_for_are_left_out(self):
        assert shades(set_sheet({"": [one(real=0)]}, {"support": 5, "generated": 6})) == {10: 5, 20: 6, 30: 0}

    @pytest.mark.parametrize(
        "sets", [[], [one(), one(c=3)], [ClassImages("3", "", images(1, 1), images(1, 1)[:, :4], images(1, 1))]]
    )
    def test_nothing_and_several_sizes_are_refused(self, sets):
        with pytest.raises(ValueError, match="the images of a sheet have one size"):
            set_sheet({"a": sets}, COLUMNS)


class TestSupports:
    @pytest.mark.parametrize("m", [1, 5, 40])
    @pytest.mark.parametrize("n", [1, 16, 17, 64])
    @pytest.mark.parametrize("c", [1, 3])
    def test_the_support_stands_at_the_left_of_what_was_drawn(self, m, n, c):
        sheet = support_sheet(images(m, 10, c), images(n, 20, c))
        assert sheet.dtype == np.uint8 and sheet.shape[2] == c
        assert shades(sheet)[10] == m and shades(sheet)[20] == n
        left, right = (np.flatnonzero((sheet[..., 0] == shade).any(axis=0)) for shade in (10, 20))
        assert left.max() + GAP <= right.min()


class TestGrids:
    def test_a_grid_of_a_run_shows_supports_beside_what_was_drawn(self, tmp_path):
        p = program(tmp_path / "run", **SETS, sample__per_class=2)
        seen = []

        class Seen:
            def image(self, step, name, sheet):
                seen.append((step, name, sheet))

        params = p.diffusion.net.init(jax.random.key(0))
        path = events.sample_grid(p, params, 3, MultiWriter([Seen()]), lambda: None)
        ((step, name, sheet),) = seen
        assert (step, name) == (3, "samples")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), sheet[..., 0])
        # seven classes seen and three never seen, five images of support and two drawn in each row
        assert sheet.shape[0] == 10 * TILE + 2 * (TITLE + 2) + GAP // 2
        assert sheet.shape[1] > 7 * TILE + 4 + GAP


@pytest.mark.parametrize(
    ("variant", "prefix", "suffix"),
    [
        (Variant("ema", 1.5, True), "eval/", ""),
        (Variant("ema", 1.5, True, "birds"), "eval/on=birds/", "_on-birds"),
        (Variant("0.05", 2.0, False), "eval/ema=0.05,guidance=2/", "_ema-0.05_guidance-2"),
        (
            Variant("posthoc:0.07", 2.0, False, "birds"),
            "eval/on=birds/ema=posthoc:0.07,guidance=2/",
            "_on-birds_ema-posthoc_0.07_guidance-2",
        ),
    ],
)
def test_names_say_what_was_evaluated_on_what(variant, prefix, suffix):
    assert (variant.prefix, variant.suffix) == (prefix, suffix)
