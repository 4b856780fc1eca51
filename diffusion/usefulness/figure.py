"""The figure of an experiment: every seed's balanced accuracy and small recall, and what small classes are read as."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.canvas import INK, LINES, MUTED, brief, drawn, entitle, pixels
from diffusion.usefulness.outcome import Outcome

SHOWN = {"balanced_accuracy": "balanced accuracy, %", "small_recall": "recall of the small classes, %"}
SMALL = 4  # small classes that are shown
WRITTEN = 12  # classes up to which the shares are written into the cells
NAMED = 40  # and up to which the columns have names


def figure(o: Outcome, title: str) -> np.ndarray:
    """u8[H W 3]."""
    small = o.small[:SMALL]
    about = (
        f"{len(o.seeds)} seeds (dots), mean ± 1 SD (bars), {len(o.labels)} real test images. "
        f"Small: {', '.join(brief(o.names[c]) for c in small)}{', …' * (len(o.small) > SMALL)}."
    )
    heights = [2.6, *[0.75 + 0.24 * len(o.read)] * len(small)]
    with drawn(8.4, 0.9 + sum(heights)) as page:
        entitle(page, title, about)
        places = page.add_gridspec(len(heights), 2, height_ratios=heights)
        for column, (name, label) in enumerate(SHOWN.items()):
            _dots(page.add_subplot(places[0, column]), o, name, label)
        for row, c in enumerate(small, start=1):
            _shares(page.add_subplot(places[row, :]), o, c)
        return pixels(page)


def _dots(panel: Any, o: Outcome, name: str, label: str) -> None:
    panel.grid(axis="y")
    for place, arm in enumerate(o.read):
        values, colour = 100 * o.values(arm)[name], LINES[place % len(LINES)]
        aside = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        panel.plot(place + aside, values, "o", color=colour, alpha=0.5, markersize=3.5)
        sd = o.spread(values).sd
        panel.errorbar(place + 0.3, values.mean(), sd, color=colour, marker="D", markersize=4.5, capsize=2.5)
    panel.set_xticks(range(len(o.read)), [arm.replace("_", "\n").replace("+", "\n+ ") for arm in o.read])
    panel.set(ylabel=label, xlim=(-0.5, len(o.read) - 0.3))
    panel.margins(y=0.12)
    panel.ticklabel_format(axis="y", useOffset=False)


def _shares(panel: Any, o: Outcome, label: int) -> None:
    """Of one class: a row per arm, a column per class that it was read as, over all seeds."""
    rows = np.stack([o.matrices(arm).sum(0)[label] for arm in o.read])
    shares = 100 * rows / rows.sum(1, keepdims=True)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    panel.set_yticks(range(len(shares)), list(o.read))
    few = len(o.names) <= NAMED
    panel.set_xticks(range(len(o.names)) if few else [], [brief(name, 10) for name in o.names] if few else [])
    panel.tick_params(length=0)
    panel.set_title(f"{brief(o.names[label])} was read as, %", size=8.5, color=MUTED, loc="left")
    if len(o.names) <= WRITTEN:
        _write(panel, shares)


def _write(panel: Any, shares: Sequence[Sequence[float]]) -> None:
    for (i, j), share in np.ndenumerate(shares):
        if share > 0:
            colour = "white" if share > 55 else INK
            panel.text(j, i, f"{share:.1f}", ha="center", va="center", size=7.5, color=colour)
