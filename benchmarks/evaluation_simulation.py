"""What decides a per-class FD: a simulation where the truth is known.

    python -m benchmarks.evaluation_simulation [--out=docs/images/evaluation_simulation.png]

Features of a class are drawn from a normal distribution of 2048 dimensions whose variances are the quantiles of a
log-normal one (sigma 1.1, sum 68), which makes FD behave over n as it does on Inception features. FD does not change
under rotations, so independent dimensions lose nothing. A perfect generator draws from the same distribution; the
shifted one has its mean moved so that the true FD is 2. Prints the tables of docs/evaluation.md and draws its figure;
fixed seed, two minutes on one core.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from diffusion.canvas import BLUE, GREEN, INK, MUTED, VERMILLION, drawn, entitle, pixels
from diffusion.metrics.fd import frechet_distance, frechet_se
from diffusion.metrics.floor import half_split
from diffusion.metrics.kid import kid
from diffusion.pictures import save_png

D, SPREAD, TRACE, TRUE_FD = 2048, 1.1, 68.0, 2.0
SIZES = {7: 200, 10: 200, 20: 200, 36: 100, 50: 100, 100: 100, 200: 40, 400: 20, 800: 10}  # images a side: replicates
N = 100  # images of the class in the other experiments
WRONG, INTERVALS, RESAMPLED = 40, 40, 200  # replicates, data sets, bootstrap draws for each
PAPER = dict(facecolor="white", edgecolor="none", pad=1.0)
SHOWN = 20  # intervals drawn
WITH_ERROR = 10  # replicates of each size whose jackknife error is taken


@dataclass(frozen=True, eq=False)
class World:
    """Deviation of each dimension [d], and the shifted generator's mean [d]."""

    deviation: np.ndarray
    shift: np.ndarray
    rng: np.random.Generator

    def draw(self, n: int) -> np.ndarray:
        return self.rng.normal(size=(n, D)) * self.deviation


