"""Several evaluations side by side: a curve over checkpoints, and a sweep over averages and guidance scales."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.canvas import INK, LINES, MARKERS, MUTED, drawn, entitle, pixels
from diffusion.eval_console import distance_name, in_words
from diffusion.metrics.figure import Figure

PANELS = {"mean over classes": ("fid/mean", "fd/mean"), "pooled": ("fid", "fd")}  # the first name that is there


@dataclass(frozen=True)
class Point:
    """One figure of one evaluation.

    Attributes:
      step: of the weights.
      ema: which average of them.
      guidance_scale: they were sampled with; None where guidance has none.
      name: of the figure, without ``eval/``: "fd", "fd/mean", ...
      value, se: None where it cannot be had.
      n_gen, n_real: images on each side.
      reason: why ``value`` is None, else empty.
    """

    step: int
    ema: str
    guidance_scale: float | None
    name: str
    value: float | None
    se: float | None = None
    n_gen: int | None = None
    n_real: int | None = None
    reason: str = ""


def points_of(
    figures: Mapping[str, Figure], step: int, ema: str = "ema", guidance_scale: float | None = None
) -> list[Point]:
    """The figures of one evaluation but those of single classes; the error of ``/mean`` is the one over classes.

    Args:
      figures: by name, as in ``Scores``.
    """
    found = []
    for name, one in figures.items():
        if "/class/" in name or name.endswith("/se"):
            continue
        se = figures[name.removesuffix("mean") + "se"].value if name.endswith("/mean") else one.se
        reason = one.reason if one.value is None else ""
        found.append(Point(step, ema, guidance_scale, name, one.value, se, one.n_gen, one.n_real, reason))
    return found


def curve_csv(points: Sequence[Point]) -> str:
    """The points as CSV: a header with the fields of `Point`, then a line each; what is None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [field.name for field in fields(Point)]
    writer.writerow(columns)
    for point in points:
        cells = [getattr(point, column) for column in columns]
        writer.writerow(["" if c is None else repr(float(c)) if isinstance(c, float) else c for c in cells])
    return out.getvalue()


def write_curve(path: Path, points: Sequence[Point]) -> None:
    """Writes ``curve_csv``, whole or not at all, and makes the folder."""
    text = curve_csv(points)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)


def curve_figure(points: Sequence[Point], extractor: str) -> np.ndarray | None:
    """FD against the step, with error bars, the lowest marked: a panel for the mean over classes, one for the pool.

    Where several averages or guidance scales were evaluated, each has its line.

    Returns:
      u8[H W 3]; None where no two evaluations have a figure.
    """
    title = f"{distance_name(extractor)}[{extractor}] over checkpoints"
    return _panels(points, extractor, title, "training step", lambda p: p.step, _line_of(points))


def sweep_figure(points: Sequence[Point], extractor: str) -> np.ndarray | None:
    """FD against the guidance scale, with error bars, one line per average, the lowest of all marked.

    Returns:
      u8[H W 3]; None where no two evaluations have a figure.

    Raises:
      ValueError: points of several steps, or one without a guidance scale.
    """
    steps = sorted({point.step for point in points})
    if len(steps) > 1:
        raise ValueError(f"a sweep shows the weights of one step; these points are of {steps}")
    if any(point.guidance_scale is None for point in points):
        raise ValueError("a sweep shows guidance scales; a point has none")
    title = f"{distance_name(extractor)}[{extractor}] by guidance scale and average" + (
        f", step {steps[0]}" if steps else ""
    )
    return _panels(points, extractor, title, "guidance scale", lambda p: p.guidance_scale, _line_of(points, False))


def _line_of(points: Sequence[Point], scales: bool = True) -> Any:
    """What a point's line is called: only what differs between the points is said, the scale if ``scales``."""
    several = len({point.ema for point in points}) > 1, scales and len({p.guidance_scale for p in points}) > 1

    def name(point: Point) -> str:
        parts = [f"average {point.ema}"] if several[0] else []
        return ", ".join(parts + ([f"guidance {point.guidance_scale}"] if several[1] else []))

    return name


def _panels(
    points: Sequence[Point], extractor: str, title: str, across: str, x: Any, line_of: Any
) -> np.ndarray | None:
    shown = {title: some for title, names in PANELS.items() if len(some := _having(points, names)) > 1}
    if not shown:
        return None
    lines = list(dict.fromkeys(line_of(point) for some in shown.values() for point in some))
    with drawn(max(6.4, 4.2 * len(shown)), 3.9 + 0.19 * (-(-len(lines) // 4) if len(lines) > 1 else 0)) as figure:
        entitle(figure, title, _about(shown, points))
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for panel, (over, some) in zip(panels, shown.items(), strict=True):
            _draw(panel, some, lines, x, line_of)
            best = min(some, key=lambda p: p.value)
            panel.set_title(_lowest(best, x, line_of), size=8.5, color=MUTED, loc="left")
            panel.set(xlabel=across, ylabel=f"{distance_name(extractor)}, {over}")
        if len(lines) > 1:
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        return pixels(figure)


def _having(points: Sequence[Point], names: Sequence[str]) -> list[Point]:
    """The points of the first of ``names`` that any has a value of."""
    found = ([p for p in points if p.name == name and p.value is not None] for name in names)
    return next((some for some in found if some), [])


def _lowest(best: Point, x: Any, line_of: Any) -> str:
    """Of all points of a panel, with the name of its line where there are several."""
    line = line_of(best)
    return f"lowest: {in_words(best.value, best.se)} at {x(best):,}" + (f", {line}" if line else "")


def _about(shown: Mapping[str, Sequence[Point]], points: Sequence[Point]) -> str:
    """How many images a side, over how many classes, and what the bars and the ring are."""
    entered = {p.name: p.value for p in points if p.name.endswith("/classes")}
    parts = []
    for over, some in shown.items():
        counts = sorted({p.n_gen for p in some if p.n_gen is not None})
        if counts:
            n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
            classes = entered.get(some[0].name.removesuffix("mean") + "classes") if "/" in some[0].name else None
            parts.append(f"{over}: n = {n}" + (f" in {classes:.0f} classes" if classes else ""))
    if any(p.se is not None for some in shown.values() for p in some):
        parts.append("bars: ± 1 standard error")
    ring = "Ring: the lowest. The lowest of several is lucky as well as good: draw again with another seed."
    return "; ".join(parts) + f"\n{ring}"


def _draw(panel: Any, points: Sequence[Point], lines: Sequence[str], x: Any, line_of: Any) -> None:
    panel.grid(axis="y")
    for i, line in enumerate(lines):
        mine = sorted((p for p in points if line_of(p) == line), key=x)
        if not mine:
            continue
        turn = i // len(LINES)
        panel.errorbar(
            [x(p) for p in mine],
            [p.value for p in mine],
            [p.se or 0.0 for p in mine],
            color=LINES[i % len(LINES)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle=("-", "--", ":")[turn % 3],
            elinewidth=1.1,
            markersize=4.5,
            label=line,
        )
    best = min(points, key=lambda p: p.value)
    panel.plot(x(best), best.value, "o", color=INK, mfc="none", ms=11, mew=1.3)
    panel.margins(x=0.08, y=0.14)
    panel.ticklabel_format(useOffset=False)
