"""The per-class figure: how far each class is from real images, with error bars, worst first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion.canvas import BLUE, INK, MUTED, VERMILLION, brief, drawn, entitle, pixels
from diffusion.eval_console import column_of, distance_name, in_order, in_words
from diffusion.metrics import ClassRow

COLUMN_ROWS = 50  # classes in one column of names
NAMED = 150  # classes up to which every one has its name
ENDS = (12, 6)  # worst and best classes that are named beyond
ROW = 0.19  # inches


@dataclass(frozen=True)
class _Dot:
    """One class: its figure, error (None: unknown), images a side, and whether these are enough."""

    name: str
    value: float
    se: float | None
    n: int
    reliable: bool

    @property
    def ends(self) -> tuple[float, float]:
        return self.value - (self.se or 0.0), self.value + (self.se or 0.0)


def class_figure(
    rows: Sequence[ClassRow], extractor: str, errors: Mapping[str, float | None] | None = None
) -> np.ndarray | None:
    """One dot with an error bar per class, the worst at the top; every class by name up to 150, a curve beyond.

    Shown is the excess over real against real; FD or KID where the rows hold no excess. Classes with fewer than 20
    images stand apart, below the others, hollow and with their n.

    Args:
      rows: one per class.
      extractor: whose features were compared; it stands in the title.
      errors: standard error of the shown figure, by class; by default the row's own error of FD, or of KID.

    Returns:
      u8[H W 3]; None where there is nothing to draw: an unlabelled set, or no class with a figure.
    """
    column = column_of(rows)
    if column is None:
        return None
    ordered = [row for row in in_order(rows) if getattr(row, column) is not None]
    dots = [
        _Dot(row.name, getattr(row, column), _error(row, column, errors), min(row.n_gen, row.n_real), not row.flag)
        for row in ordered
    ]
    title, label = _words(column, extractor)
    about = _about(dots, [row for row in rows if getattr(row, column) is None], errors, column)
    draw = _named if len(dots) <= NAMED else _curve
    return draw(dots, title, about, label)


def _words(column: str, extractor: str) -> tuple[str, str]:
    distance = distance_name(extractor)
    return {
        "fd_excess": (
            f"{distance}[{extractor}] above real against real, by class",
            f"excess {distance} (0: as close to the real images as other real images are)",
        ),
        "fd": (f"{distance}[{extractor}], by class", f"{distance} (depends on n; lower is better)"),
        "kid_x1e3": (f"KID[{extractor}], by class", "KID × 1000 (0: same distribution)"),
    }[column]


def _error(row: ClassRow, column: str, errors: Mapping[str, float | None] | None) -> float | None:
    if errors is not None:
        return errors.get(row.name)
    return row.kid_se if column == "kid_x1e3" else row.fd_se


def _about(dots: Sequence[_Dot], absent: Sequence[ClassRow], errors: Any, column: str) -> str:
    good, few = [dot for dot in dots if dot.reliable], [dot for dot in dots if not dot.reliable]
    least, most = min(dot.n for dot in dots), max(dot.n for dot in dots)
    n = f"n = {least}" if least == most else f"n = {least} to {most}"
    of = " of FD" if column == "fd_excess" and errors is None else ""
    lines = [f"{_classes(len(dots))}, {n} generated against as many real images. Bars: ± 1 standard error{of}."]
    if good:
        values = np.array([dot.value for dot in good])
        se = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
        lines.append(f"Mean {in_words(values.mean(), se)}, median {np.median(values):.3g}, over {_classes(len(good))}.")
    if few:
        lines.append(f"Hollow: {_classes(len(few))} with n < 20, unreliable, not in the mean.")
    if absent:
        named = ", ".join(f"{brief(row.name, 20)} (n = {min(row.n_gen, row.n_real)})" for row in absent[:4])
        lines.append(f"No figure: {named}{f' and {len(absent) - 4} more' if len(absent) > 4 else ''}.")
    return "\n".join(lines)


def _classes(n: int) -> str:
    return f"{n} class" if n == 1 else f"{n} classes"


def _named(dots: Sequence[_Dot], title: str, about: str, label: str) -> np.ndarray:
    columns = math.ceil(len(dots) / COLUMN_ROWS)
    deep = math.ceil(len(dots) / columns)
    longest = max(len(brief(dot.name)) for dot in dots)
    limits, say_n = _limits(dots), len({dot.n for dot in dots}) > 1
    with drawn(max(6.4, columns * (3.2 + 0.08 * longest)), max(2.6, 1.75 + ROW * deep)) as figure:
        entitle(figure, title, about)
        figure.get_layout_engine().set(wspace=0.04)
        panels = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
        for panel, start in zip(panels, range(0, len(dots), deep), strict=True):
            panel.set(xlim=limits, ylim=(deep - 0.4, -0.6))
            _panel(panel, dots[start : start + deep], limits, say_n)
        figure.supxlabel(label, size=9)
        return pixels(figure)


def _panel(panel: Any, dots: Sequence[_Dot], limits: tuple[float, float], say_n: bool) -> None:
    """One column of names; what lies beyond the axis is an arrow at its edge, with the figure beside it."""
    panel.grid(axis="x")
    panel.axvline(0, color=INK, linewidth=0.9)
    panel.set_yticks(range(len(dots)), [brief(dot.name) for dot in dots])
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    for place, dot in enumerate(dots):
        colour, fill = (BLUE, BLUE) if dot.reliable else (VERMILLION, "white")
        at = min(max(dot.value, limits[0]), limits[1])
        marker = "o" if at == dot.value else "<" if dot.value < at else ">"
        panel.plot(dot.ends, [place, place], color=colour, linewidth=1.3)
        panel.plot(at, place, marker, color=colour, mfc=fill, mew=1.3, clip_on=False)
        words = ([] if marker == "o" else [f"{dot.value:.3g}"]) + ([f"n {dot.n}"] if say_n else [])
        beside = dict(xycoords=("axes fraction", "data"), textcoords="offset points", annotation_clip=False)
        panel.annotate(
            ", ".join(words),
            (1, place),
            (9, 0),
            size=7.5,
            color=MUTED if dot.reliable else colour,
            va="center",
            **beside,
        )
    edge = next((i for i, dot in enumerate(dots) if not dot.reliable), 0)
    if edge:
        panel.axhline(edge - 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))


def _limits(dots: Sequence[_Dot]) -> tuple[float, float]:
    """Of the axis: all reliable classes with their bars, and the others as far as they do not squeeze these."""
    low, high = _span(dots)
    good = [dot for dot in dots if dot.reliable]
    if good:
        inner_low, inner_high = _span(good)
        room = 0.5 * (inner_high - inner_low)
        low, high = max(low, inner_low - room), min(high, inner_high + room)
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin


def _span(dots: Sequence[_Dot]) -> tuple[float, float]:
    return min(0.0, *(dot.ends[0] for dot in dots)), max(0.0, *(dot.ends[1] for dot in dots))


def _curve(dots: Sequence[_Dot], title: str, about: str, label: str) -> np.ndarray:
    good = [dot for dot in dots if dot.reliable]
    few, limits = dots[len(good) :], _limits(dots)
    with drawn(10.5, 5.2) as figure:
        entitle(figure, title, about)
        panel, words = figure.subplots(1, 2, width_ratios=(2.5, 1))
        panel.grid(axis="y")
        panel.axhline(0, color=INK, linewidth=0.9)
        place, ends = np.arange(1, len(good) + 1), np.array([dot.ends for dot in good]).reshape(-1, 2)
        panel.fill_between(place, *ends.T, color=BLUE, alpha=0.25, linewidth=0, step="mid")
        panel.plot(place, [dot.value for dot in good], color=BLUE, linewidth=1.6)
        values = np.clip([dot.value for dot in few], *limits)
        place = np.arange(len(good) + 1, len(dots) + 1)
        panel.plot(place, values, "o", color=VERMILLION, mfc="white", ms=3, mew=0.8, clip_on=False)
        panel.set(xlim=(-0.01 * len(dots), 1.01 * len(dots)), ylim=limits, ylabel=label.replace(" (", "\n("))
        edge = "; hollow: n < 20, at the edge what lies beyond it" if few else ""
        panel.set_xlabel(f"rank of the class, worst first{edge}")
        _ends(words, good or few)
        return pixels(figure)


def _ends(panel: Any, dots: Sequence[_Dot]) -> None:
    """The worst and the best classes, as text."""
    panel.axis("off")
    worst, best = ENDS
    rows = [("worst", ""), *((in_words(dot.value, dot.se), dot.name) for dot in dots[:worst]), ("", "")]
    rows += [("best", ""), *((in_words(dot.value, dot.se), dot.name) for dot in dots[-best:])]
    for i, (figure, name) in enumerate(rows):
        high = 1 - (i + 0.5) / len(rows)
        words = dict(size=8, va="center", transform=panel.transAxes, in_layout=False)
        panel.text(0, high, figure, weight="normal" if name else "bold", **words)
        panel.text(0.36, high, brief(name, 24), color=MUTED, **words)
