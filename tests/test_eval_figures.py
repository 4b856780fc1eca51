import csv

import numpy as np
import pytest

from diffusion import canvas, class_figure, drawn_rows, eval_curves, eval_sheets, evaluations
from diffusion.errors import UserError
from diffusion.eval_curves import Point
from diffusion.eval_sheets import ClassImages
from diffusion.metrics import ClassRow
from diffusion.metrics.figure import Figure
from diffusion.pictures import save_png

EXTRACTOR = "cls-digits-ebb5c7f3"


def rows(k, few=0):
    """k classes of 100 images and ``few`` more of 1, 2, ... images: the first of these has no figure."""
    rng = np.random.default_rng(0)
    found = [
        ClassRow(f"$\\class$ {i}", 100, 100, 9.0, 0.2, 50, 12.0, 10.0, x) for i, x in enumerate(rng.gamma(2, size=k))
    ]
    sizes = range(1, few + 1)
    return found + [
        ClassRow(f"small {n}", n, n, flag="unreliable", reason="too few")
        if n < 2
        else ClassRow(f"small {n}", n, n, 90.0, 9.0, n // 2, 95.0, 90.0, 80.0 / n - 30, flag="unreliable")
        for n in sizes
    ]


def points(name="fd", emas=("ema",), scales=(1.5,), steps=(100, 200, 300)):
    cases = [(s, e, g) for e in emas for g in scales for s in steps]
    return [Point(s, e, g, name, 300 / s + i / 10, 0.05, 1000, 1000) for i, (s, e, g) in enumerate(cases)]


def tiles(n, c=1, h=8):
    return np.random.default_rng(n).integers(0, 200, (n, h, h, c)).astype(np.uint8)


def is_a_picture(image, least=300):
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert min(image.shape[:2]) >= least and max(image.shape[:2]) < 4000
    assert (image[0] == 255).all() and len(np.unique(image)) > 20, "drawn on white"


@pytest.mark.parametrize("k, few", [(1, 0), (2, 5), (0, 3), (10, 0), (100, 0), (160, 15), (1000, 0)])
def test_class_figure(k, few):
    is_a_picture(class_figure.class_figure(rows(k, few), EXTRACTOR))


def test_class_figure_of_nothing_is_none():
    assert class_figure.class_figure((), EXTRACTOR) is None, "unlabelled"
    assert class_figure.class_figure(rows(0, 1), EXTRACTOR) is None, "no class has a figure"


def test_class_figure_shows_what_there_is():
    """Without excess FD is shown, without FD KID; small classes and other errors change the picture."""
    whole = class_figure.class_figure(rows(5), EXTRACTOR)
    for other in (
        class_figure.class_figure([ClassRow(r.name, 100, 100, r.fd_excess, r.fd_se) for r in rows(5)], EXTRACTOR),
        class_figure.class_figure([ClassRow(r.name, 100, 100, kid_x1e3=r.fd_excess) for r in rows(5)], EXTRACTOR),
        class_figure.class_figure(rows(5), "inception-fid-tf-6726825d"),
    ):
        assert other.shape == whole.shape and (other != whole).any()


def test_bars_are_the_errors_that_are_given():
    narrow, wide, none = (
        class_figure.class_figure(rows(5), EXTRACTOR, {row.name: se for row in rows(5)}) for se in (0.1, 0.5, None)
    )
    assert (narrow != wide).any() and (narrow != none).any()


def test_axis_holds_the_reliable_classes_and_is_not_stretched_by_the_others():
    dot = class_figure._Dot
    good = [dot("a", 1.0, 0.5, 100, True), dot("b", -0.5, 0.25, 100, True)]
    low, high = class_figure._limits([*good, dot("c", 900.0, 90.0, 3, False), dot("d", -900.0, None, 3, False)])
    assert -3 < low < -0.75 and 1.5 < high < 4
    assert class_figure._limits([dot("c", 900.0, 90.0, 3, False)])[1] > 990
    assert class_figure._limits([dot("a", 0.0, None, 30, True)]) == (-1.0, 1.0)


@pytest.mark.parametrize("names", [("fd",), ("fd", "fd/mean"), ("fid", "fid/mean", "kid_x1e3")])
def test_curve_figure(names):
    is_a_picture(eval_curves.curve_figure([p for name in names for p in points(name)], EXTRACTOR))


def test_curve_of_several_averages_has_a_legend():
    one = eval_curves.curve_figure(points(), EXTRACTOR)
    nine = eval_curves.curve_figure(points(emas="abc", scales=(1.0, 1.5, 2.0)), EXTRACTOR)
    is_a_picture(nine)
    assert nine.shape[0] > one.shape[0]


def test_a_curve_needs_two_points_with_a_figure():
    empty = Point(400, "ema", 1.5, "fd", None, reason="too few")
    assert eval_curves.curve_figure(points(steps=(100,)) + [empty], EXTRACTOR) is None
    assert eval_curves.curve_figure(points("kid_x1e3"), EXTRACTOR) is None
    is_a_picture(eval_curves.curve_figure([*points(steps=(100, 200)), empty], EXTRACTOR))


def test_sweep_figure():
    is_a_picture(eval_curves.sweep_figure(points(emas=("a", "b"), scales=(1.0, 2.0), steps=(10,)), EXTRACTOR))
    assert eval_curves.sweep_figure((), EXTRACTOR) is None


def test_figures_over_several_evaluations_say_what_is_lowest_and_of_how_many_classes():
    some = [Point(10, ema, scale, "fd/mean", scale, 0.1, 40, 40) for ema in "ab" for scale in (1.0, 2.0)]
    line_of = eval_curves._line_of(some, False)
    assert eval_curves._lowest(some[0], lambda p: p.guidance_scale, line_of) == "lowest: 1.00 ± 0.10 at 1.0, average a"
    assert eval_curves._line_of(some[:2], False)(some[0]) == ""
    assert eval_curves._line_of(some)(some[1]) == "average a, guidance 2.0"
    counted = [*some, Point(10, "a", 1.0, "fd/classes", 2.0, None, 40, 40)]
    assert eval_curves._about({"mean over classes": some}, counted).startswith(
        "mean over classes: n = 40 in 2 classes;"
    )
    assert eval_curves._about({"pooled": points()}, points()).startswith("pooled: n = 1,000; bars")


@pytest.mark.parametrize(
    "bad, said",
    [(points(scales=(None,), steps=(10,)), "guidance scales"), (points(scales=(1.0, 2.0)), r"\[100, 200, 300\]")],
)
def test_what_is_no_sweep_is_refused(bad, said):
    with pytest.raises(ValueError, match=said):
        eval_curves.sweep_figure(bad, EXTRACTOR)


def test_points_of_an_evaluation_are_its_figures_over_classes():
    figures = {
        "fd": Figure(0.5, 0.1, 30, 30),
        "fd/class/7": Figure(0.7, 0.2, 10, 10),
        "fd/mean": Figure(0.6, None, 30, 30, "few"),
        "fd/se": Figure(0.25, None, 30, 30, "few"),
        "fd/group/a/mean": Figure(None, None, 20, 20, "few"),
        "fd/group/a/se": Figure(None, None, 20, 20, "few"),
        "clip_score": Figure(25.0, 0.5, 30),
    }
    assert eval_curves.points_of(figures, 10, "posthoc:0.07", 2.0) == [
        Point(10, "posthoc:0.07", 2.0, "fd", 0.5, 0.1, 30, 30),
        Point(10, "posthoc:0.07", 2.0, "fd/mean", 0.6, 0.25, 30, 30),
        Point(10, "posthoc:0.07", 2.0, "fd/group/a/mean", None, None, 20, 20, "few"),
        Point(10, "posthoc:0.07", 2.0, "clip_score", 25.0, 0.5, 30),
    ]


def test_curve_csv(tmp_path):
    some = [
        Point(100, "ema", 1.5, "fd", np.float64(0.1), 0.25, 7, 8),
        Point(200, "ema", None, "fd", None, reason="too few"),
    ]
    path = tmp_path / "eval" / "curve.csv"
    eval_curves.write_curve(path, some)
    assert path.read_text() == (
        "step,ema,guidance_scale,name,value,se,n_gen,n_real,reason\n"
        "100,ema,1.5,fd,0.1,0.25,7,8,\n"
        "200,ema,,fd,,,,,too few\n"
    )
    assert [path.name for path in path.parent.iterdir()] == ["curve.csv"]
    with pytest.raises(AttributeError):
        eval_curves.write_curve(path, [None])
    assert len(list(csv.DictReader(path.open()))) == 2, "the old file stands"


@pytest.mark.parametrize("c", [1, 3])
def test_class_sheet_puts_every_image_at_its_place(c):
    one = ClassImages("one", "excess 2.1", tiles(5, c), tiles(3, c))
    two = ClassImages("a class of two", "n 2", tiles(2, c), tiles(2, c)[:0])
    sheet = eval_sheets.class_sheet([one, two], [one], columns=4)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == c
    found = [image for image in tiles(5, c) if _holds(sheet, image)]
    assert len(found) == 4, "what goes beyond the columns is left out"
    assert all(_holds(sheet, image) for image in (*tiles(3, c), *tiles(2, c)))


def _holds(sheet, image):
    big = image.repeat(6, axis=0).repeat(6, axis=1)
    corners = np.argwhere((sheet[: -47 or None, : -47 or None] == image[0, 0]).all(-1))
    return any((sheet[i : i + 48, j : j + 48] == big).all() for i, j in corners)


def test_a_sheet_without_worst_or_best():
    one = ClassImages("1", "", tiles(2), tiles(2))
    whole, part = (eval_sheets.class_sheet([one], best) for best in ([one], []))
    assert whole.shape[1] == part.shape[1] and whole.shape[0] > part.shape[0]


@pytest.mark.parametrize(
    "classes, said",
    [
        ([], "no class"),
        ([ClassImages("1", "", tiles(2), tiles(2, h=9))], r"\(8, 8, 1\), \(9, 9, 1\)"),
        ([ClassImages("1", "", tiles(2).astype(np.float32), tiles(2))], "u8"),
        ([ClassImages("1", "", tiles(2, c=4), tiles(2, c=4))], "u8"),
    ],
)
def test_a_wrong_sheet_is_refused(classes, said):
    with pytest.raises(ValueError, match=said):
        eval_sheets.class_sheet(classes, [])


@pytest.mark.parametrize("p, rows_", [(1, 1), (4, 1), (6, 2), (16, 4), (40, 4)])
def test_pair_sheet(p, rows_):
    made, near = tiles(p, 3), 255 - tiles(p, 3)
    sheet = eval_sheets.pair_sheet(made, near, [f"ratio {i / 10:.2f}" for i in range(p)])
    one = eval_sheets.pair_sheet(made[:1], near[:1], ["ratio 0.00"])
    head = eval_sheets.HEAD + 14
    assert sheet.shape[0] - head == rows_ * (one.shape[0] - head), "four pairs to a row, sixteen at most"
    assert _holds(sheet, made[0]) and _holds(sheet, near[0]) and _holds(sheet, made[min(p, 16) - 1])
    assert p <= 16 or not _holds(sheet, made[16])


@pytest.mark.parametrize(
    "made, near, words, said",
    [
        (tiles(0), tiles(0), [], "one or more"),
        (tiles(2), tiles(3), ["a", "b"], "do not make pairs"),
        (tiles(2), tiles(2), ["a"], "1 texts"),
        (tiles(2) / 255, tiles(2) / 255, ["a", "b"], "u8"),
    ],
)
def test_what_makes_no_pairs_is_refused(made, near, words, said):
    with pytest.raises(ValueError, match=said):
        eval_sheets.pair_sheet(made, near, words)


def test_figures_are_saved_whole_and_are_the_same_every_time(tmp_path):
    figure = class_figure.class_figure(rows(3), EXTRACTOR)
    save_png(tmp_path / "a.png", figure)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(figure, class_figure.class_figure(rows(3), EXTRACTOR))


@pytest.mark.parametrize(
    ("flags", "wanted"), [(("", "", "unreliable"), ["c0", "c1"]), (("unreliable",) * 3, ["c0", "c1", "c2"])]
)
def test_an_unreliable_class_is_neither_worst_nor_best(monkeypatch, flags, wanted):
    """Its excess hides in its error; it would stand under the best, as it is ranked last."""
    some = [ClassRow(f"c{i}", 9, 9, 9.0 - i, 0.1, 4, 9.0, 3.0, 5.0 - i, flag=flag) for i, flag in enumerate(flags)]
    monkeypatch.setattr(drawn_rows, "_shown", lambda compared, row: row.name)
    monkeypatch.setattr(drawn_rows, "class_sheet", lambda worst, best, columns: [*worst, *best])
    assert drawn_rows.best_and_worst(None, tuple(some)) == wanted


def test_no_figure_of_an_evaluation_before_stays(tmp_path):
    path = tmp_path / "eval/step_1_suspicious.png"
    evaluations.save_figure(path, tiles(1)[0])
    assert path.exists()
    evaluations.save_figure(path, None)
    evaluations.save_figure(path, None)
    assert not path.exists()


def test_without_matplotlib_the_command_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        class_figure.class_figure(rows(3), EXTRACTOR)


def test_drawing_leaves_the_style_of_others_alone():
    import matplotlib

    with matplotlib.rc_context({"font.size": 21.0, "text.parse_math": True}):
        before = dict(matplotlib.rcParams)
        with canvas.drawn(2, 2) as figure:
            assert canvas.pixels(figure).shape == (2 * canvas.DPI, 2 * canvas.DPI, 3)
        assert dict(matplotlib.rcParams) == before
