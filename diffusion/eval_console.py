"""What an evaluation says on the console: the classes, the worst first, and those smaller than was asked for."""

import math
from collections.abc import Mapping, Sequence

from diffusion.canvas import brief
from diffusion.metrics import Aggregate, ClassRow

NUMBER = 9  # width of a number
NAME = 32  # longest name that is shown whole
WHOLE = 40  # classes up to which all are shown
WORST, BEST = 20, 5  # shown of more
ANNOUNCED = 20  # classes smaller than asked that are named
COLUMNS = (  # heading, field of `ClassRow`; one that no class has is not shown
    *(("FD", "fd"), ("± se", "fd_se"), ("floor", "fd_floor"), ("excess", "fd_excess")),
    *(("KIDe3", "kid_x1e3"), ("± se", "kid_se")),
    *(("density", "density"), ("cover", "coverage"), ("expect", "coverage_expected")),
)
TOO_FEW = "none: the others have fewer than 20 images"
RANKED_BY = ("fd_excess", "fd", "kid_x1e3")  # what makes a class bad: the first of these that any class has


def distance_name(extractor: str) -> str:
    """ "FID" for features of Inception's last pooling, "FD" for all others."""
    return "FID" if extractor.startswith("inception") and "-tap" not in extractor else "FD"


def in_words(value: float | None, se: float | None = None) -> str:
    """ "1.23 ± 0.45": as many decimals as the error has two digits; "-" for no figure, 4 digits without an error."""
    if value is None:
        return "-"
    if not se:
        return f"{value:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(se)))
    return f"{value:.{decimals}f} ± {se:.{decimals}f}"


def column_of(rows: Sequence[ClassRow]) -> str | None:
    """The field of `ClassRow` that classes are ranked by; None where no class has a figure."""
    return next((name for name in RANKED_BY if any(getattr(row, name) is not None for row in rows)), None)


