"""Where figures are drawn: one style, colours that colour-blind readers tell apart, pixels out.

Only matplotlib's object API on the Agg backend is used, so no window, no display and no state is left behind.
"""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from diffusion.errors import UserError

INK, MUTED, FAINT = "#222222", "#6b6b6b", "#dddddd"
# Okabe & Ito 2008, the order in which lines are coloured; yellow is left out, it is too pale on white.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = "osD^vP"
DPI = 150
STYLE = {
    "text.parse_math": False,  # a class may be called "$5 bill"
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.0,
}


@contextmanager
def drawn(width: float, height: float) -> Iterator[Any]:
    """A white figure of ``width`` x ``height`` inches in the house style, for the body of a with statement.

    Yields:
      matplotlib.figure.Figure; draw on it, and take ``pixels`` of it before the body ends.

    Raises:
      UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"figures need matplotlib: pip install matplotlib ({error})") from error
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def pixels(figure: Any) -> np.ndarray:
    """u8[H W 3] of a figure."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def entitle(figure: Any, title: str, about: str) -> None:
    """A bold title at the left with smaller grey lines below, above everything else, wrapped to the figure's width."""
    wide = figure.get_figwidth()
    title_lines = textwrap.wrap(title, max(20, int(wide * 10.5)))
    about_lines = [line for part in about.splitlines() for line in textwrap.wrap(part, max(30, int(wide * 15.5)))]
    high = figure.get_figheight()
    line, small, margin = 0.19, 0.15, 0.08  # inches
    top = 1 - margin / high
    figure.text(0.1 / wide, top, "\n".join(title_lines), size=11, weight="bold", va="top", linespacing=1.15)
    below = top - (line * len(title_lines) + 0.02) / high
    figure.text(0.1 / wide, below, "\n".join(about_lines), size=8, color=MUTED, va="top", linespacing=1.3)
    used = margin + line * len(title_lines) + small * len(about_lines) + 0.12
    figure.get_layout_engine().set(rect=(0.1 / wide, 0.06 / high, 1 - 0.2 / wide, 1 - used / high))


def brief(text: str, longest: int = 28) -> str:
    """The text, cut with an ellipsis where it is longer."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
