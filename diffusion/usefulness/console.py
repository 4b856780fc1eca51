"""What an experiment says on the console: the arms, their differences, and what the small classes are read as."""

from collections.abc import Iterator, Sequence

import numpy as np

from diffusion.canvas import brief
from diffusion.eval_console import aligned
from diffusion.usefulness.outcome import Outcome
from diffusion.usefulness.scores import HEADLINE

HEADS = {  # figure of `scores.HEADLINE` -> column
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "macro_f1": "macro F1",
    "small_recall": "small recall",
}
NAME = 20  # longest name of a class that is shown whole
SMALL = 5  # small classes with a table of their own
READ_AS = 4  # classes that one is most often read as


def table(o: Outcome) -> str:
    """Percent, mean ± standard deviation over the seeds."""
    small = ", ".join(brief(o.names[c], NAME) for c in o.small[:SMALL]) + ", …" * (len(o.small) > SMALL)
    lines = [
        f"small: {small}; % of {len(o.labels)} test images, mean ± SD over {len(o.seeds)} seeds",
        *aligned([("trained on", "real", "synthetic", *HEADS.values()), *_arms(o)], "<>>" + ">" * len(HEADS)),
        *(f"{arm}: left out, {reason}" for arm, reason in o.left_out.items()),
        *aligned([("difference", "figure", "mean ± SD", "p (seeds)", "95 % (test images)"), *_differences(o)], "<<>>>"),
        "p: paired t over seeds, for these test images; 95 %: bootstrap over test images, for the mean of these seeds",
    ]
    for c in o.small[:SMALL]:
        lines += [f"{brief(o.names[c], NAME)} was read as", *aligned(list(_read_as(o, c)), "<<")]
    return "\n".join(lines)


def selection_lines(o: Outcome) -> list[str]:
    """One line for each arm of which images were dropped or are lacking, with its classes and their counts per seed."""
    found = []
    for arm, chosen in o.chosen.items():
        asked, drawn, dropped, kept = (
            np.stack([getattr(one, what) for one in chosen]) for what in ("asked", "drawn", "dropped", "kept")
        )
        if not dropped.any() and (kept == asked).all():
            continue
        of_classes = "; ".join(
            f"{brief(name, NAME)} {_range(kept[:, c])} of {asked[0, c]}, {_range(dropped[:, c])} of "
            f"{_range(drawn[:, c])} dropped"
            for c, name in enumerate(o.names)
            if dropped[:, c].any() or (kept[:, c] < asked[:, c]).any()
        )
        found.append(f"{arm}: {_range(dropped.sum(1))} copies of training images dropped (each seed); {of_classes}")
    return found


def _arms(o: Outcome) -> Iterator[Sequence[str]]:
    for arm in o.read:
        values = o.values(arm)
        spreads = (o.spread(values[name]) for name in HEADLINE)
        figures = (_percent(one.mean, one.sd) for one in spreads)
        yield arm, str(o.rows[arm].sum()), _range(o.synthetic(arm).sum(1)), *figures


def _range(counts: np.ndarray) -> str:
    """ "60", or "57 to 60" where seeds differ."""
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _percent(mean: float, sd: float | None, sign: str = "") -> str:
    """ "95.70 ± 2.02"; the mean alone where there is no deviation."""
    return f"{100 * mean:{sign}.2f}" + ("" if sd is None else f" ± {100 * sd:.2f}")


def _differences(o: Outcome) -> Iterator[Sequence[str]]:
    for (arm, against), found in o.comparisons.items():
        for figure in ("balanced_accuracy", "small_recall"):
            one = found[figure]
            p = "-" if one.p is None else f"{one.p:.2g}"
            ends = f"{100 * one.low:+.2f} to {100 * one.high:+.2f}"
            yield f"{arm} less {against}", HEADS[figure], _percent(one.mean, one.sd, "+"), p, ends


def _read_as(o: Outcome, label: int) -> Iterator[Sequence[str]]:
    for arm in o.read:
        row = o.matrices(arm).sum(0)[label]
        most = [c for c in np.argsort(-row, kind="stable") if row[c]]
        shares = [f"{brief(o.names[c], NAME)} {100 * row[c] / row.sum():.1f} %" for c in most[:READ_AS]]
        yield f"  {arm}", ", ".join(shares) + ", …" * (len(most) > READ_AS)
