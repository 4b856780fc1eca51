import pytest

from diffusion.eval_console import (
    announcements,
    column_of,
    console_table,
    groups_table,
    in_order,
    in_words,
    row_in_words,
    worst_and_best,
)
from diffusion.metrics import Aggregate, ClassRow

ROWS = (
    ClassRow("ant", 30, 30, 1.25, 0.1, 15, 2.5, 2.25, 0.25, 3.5, 0.5),
    ClassRow("bee", 7, 7, 9.0, 2.0, 3, 8.0, 7.5, 0.5, -1.5, 2.5, flag="unreliable"),
    ClassRow("cat", 1, 1, flag="unreliable", reason="1 images a side: a distance needs 2"),
    ClassRow("long-named dog", 30, 30, 1.0, 0.1, 15, 2.5, 2.0, 0.5, 3.5, 0.5),
)
TOTALS = {"fd": Aggregate(2.0, 2.0, 0.75, (("long-named dog", 2.75), ("ant", 1.25)), 2, 4)}
TOTALS["fd/group/winged"] = TOTALS["fd"]
MANY = [ClassRow(f"c{i}", 100, 100, 10.0 + i, 0.1, 50, i + 20.0, 20.0, float(i)) for i in range(990)]
FEW = [ClassRow(f"few{i}", 5, 5, 5000.0, 9.0, 2, 9.0, 8.0, 4000.0, flag="unreliable") for i in range(10)]


def test_table_puts_the_worst_first():
    lines = console_table(ROWS, TOTALS, "cls-toy-12345678", {"ant": 0.975, "bee": 1.0}).splitlines()
    assert lines[0].startswith("FD[cls-toy-12345678]")
    assert [line.split("  ")[0] for line in lines[2:6]] == ["long-named dog", "ant", "bee", "cat"]
    assert lines[4].endswith("unreliable") and "97.5%" in lines[3] and not lines[3].endswith("unreliable")
    assert lines[5].split()[1:3] == ["1", "-"]
    assert lines[6].split() == ["over", "classes", "mean", "±", "se", "median", "classes", "worst"]
    assert lines[7].split("  ")[0] == "fd" and lines[7].endswith("2   2 of 4  long-named dog 2.75, ant 1.25")
    assert "2.00 ± 0.75" in lines[7] and len(lines) == 8, "groups have no line"
    ends = {len(line.removesuffix("  unreliable")) for line in lines[1:6]}
    assert len(ends) == 1, "columns line up"
    assert console_table((), {}, "inception-2015").startswith("FID[inception-2015]")
    assert "asked" not in console_table(ROWS, TOTALS, "cls-toy-12345678")


def test_a_column_that_no_class_has_is_not_shown():
    header = console_table(ROWS, {}, "e").splitlines()[1].split()
    assert header == ["class", "n", "FD", "±", "se", "floor", "excess", "KIDe3", "±", "se"]
    covered = ClassRow("a", 30, 30, kid_x1e3=1.0, density=0.5, coverage=0.75, coverage_expected=0.97)
    lines = console_table([covered, ROWS[2]], {}, "e").splitlines()
    assert lines[1].split() == ["class", "n", "KIDe3", "density", "cover", "expect"]
    assert lines[2].split() == ["a", "30", "1.000", "0.500", "0.750", "0.970"]
    assert lines[3].split() == ["cat", "1", "-", "-", "-", "-", "unreliable"]


def test_groups_have_the_same_columns_in_their_own_order():
    lines = groups_table(ROWS[::-1], "inception-fid-tf-1").splitlines()
    assert lines[0].split()[:3] == ["group", "n", "FID"]
    assert [line.split("  ")[0] for line in lines[1:]] == ["long-named dog", "cat", "bee", "ant"]


def test_classes_rank_by_excess_the_reliable_before_the_small():
    assert [row.name for row in in_order(ROWS)] == ["long-named dog", "ant", "bee", "cat"]
    assert column_of(ROWS) == "fd_excess"
    kid_alone = [ClassRow("a", 30, 30, kid_x1e3=1.0), ClassRow("b", 30, 30, kid_x1e3=2.0)]
    assert column_of(kid_alone) == "kid_x1e3" and [row.name for row in in_order(kid_alone)] == ["b", "a"]
    nothing = [ClassRow("a", 1, 1, flag="unreliable"), ClassRow("b", 1, 1, flag="unreliable")]
    assert column_of(nothing) is None and in_order(nothing) == nothing


