"""What a benchmark reports and how it measures; never how fast."""

import importlib
import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import main_jax
from tests.tiny import arguments, program

bench = importlib.import_module("diffusion.modes.bench")  # in the package its name is the function's
largest_batch = importlib.import_module("diffusion.modes.largest_batch")
SMALL = {"STEPS": 2, "DRAWS": 1, "PRODUCTS": 1, "WARM_UP": 1, "SIDE": {"cpu": 32}}
FIGURES = {
    *("batch_size", "compile_seconds", "seconds_per_step", "steps_per_second", "images_per_second"),
    *("flops_per_second", "mfu"),
}


@pytest.fixture(autouse=True)
def few_of_each(monkeypatch):
    monkeypatch.setattr(largest_batch, "COMPILATIONS", 1)
    for name, value in SMALL.items():
        monkeypatch.setattr(bench, name, value)


def test_the_report(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert main_jax.main(["--mode=bench", "--json", *arguments(workdir, bench__largest_batch=True)]) == 0
    assert not workdir.exists(), "nothing is written"
    found = json.loads(capsys.readouterr().out)
    assert set(found["peak_flops_per_second"]) == {"float32"}
    memory, largest = found["memory"], found["largest_batch"]
    assert memory["host_peak_bytes"] > 1e7 and memory["device_peak_bytes"] is None
    assert memory["measured_by"] == "compiler" and 0.6 < memory["estimate_over_measured"] < 1.4
    assert largest["compilations"] == 1 and largest["batch_size"] == 1024 and largest["too_large"] is None
    assert memory["train_measured_bytes"] < largest["bytes_per_device"] < largest["room"]
    assert found["devices"] == 2 and found["parameters"] > 0 and found["dtype"] == "float32"
    # images, steps of the step or the sampler, operations: of one call
    calls = {
        "train": (512, 1, 512 * found["flops_per_image"]),
        "sample": (32, 2, 32 * found["flops_per_sample"]),
    }
    for name, (images, steps, flops) in calls.items():
        figures = found[name]
        assert set(figures) == FIGURES and figures["batch_size"] == images
        assert all(math.isfinite(v) and v > 0 for v in figures.values())
        seconds = figures["seconds_per_step"] * steps
        assert figures["images_per_second"] == pytest.approx(images / seconds)
        assert figures["steps_per_second"] == pytest.approx(steps / seconds)
        assert figures["flops_per_second"] == pytest.approx(flops / seconds)
    table = bench._table(found)
    assert "train" in table and "sample" in table and "MFU" in table and len(table.splitlines()) <= 10


def test_the_share_is_of_the_peak_of_the_nets_type(tmp_path, monkeypatch):
    training = SimpleNamespace(run=lambda flops: ({"flops_per_second": 3.0}, None), bytes_per_device=1)
    monkeypatch.setattr(bench, "_Training", lambda program: training)
    monkeypatch.setattr(bench, "_sample", lambda *given: {"flops_per_second": 6.0})
    found = bench.measure(program(tmp_path, net__dtype="bfloat16"))
    peaks = found["peak_flops_per_second"]
    assert set(peaks) == {"float32", "bfloat16"} and all(math.isfinite(p) and p > 0 for p in peaks.values())
    assert [found[name]["mfu"] for name in ("train", "sample")] == [3 / peaks["bfloat16"], 6 / peaks["bfloat16"]]


def test_the_batch_is_random_and_padded_as_in_training(tmp_path):
    p = program(tmp_path, data__batch_size=30, optim__micro_batches=4)
    one, other = (bench._random_batch(p, seed) for seed in (0, 1))
    assert one.x.shape == (32, 8, 8, 1) and one.x.dtype == np.uint8
    assert np.asarray(one.valid).sum() == 30
    assert np.asarray(one.x).std() > 60 and not np.array_equal(one.x, other.x)
    assert set(np.asarray(one.cond["label"]).tolist()) == set(range(10))


def test_at_most_two_calls_are_under_way(monkeypatch):
    called, waited = [], []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    deepest = 0

    def call(i):
        nonlocal deepest
        called.append(i)
        deepest = max(deepest, len(called) - len(waited))
        return i

    bench._median_seconds(call, 5)
    assert deepest == 2 and called == waited, "two are, so that the device never idles; each is waited for"


def test_the_median_is_of_the_time_between_results_after_the_warm_up(monkeypatch):
    monkeypatch.setattr(bench, "WARM_UP", 2)
    ends = iter([100.0, 101.0, 103.0, 106.0, 116.0])  # the first two are the warm-up
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(ends))
    assert bench._median_seconds(lambda i: np.zeros(()), 3) == 3.0
