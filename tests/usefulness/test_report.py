"""What an experiment leaves: no figure that is not one, exact counts, and the same in every file."""

import json

import numpy as np
import pytest

from diffusion.usefulness.console import selection_lines, table
from diffusion.usefulness.figure import figure
from diffusion.usefulness.outcome import Outcome
from diffusion.usefulness.report import body, class_rows, seed_rows
from diffusion.usefulness.selection import Chosen

NAMES = ("cat", "dog", "$5 bill")
LABELS = np.repeat(np.arange(3), [20, 10, 5])
REAL = np.array([80, 40, 20])


def chosen(*kept):
    kept, asked = np.array(kept), np.array([0, 40, 60])
    return Chosen(np.arange(kept.sum()), asked, asked, asked - kept, kept)


def outcome(seeds: int = 3, never: int = -1):
    """Arms of rising skill; class ``never`` is never read by the arm real."""
    rng, read = np.random.default_rng(0), {}
    for arm, rate in (("real", 0.6), ("real_balanced", 0.7), ("real+synthetic", 0.9)):
        right = rng.random((seeds, len(LABELS))) < rate
        read[arm] = np.where(right, LABELS, rng.integers(0, 2, (seeds, len(LABELS))))
    read["real"] = np.where(read["real"] == never, 0, read["real"])
    rows = {"real": REAL, "real_balanced": np.array([80, 80, 80]), "real+synthetic": REAL}
    made = {"real+synthetic": [chosen(0, 40, 60), chosen(0, 39, 60), chosen(0, 40, 57)][:seeds]}
    return Outcome(NAMES, [2], range(4, 4 + seeds), LABELS, REAL, rows, made, read, {"synthetic": "nothing is left"})


def test_the_json_holds_every_seed_and_count():
    o = outcome()
    found = json.loads(json.dumps(body(o), allow_nan=False))
    assert found["schema"] == 1 and found["seeds"] == [4, 5, 6] and found["small_classes"] == ["$5 bill"]
    assert found["n_test"] == {"cat": 20, "dog": 10, "$5 bill": 5} and found["left_out"]["synthetic"]
    assert list(found["arms"]) == ["real", "real_balanced", "real+synthetic"]
    filled = found["arms"]["real+synthetic"]
    assert [counts["$5 bill"] for counts in filled["n_synthetic"]] == [60, 60, 57]
    assert found["selected"]["real+synthetic"][1]["dog"] == {"asked": 40, "drawn": 40, "dropped": 1, "kept": 39}
    assert found["arms"]["real_balanced"]["n_real"]["$5 bill"] == 80
    values = filled["values"]["balanced_accuracy"]
    assert filled["over_seeds"]["balanced_accuracy"] == {
        "mean": pytest.approx(np.mean(values)),
        "sd": pytest.approx(np.std(values, ddof=1)),
        "reason": "",
    }
    by_seed = np.array(filled["confusion_by_seed"])
    assert by_seed.sum((1, 2)).tolist() == [35] * 3 and by_seed.sum(0).tolist() == filled["confusion"]
    assert np.trace(by_seed[1]) / 35 == filled["values"]["accuracy"][1]
    compared = {(one["arm"], one["against"]) for one in found["comparisons"]}
    assert compared == {
        ("real_balanced", "real"),
        ("real+synthetic", "real"),
        ("real+synthetic", "real_balanced"),
    }
    assert len(found["comparisons"]) == 3 * 4


def test_what_cannot_be_had_is_null_with_a_reason():
    never = body(outcome(never=1))["arms"]["real"]["classes"]["dog"]
    assert never["precision"] == {
        "mean": None,
        "sd": None,
        "reason": "no image was read as this class with seed 4, 5, 6",
    }
    assert never["f1"]["mean"] == 0.0 and never["recall"]["mean"] == 0.0
    one = body(outcome(seeds=1))
    json.dumps(one, allow_nan=False)
    spread = one["arms"]["real"]["over_seeds"]["accuracy"]
    assert spread["sd"] is None and spread["reason"] and spread["mean"] is not None
    assert all(c["p"] is None and c["reason"] for c in one["comparisons"])


def test_the_tables_say_what_the_json_says():
    o = outcome()
    rows, of_class, found = seed_rows(o), class_rows(o), body(o)["arms"]
    assert [(row["arm"], row["seed"]) for row in rows] == [(arm, seed) for arm in found for seed in (4, 5, 6)]
    last = rows[-1]
    assert (last["n_real"], last["n_synthetic"]) == (140, 97)
    assert last["small_recall"] == found["real+synthetic"]["values"]["small_recall"][2] == last["recall/$5 bill"]
    assert len(of_class) == 9
    row = next(row for row in of_class if (row["arm"], row["class"]) == ("real+synthetic", "$5 bill"))
    assert (row["small"], row["n_train_real"], row["n_synthetic"], row["n_test"]) == (1, 20, 59.0, 5)
    assert row["recall_mean"] == found["real+synthetic"]["classes"]["$5 bill"]["recall"]["mean"]


def test_the_console():
    o = outcome()
    said = table(o)
    assert "small: $5 bill; % of 35 test images, mean ± SD over 3 seeds" in said
    assert "synthetic: left out, nothing is left" in said and "97 to 100" in said
    mean, sd = (100 * f(o.values("real+synthetic")["accuracy"]) for f in (np.mean, lambda v: np.std(v, ddof=1)))
    assert f"{mean:.2f} ± {sd:.2f}" in said
    row = o.matrices("real").sum(0)[2]
    assert f"$5 bill {100 * row[2] / 15:.1f} %" in said and "$5 bill was read as" in said
    (line,) = selection_lines(o)
    assert line.startswith("real+synthetic: 0 to 3 copies of training images dropped (each seed); dog 39 to 40 of 40,")
    assert "$5 bill 57 to 60 of 60, 0 to 3 of 60 dropped" in line and "cat" not in line


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_figure(seeds):
    shown = figure(outcome(seeds), "Usefulness")
    assert shown.dtype == np.uint8 and shown.ndim == 3 and shown.shape[2] == 3
    assert (shown < 200).any(2).mean() > 0.01
