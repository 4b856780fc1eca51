import json

import pytest

from diffusion.best import BestRecord, better, kept, observed, resolve_metric
from diffusion.errors import ConfigError


@pytest.mark.parametrize(("mode", "steps"), [("min", {2, 4, 5}), ("max", {1, 4, 5})])
def test_which_steps_are_kept(mode, steps):
    values = {1: 3.0, 2: 1.0, 3: 1.0, 4: None, 5: float("nan")}
    assert kept(values, latest=2, best=1, mode=mode) == steps
    assert kept({}, 2, 1, mode) == set()
    assert kept(values, latest=2, best=1, mode=mode, every=3) == steps | {3}


BEST = [
    (None, 1.0, "min", True),
    (None, float("nan"), "min", False),
    (1.0, 0.5, "min", True),
    (1.0, 1.0, "min", False),
    (1.0, 2.0, "min", False),
    (1.0, 2.0, "max", True),
    (1.0, float("inf"), "max", False),
    (1.0, -float("inf"), "min", False),
]


@pytest.mark.parametrize(("record", "value", "mode", "expected"), BEST)
def test_better(record, value, mode, expected):
    assert better(BestRecord("val/loss", mode, record, 1), value) is expected


def test_measurements_since_the_best_are_counted():
    record, seen = BestRecord("val/loss", "min"), []
    for step, value in enumerate([3.0, 2.0, 2.0, float("nan"), 2.5, 1.0, 4.0], start=1):
        record = observed(record, step, value)
        seen.append((record.value, record.step, record.since))
    assert seen == [(3, 1, 0), (2, 2, 0), (2, 2, 1), (2, 2, 2), (2, 2, 3), (1, 6, 0), (1, 6, 1)]


def test_a_best_record_survives_json():
    record = BestRecord("eval/fd", "min", 0.1, 300)
    assert BestRecord(**json.loads(json.dumps(record.to_json()))) == record


AVAILABLE = {"train/loss": "min", "val/loss": "min", "eval/fd": "min", "eval/accuracy": "max"}


@pytest.mark.parametrize(
    ("name", "mode", "available", "expected"),
    [
        ("loss", "auto", AVAILABLE, ("val/loss", "min")),
        ("loss", "auto", {"train/loss": "min"}, ("train/loss", "min")),
        ("eval/fd", "auto", AVAILABLE, ("eval/fd", "min")),
        ("eval/accuracy", "auto", AVAILABLE, ("eval/accuracy", "max")),
        ("eval/fd", "max", AVAILABLE, ("eval/fd", "max")),
        ("eval/accuracy", "min", AVAILABLE, ("eval/accuracy", "min")),
    ],
)
def test_the_metric_is_resolved_before_training(name, mode, available, expected):
    assert resolve_metric(name, mode, available) == expected


@pytest.mark.parametrize(
    ("name", "mode", "field"),
    [
        ("val/los", "auto", "checkpoint.best_metric"),
        ("loss", "down", "checkpoint.best_mode"),
        ("eval/is/class/cat", "auto", "checkpoint.best_metric: 'eval/is/class/cat' .*meaningless"),
    ],
)
def test_a_metric_nobody_measures_is_refused(name, mode, field):
    with pytest.raises(ConfigError, match=f"^{field}"):
        resolve_metric(name, mode, AVAILABLE)