def world(seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    variance = np.exp(SPREAD * np.array([NormalDist().inv_cdf((i + 0.5) / D) for i in range(D)]))
    variance *= TRACE / variance.sum()
    shift = np.sqrt(variance) * rng.choice([-1.0, 1.0], D)
    return World(np.sqrt(variance), shift * np.sqrt(TRUE_FD / TRACE), rng)


@dataclass(frozen=True)
class Size:
    """At n images a side, for the perfect [r] and the shifted generator [r]: FD, excess, KID x 1000, and FD's error."""

    n: int
    fd: tuple[np.ndarray, np.ndarray]
    excess: tuple[np.ndarray, np.ndarray]
    kid: tuple[np.ndarray, np.ndarray]
    error: tuple[np.ndarray, np.ndarray]

    def seen(self, name: str) -> float:
        """How far the two generators' means lie apart, in standard deviations of the perfect one's figure."""
        perfect, shifted = getattr(self, name)
        return float((shifted.mean() - perfect.mean()) / perfect.std(ddof=1))


def over_sizes(w: World) -> list[Size]:
    found = []
    for n, replicates in SIZES.items():
        rows = []
        for i in range(replicates):
            real, made = w.draw(n), w.draw(n)
            for x in (made, made + w.shift):
                floor = half_split(x, real, np.random.default_rng(i))
                error = frechet_se(x, real) if i < WITH_ERROR else np.nan
                rows.append((frechet_distance(x, real), floor.excess, 1e3 * kid(x, real), error))
        table = np.array(rows).reshape(replicates, 2, 4)
        found.append(Size(n, *((table[:, 0, i], table[:, 1, i]) for i in range(4))))
    return found


PRACTICES: dict[str, Callable[[World, np.ndarray, np.ndarray], float]] = {
    "a generator whose true FD is 2": lambda w, x, y: frechet_distance(x + w.shift, y),
    "50 generated against 100 real": lambda w, x, y: frechet_distance(x[: N // 2], y),
    "300 generated against 100 real": lambda w, x, y: frechet_distance(np.concatenate([x, w.draw(2 * N)]), y),
    "1,000 generated against 100 real": lambda w, x, y: frechet_distance(np.concatenate([x, w.draw(9 * N)]), y),
    "10 of 100 generated are padding (copies)": lambda w, x, y: frechet_distance(np.concatenate([x[:-10], x[:10]]), y),
    "100 reals drawn with replacement": lambda w, x, y: frechet_distance(x, y[w.rng.integers(0, N, N)]),
    "lowest of 5 seeds": lambda w, x, y: min(frechet_distance(z, y) for z in (x, *(w.draw(N) for _ in range(4)))),
}


def practices(w: World) -> dict[str, np.ndarray]:
    """FD of a perfect generator under each practice, less FD at 100 against 100 on the same images: {name: f[r]}."""
    found: dict[str, list[float]] = {name: [] for name in PRACTICES}
    for _ in range(WRONG):
        x, y = w.draw(N), w.draw(N)
        right = frechet_distance(x, y)
        for name, practice in PRACTICES.items():
            found[name].append(practice(w, x, y) - right)
    return {name: np.array(values) for name, values in found.items()}


@dataclass(frozen=True)
class Intervals:
    """For each data set: the point, the 95 % percentile bootstrap interval, and the point ± 1.96 jackknife errors."""

    point: np.ndarray
    bootstrap: np.ndarray  # [r 2]
    error: np.ndarray

    @property
    def jackknife(self) -> np.ndarray:
        return self.point[:, None] + 1.96 * self.error[:, None] * np.array([-1.0, 1.0])

    def covered(self, truth: float) -> tuple[float, float]:
        """Shares of the data sets whose interval holds the truth: bootstrap, jackknife."""
        inside = [(ends[:, 0] <= truth) & (truth <= ends[:, 1]) for ends in (self.bootstrap, self.jackknife)]
        return float(inside[0].mean()), float(inside[1].mean())


def intervals(w: World) -> Intervals:
    points, ends, errors = [], [], []
    for _ in range(INTERVALS):
        x, y = w.draw(N), w.draw(N)
        points.append(frechet_distance(x, y))
        errors.append(frechet_se(x, y))
        picks = (w.rng.integers(0, N, (2, N)) for _ in range(RESAMPLED))
        ends.append(np.percentile([frechet_distance(x[i], y[j]) for i, j in picks], [2.5, 97.5]))
    return Intervals(np.array(points), np.array(ends), np.array(errors))


def extrapolated(sizes: Iterable[Size]) -> float:
    """FD-infinity: where a line through FD of the perfect generator over 1/n, n >= 200, meets 0."""
    kept = [size for size in sizes if size.n >= 200]
    return float(np.polyfit([1 / size.n for size in kept], [size.fd[0].mean() for size in kept], 1)[1])


def tables(sizes: list[Size], wrong: dict[str, np.ndarray], found: Intervals) -> str:
    lines = [
        "| n a side | FD, perfect | FD, shifted | excess, perfect | excess, shifted | error | excess sees | KID sees |"
    ]
    lines.append("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        cells = [f"{v.mean():.1f}" for v in size.fd] + [f"{v.mean():.2f} ± {v.std(ddof=1):.2f}" for v in size.excess]
        cells.append(f"{np.nanmean(size.error[0]):.2f}")
        lines.append(f"| {size.n} | {' | '.join(cells)} | {size.seen('excess'):.1f} | {size.seen('kid'):.1f} |")
    lines += ["", "| practice | adds to FD |", "| --- | ---: |"]
    lines += [f"| {name} | {v.mean():+.2f} ± {v.std(ddof=1) / np.sqrt(len(v)):.2f} |" for name, v in wrong.items()]
    at_n = next(size for size in sizes if size.n == N)
    bootstrap, jack = found.covered(at_n.fd[0].mean())
    out = np.mean((found.point < found.bootstrap[:, 0]) | (found.point > found.bootstrap[:, 1]))
    lines += [
        "",
        f"95 % intervals that hold the expected FD at n = {N}: bootstrap {bootstrap:.0%}, jackknife {jack:.0%}; "
        f"bootstrap intervals without the point estimate: {out:.0%}",
        f"FD at n = {N}: SD over data sets {found.point.std(ddof=1):.2f}, jackknife error {found.error.mean():.2f}; "
        f"SD of the excess {at_n.excess[0].std(ddof=1):.2f}",
        f"FD-infinity of the perfect generator, from n = 200 to 800: {extrapolated(sizes):.1f}",
    ]
    return "\n".join(lines)


def figure(sizes: list[Size], wrong: dict[str, np.ndarray], found: Intervals) -> np.ndarray:
    with drawn(10.5, 8.2) as page:
        about = (
            f"Simulated features of one class: {D} dimensions, log-normal variances. "
            f"Perfect generator: the true FD is 0; shifted generator: it is {TRUE_FD:g}."
        )
        entitle(page, "What decides a per-class FD", about)
        page.get_layout_engine().set(hspace=0.08, wspace=0.05)
        panels = page.subplots(2, 2)
        _fd_panel(panels[0, 0], sizes)
        _excess_panel(panels[0, 1], sizes)
        _wrong_panel(panels[1, 0], wrong)
        at_n = next(size for size in sizes if size.n == N)
        _interval_panel(panels[1, 1], found, at_n.fd[0].mean())
        return pixels(page)


def _over_n(panel: Any, sizes: list[Size], name: str) -> None:
    for which, colour, label, marker in (
        (0, BLUE, "perfect generator", "o"),
        (1, VERMILLION, "shifted generator", "s"),
    ):
        values = [getattr(size, name)[which] for size in sizes]
        mean, sd = np.array([v.mean() for v in values]), np.array([v.std(ddof=1) for v in values])
        n = [size.n for size in sizes]
        panel.fill_between(n, mean - sd, mean + sd, color=colour, alpha=0.18, linewidth=0)
        panel.plot(n, mean, color=colour, marker=marker, markersize=4, label=label)
    panel.set_xscale("log")
    panel.set_xticks([size.n for size in sizes], [str(size.n) for size in sizes])
    panel.minorticks_off()
    panel.set_xlabel("images a side, n")
    panel.grid(axis="y")


def _fd_panel(panel: Any, sizes: list[Size]) -> None:
    _over_n(panel, sizes, "fd")
    _head(panel, "FD falls with n, for every generator")
    panel.set(ylabel="FD (band: ± 1 SD)", ylim=(0, None))
    panel.legend(loc="lower left", fontsize=8)


def _excess_panel(panel: Any, sizes: list[Size]) -> None:
    _over_n(panel, sizes, "excess")
    for truth in (0.0, TRUE_FD):
        panel.axhline(truth, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    panel.axvspan(sizes[0].n, 20, color=MUTED, alpha=0.10, linewidth=0)
    panel.text(sizes[0].n * 1.06, 0.03, "n < 20:\nflagged", transform=panel.get_xaxis_transform(), size=8, color=MUTED)
    _head(panel, "Its excess over real against real does not")
    panel.set(ylabel="excess FD (band: ± 1 SD; dashed: truth)")


def _wrong_panel(panel: Any, wrong: dict[str, np.ndarray]) -> None:
    for place, (name, values) in enumerate(wrong.items()):
        mean, se = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
        colour = VERMILLION if place else GREEN
        panel.plot([0, mean], [place, place], color=colour, linewidth=4, alpha=0.35, solid_capstyle="butt")
        panel.plot([mean - 1.96 * se, mean + 1.96 * se], [place, place], color=colour)
        panel.plot(mean, place, "o", color=colour)
        panel.annotate(f"{mean:+.1f}", (max(mean, 0), place), (9, 0), textcoords="offset points", va="center", size=8)
        panel.text(0.01, place - 0.3, name, transform=panel.get_yaxis_transform(), size=8, va="center", bbox=PAPER)
    panel.set(yticks=[], ylim=(len(wrong) - 0.6, -0.7))
    panel.axvline(0, color=INK, linewidth=0.9, zorder=0)
    panel.grid(axis="x")
    panel.spines["left"].set_visible(False)
    panel.margins(x=0.16)
    _head(panel, "Wrong counts outweigh the model")
    panel.set_xlabel(f"added to FD at {N} against {N}; all but the first: perfect generator")


def _interval_panel(panel: Any, found: Intervals, truth: float) -> None:
    place = np.arange(SHOWN)
    for ends, offset, colour, label in (
        (found.bootstrap, 0.18, VERMILLION, "percentile bootstrap, 95 %"),
        (found.jackknife, -0.18, BLUE, "jackknife, ± 1.96 errors"),
    ):
        panel.vlines(place + offset, *ends[:SHOWN].T, color=colour, linewidth=2.2, label=label)
    panel.plot(place - 0.18, found.point[:SHOWN], "o", color=BLUE, markersize=3.5)
    panel.axhline(truth, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    panel.grid(axis="y")
    panel.margins(y=0.22)
    panel.set(xticks=[], xlabel=f"{SHOWN} data sets of {N} images a side (dashed: expected FD)", ylabel="FD")
    panel.legend(loc="upper center", fontsize=8, ncols=2)
    _head(panel, "The bootstrap misses, the jackknife holds")


def _head(panel: Any, text: str) -> None:
    panel.set_title(text, size=9.5, weight="bold", loc="left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/images/evaluation_simulation.png")
    out = parser.parse_args().out
    w = world()
    sizes, wrong, found = over_sizes(w), practices(w), intervals(w)
    print(tables(sizes, wrong, found))
    print(f"\nIt wrote:\n  {save_png(out, figure(sizes, wrong, found))}")


if __name__ == "__main__":
    main()