@pytest.mark.parametrize(
    "rows, worst, best",
    [
        ([*FEW, *MANY[:8]], ["c7", "c6"], ["c1", "c0"]),
        ([*FEW[:2], *MANY[:2]], ["c1", "c0"], ["few0", "few1"]),
        (MANY[:3], ["c2", "c1"], ["c0"]),
        (MANY[:1], ["c0"], []),
        (ROWS[2:3], [], []),
        ((), [], []),
    ],
)
def test_worst_and_best_are_reliable_where_enough_are(rows, worst, best):
    found = worst_and_best(rows, 2, 2)
    assert [[row.name for row in part] for part in found] == [worst, best]


def test_of_a_thousand_classes_both_ends_are_shown():
    lines = console_table([*FEW, *MANY], {}, "e", where="eval/step_00000010_classes.csv").splitlines()
    names = [line.split()[0] for line in lines[2:]]
    assert names[:20] == [f"c{i}" for i in range(989, 969, -1)]
    assert names[21:] == ["c4", "c3", "c2", "c1", "c0"]
    said = "... 975 more classes, 10 of them with too few images; then the best 5; every class: "
    assert lines[22] == said + "eval/step_00000010_classes.csv"
    few = console_table([ClassRow(f"few{i}", 5, 5, 1.0, flag="unreliable") for i in range(50)], {}, "e").splitlines()
    assert len(few) == 2 + 20 + 1 + 5 and few[22].startswith("... 25 more classes, 25 of them with too few")


def test_no_aggregate_is_said():
    empty = {"fd": Aggregate(None, None, None, (), 0, 2)}
    last = console_table(ROWS[1:3], empty, "e").splitlines()[-1]
    assert last.split()[:5] == ["fd", "-", "-", "0", "of"] and last.endswith("fewer than 20 images")


def test_a_class_in_words():
    assert row_in_words(ROWS[0]) == "excess 0.25 ± 0.10, n 30"
    assert row_in_words(ROWS[2]) == "no figure, n 1"
    assert row_in_words(ClassRow("a", 30, 30, 1.5, 0.1)) == "FD 1.50 ± 0.10, n 30"
    assert row_in_words(ClassRow("a", 30, 30, kid_x1e3=-1.5, kid_se=0.5)) == "KIDe3 -1.50 ± 0.50, n 30"


def test_small_classes_are_announced():
    assert announcements(ROWS, 30) == [
        "class bee: 7 images a side instead of the 30 requested"
        " (unreliable: read its KID, it is left out of the aggregates)",
        "class cat: 1 images a side instead of the 30 requested"
        " (unreliable: no distance can be had, it is left out of the aggregates)",
    ]
    assert len(announcements(ROWS, 50)) == 4


def test_classes_without_images_share_a_line():
    nothing = [ClassRow(f"c{i}", 0, 0, flag="unreliable", reason="no images") for i in range(30)]
    assert announcements([*ROWS[:1], *nothing[:2]], 30) == ["2 of 3 classes have no images on one of the sides: c0, c1"]
    (line,) = announcements(nothing, 30)
    assert line.startswith("30 of 30 classes have no images") and line.endswith("c18, c19, ...")


def test_of_many_small_classes_twenty_are_announced():
    assert len(announcements(MANY[:20], 200)) == 20
    lines = announcements([*MANY, *FEW], 200)
    assert len(lines) == 21 and lines[19].startswith("class c19: 100 ")
    assert lines[20] == "and 980 more classes: 5 to 100 images a side (10 of them unreliable)"
    assert announcements(MANY[:21], 200)[20] == "and 1 more classes: 100 to 100 images a side"


@pytest.mark.parametrize(
    "value, se, words",
    [
        (1.2345, 0.0456, "1.234 ± 0.046"),
        (123.456, 12.3, "123 ± 12"),
        (123.456, 123.0, "123 ± 123"),
        (0.98765, None, "0.9877"),
        (2.0, 0.0, "2"),
        (None, None, "-"),
    ],
)
def test_a_figure_has_the_digits_of_its_error(value, se, words):
    assert in_words(value, se) == words
