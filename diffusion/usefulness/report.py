"""What an experiment leaves behind in files: one JSON, a CSV with a row per arm and seed, one per arm and class."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from diffusion.usefulness.outcome import Outcome
from diffusion.usefulness.scores import HEADLINE, OF_CLASS

SCHEMA = 1
COUNTED = ("asked", "drawn", "dropped", "kept")


def body(outcome: Outcome) -> dict[str, Any]:
    """The part of the JSON that comes from the experiment; every number is finite, or None beside a reason."""
    o, names = outcome, outcome.names
    return {
        "schema": SCHEMA,
        "classes": list(names),
        "small_classes": [names[c] for c in o.small],
        "seeds": list(o.seeds),
        "n_real": _named(o.real, names),
        "n_test": _named(np.bincount(o.labels, minlength=len(names)), names),
        "arms": {arm: _arm(o, arm) for arm in o.read},
        "left_out": dict(o.left_out),
        "selected": {arm: [_counts(one, names) for one in chosen] for arm, chosen in o.chosen.items()},
        "comparisons": [
            {"arm": arm, "against": against, "figure": figure} | asdict(paired)
            for (arm, against), found in o.comparisons.items()
            for figure, paired in found.items()
        ],
    }


def _arm(o: Outcome, arm: str) -> dict[str, Any]:
    values, per_class, matrices = o.values(arm), o.of_classes(arm), o.matrices(arm)
    return {
        "values": {name: values[name].tolist() for name in HEADLINE},
        "over_seeds": {name: asdict(o.spread(values[name])) for name in HEADLINE},
        "classes": {
            name: {figure: asdict(o.spread(per_class[figure][:, c])) for figure in OF_CLASS}
            for c, name in enumerate(o.names)
        },
        "n_real": _named(o.rows[arm], o.names),
        "n_synthetic": [_named(counts, o.names) for counts in o.synthetic(arm)],
        "confusion": matrices.sum(0).tolist(),
        "confusion_by_seed": matrices.tolist(),
    }


def _counts(chosen: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: {what: int(getattr(chosen, what)[c]) for what in COUNTED} for c, name in enumerate(names)}


def _named(counts: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    return {name: int(n) for name, n in zip(names, counts, strict=True)}


def seed_rows(o: Outcome) -> list[Mapping[str, Any]]:
    """A row per arm and seed; figures of the small classes by name."""
    found = []
    for arm in o.read:
        values, per_class, synthetic = o.values(arm), o.of_classes(arm), o.synthetic(arm).sum(1)
        for place, seed in enumerate(o.seeds):
            row = {"arm": arm, "seed": seed, "n_real": int(o.rows[arm].sum()), "n_synthetic": int(synthetic[place])}
            row |= {name: float(values[name][place]) for name in HEADLINE}
            row |= {f"{f}/{o.names[c]}": float(per_class[f][place, c]) for c in o.small for f in OF_CLASS}
            found.append(row)
    return found


def class_rows(o: Outcome) -> list[Mapping[str, Any]]:
    """A row per arm and class; ``n_synthetic`` is the mean over the seeds."""
    found, n_test = [], np.bincount(o.labels, minlength=len(o.names))
    for arm in o.read:
        per_class, synthetic = o.of_classes(arm), o.synthetic(arm).mean(0)
        for c, name in enumerate(o.names):
            recall, precision, f1 = (o.spread(per_class[figure][:, c]) for figure in OF_CLASS)
            found.append(
                {
                    "arm": arm,
                    "class": name,
                    "small": int(c in o.small),
                    "recall_mean": recall.mean,
                    "recall_sd": recall.sd,
                    "precision": precision.mean,
                    "f1": f1.mean,
                    "n_train_real": int(o.rows[arm][c]),
                    "n_synthetic": float(synthetic[c]),
                    "n_test": int(n_test[c]),
                }
            )
    return found