def in_order(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """The worst first; after all reliable classes those with fewer than 20 images, last those without a figure.

    Excess ranks where it is had: FD itself falls with n, so that it would put the smallest classes first.
    """
    column = column_of(rows)

    def place(row: ClassRow) -> tuple[bool, bool, float]:
        value = None if column is None else getattr(row, column)
        return value is None, bool(row.flag), 0.0 if value is None else -value

    return sorted(rows, key=place)


def row_in_words(row: ClassRow) -> str:
    """ "excess 1.43 ± 0.97, n 100": what a class is ranked by, with the error of its FD, or of its KID."""
    named = {"fd_excess": ("excess", row.fd_se), "fd": ("FD", row.fd_se), "kid_x1e3": ("KIDe3", row.kid_se)}
    column = column_of([row])
    if column is None:
        return f"no figure, n {row.n_gen}"
    word, se = named[column]
    return f"{word} {in_words(getattr(row, column), se)}, n {row.n_gen}"


def worst_and_best(rows: Sequence[ClassRow], worst: int, best: int) -> tuple[list[ClassRow], list[ClassRow]]:
    """(the worst, the worst first; the best, the best last): no class is in both.

    Of the reliable classes, as long as these are enough; of all with a figure otherwise. Of too few the worst go first.
    """
    column = column_of(rows)
    ordered = [row for row in in_order(rows) if column is not None and getattr(row, column) is not None]
    reliable = [row for row in ordered if not row.flag]
    chosen = reliable if len(reliable) >= worst + best else ordered
    if len(chosen) < worst + best:
        half = -(-len(chosen) // 2)
        worst = max(min(worst, half), len(chosen) - best)
    return chosen[:worst], chosen[worst:][-best:] if best else []


def console_table(
    rows: Sequence[ClassRow],
    aggregates: Mapping[str, Aggregate],
    extractor: str,
    accuracy: Mapping[str, float] | None = None,
    *,
    where: str = "",
) -> str:
    """A fixed-width table, the worst class first, with the aggregates below; of many classes both ends alone.

    Args:
      aggregates: by figure, as in ``Scores``; those of groups stand in the JSON alone.
      extractor: stands in the header, ``FD[cls-digits-1a2b3c4d]``; "FID[...]" for Inception features.
      accuracy: share of each class read as asked, in [0, 1], by class.
      where: the file that holds every class, named where the table does not.
    """
    distance = distance_name(extractor)
    shown, gap, left_out = _ends(in_order(rows))
    lines = [f"{distance}[{extractor}]: lower is better; floor: real against real; excess: above that floor"]
    table = _table("class", shown, distance, accuracy)
    if left_out:
        table.insert(1 + gap, left_out + (f": {where}" if where else ""))
    return "\n".join([*lines, *table, *_over_classes(aggregates)])


def groups_table(rows: Sequence[ClassRow], extractor: str) -> str:
    """The same columns for named groups of classes, in their order; the images of a group are compared as one set."""
    return "\n".join(_table("group", rows, distance_name(extractor), None))


def _table(first: str, rows: Sequence[ClassRow], distance: str, accuracy: Mapping[str, float] | None) -> list[str]:
    """A heading and a line per row; a column that no row has is not shown."""
    width = max([len(first), *(len(brief(row.name, NAME)) for row in rows)])
    columns = [(head, field) for head, field in COLUMNS if any(getattr(row, field) is not None for row in rows)]
    heads = ["n", *(distance if head == "FD" else head for head, _ in columns), *(["asked"] if accuracy else [])]
    lines = [f"{first:<{width}}" + "".join(f"{head:>{NUMBER}}" for head in heads)]
    for row in rows:
        line = f"{brief(row.name, NAME):<{width}}{row.n_gen:>{NUMBER}}" + "".join(
            _number(getattr(row, f)) for _, f in columns
        )
        line += _share(accuracy.get(row.name)) if accuracy else ""
        lines.append(f"{line}  {row.flag}".rstrip())
    return lines


def announcements(rows: Sequence[ClassRow], requested: int) -> list[str]:
    """One line for each class that is compared with fewer images than were asked for; of many, the first 20.

    Classes of which one side has no image share a line.
    """
    small = [row for row in rows if 0 < row.n_gen < requested]
    none = [brief(row.name, NAME) for row in rows if not row.n_gen]
    lines = [
        f"{len(none)} of {len(rows)} classes have no images on one of the sides: {', '.join(none[:ANNOUNCED])}"
        + (", ..." if len(none) > ANNOUNCED else "")
    ] * bool(none)
    lines += [
        f"class {row.name}: {row.n_gen} images a side instead of the {requested} requested"
        + (f" ({row.flag}: {_instead(row)}, it is left out of the aggregates)" if row.flag else "")
        for row in small[:ANNOUNCED]
    ]
    rest = small[ANNOUNCED:]
    if rest:
        flagged = sum(bool(row.flag) for row in rest)
        least, most = min(row.n_gen for row in rest), max(row.n_gen for row in rest)
        lines.append(
            f"and {len(rest)} more classes: {least} to {most} images a side"
            + (f" ({flagged} of them {next(row.flag for row in rest if row.flag)})" if flagged else "")
        )
    return lines


def _instead(row: ClassRow) -> str:
    return "read its KID" if row.n_gen > 1 else "no distance can be had"


def _ends(ordered: Sequence[ClassRow]) -> tuple[Sequence[ClassRow], int, str]:
    """(rows to show, place of the line about the others, that line)."""
    if len(ordered) <= WHOLE:
        return ordered, 0, ""
    worst, best = worst_and_best(ordered, WORST, BEST)
    others = sum(bool(row.flag) for row in ordered) - sum(bool(row.flag) for row in (*worst, *best))
    of_these = f", {others} of them with too few images" if others else ""
    line = f"... {len(ordered) - WORST - BEST} more classes{of_these}; then the best {BEST}; every class"
    return [*worst, *best], WORST, line


def _over_classes(aggregates: Mapping[str, Aggregate]) -> list[str]:
    """A line per figure: its mean over the classes, and the worst of them."""
    rows = [
        (
            name,
            in_words(total.mean, total.se),
            in_words(total.median),
            f"{total.classes} of {total.of}",
            ", ".join(f"{brief(label, NAME)} {value:.3g}" for label, value in total.worst) or TOO_FEW,
        )
        for name, total in aggregates.items()
        if "/" not in name
    ]
    return aligned([("over classes", "mean ± se", "median", "classes", "worst"), *rows], "<>>><") if rows else []


def aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Lines of columns, two blanks apart, each at its side, ``<`` or ``>``."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{s}{w}}" for cell, s, w in zip(row, sides, wide, strict=True)).rstrip() for row in rows]


def _number(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.3f'):>{NUMBER}}"


def _share(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.1%'):>{NUMBER}}"
