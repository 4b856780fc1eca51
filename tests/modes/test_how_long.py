"""Estimates of time say where their rate comes from and follow from it."""

import json

from diffusion.modes import how_long
from diffusion.modes.describe import facts
from diffusion.modes.how_long import Rate, estimate, steps_per_second
from tests.tiny import program


def test_an_unknown_device_has_no_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(how_long.jax, "default_backend", lambda: "gpu")
    assert how_long.rate(tmp_path, 1.0, 1) is None
    found = estimate(None, 1.0, 1.0)
    assert found["training"] is None and "--mode=bench" in found["rate"]


def test_seconds_are_flops_over_the_rate():
    found = estimate(Rate(50.0, "assumed: so"), 1000.0, 200.0)
    assert found == {"training": 20.0, "drawing": 4.0, "rate": "assumed: so"}


def test_a_run_s_own_rate_is_taken_first(tmp_path):
    lines = [{"step": n, "perf/steps_per_sec": rate} for n, rate in enumerate((1.0, 4.0, 5.0))] + [{"step": 9}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 10, "perf/st')
    assert steps_per_second(tmp_path / "metrics.jsonl") == 4.0
    found = facts(program(tmp_path))
    assert found["seconds_estimate"]["training"] == 12 / 4.0 and "measured" in found["seconds_estimate"]["rate"]


def test_a_fresh_run_s_estimate_says_what_it_assumes(tmp_path):
    found = facts(program(tmp_path))
    assert found["images_drawn"] == 2 * 10 * 2 + 2 * 10 * 3, "two grids and two evaluations"
    seconds = found["seconds_estimate"]
    assert seconds["training"] >= 0 and seconds["drawing"] >= 0 and "assumed: 35%" in seconds["rate"]
