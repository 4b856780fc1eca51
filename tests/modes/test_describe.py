"""Describing a run needs no data, no weights and no compiler; its figures are checked against others'."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import main_jax
from diffusion.data.records import Dataset
from diffusion.modes.describe import facts
from diffusion.samplers import GRIDS, SAMPLERS, sample
from diffusion.state import create
from diffusion.types import Prediction
from tests.gaussian import PROCESSES
from tests.tiny import arguments, program

REPO = Path(__file__).resolve().parent.parent.parent
HEAVY = ("grain", "orbax", "sklearn", "scipy", "wandb", "tensorboard", "tensorflow", "matplotlib")
OF_OTHER_MODES = ("diffusion.train", "diffusion.evaluate", "diffusion.writers", "PIL.ImageFont")
WATCHED = f"""
import gc, runpy, sys
sys.path.insert(0, {str(REPO)!r})
import jax, flax, optax
there = set(sys.modules)  # older versions of Flax import Orbax
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **about: compiled.append(name) if "backend_compile" in name else None
)
try:
    runpy.run_path({str(REPO / "main_jax.py")!r}, run_name="__main__")
except SystemExit as end:
    more = set({HEAVY + OF_OTHER_MODES}) & (set(sys.modules) - there)
    print(end.code, len(compiled), gc.isenabled(), *more, file=sys.stderr)
"""


def test_it_compiles_nothing_imports_nothing_heavy_and_writes_nothing(tmp_path):
    command = [sys.executable, "-c", WATCHED, "--mode=describe", "--json", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "0 0 True\n", "exit status, programs compiled, whether garbage is collected, modules"
    assert list(tmp_path.iterdir()) == []
    found = json.loads(done.stdout)
    assert found["name"] == "digits" and found["parameters"] > 5e5


def test_the_table_for_people(tmp_path, capsys):
    assert main_jax.main(["--mode=describe", *arguments(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "backbone/in/kernel" in out and "(3, 3, 1, 8)" in out
    for name in facts(program(tmp_path / "run")):
        assert f"\n{name.replace('_', ' ')} " in out
    assert not (tmp_path / "run").exists()


def test_sizes_are_those_of_the_real_state(tmp_path):
    p = program(tmp_path)
    params = p.diffusion.net.init(jax.random.key(0))
    state = create(params, p.optimiser.tx, (), 0)
    found = facts(p)
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert found["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    held = found["bytes_per_device"]
    assert held["parameters"] == held["gradients"] == size(params)
    assert held["ema"] == size(state.ema) and held["optimiser"] == size(state.opt_state)
    assert held["activations_estimate"] > size(params)


def test_a_scanned_net_is_described_as_its_loop_and_remat_keeps_less(tmp_path):
    def found(**how):
        net = {f"net__dit__{field}": value for field, value in (dict(d=64, heads=2) | how).items()}
        return facts(program(tmp_path, net__name="dit", **net))

    loop, scanned, again = found(scan=False), found(scan=True), found(remat="blocks")
    assert loop["flops_per_image"] == scanned["flops_per_image"] == again["flops_per_image"]
    kept = [held["bytes_per_device"]["activations_estimate"] for held in (loop, scanned, again)]
    assert kept[0] == pytest.approx(kept[1], rel=0.02), "a CPU's shallow scan is unrolled and stacks nothing"
    assert kept[2] < 0.25 * kept[1]


def test_no_record_is_read(tmp_path, monkeypatch):
    def refuse(self, name):
        raise AssertionError(f"{name} was read")

    p = program(tmp_path)
    monkeypatch.setitem(p.dataset.__dict__, "open", refuse)
    assert isinstance(p.dataset, Dataset) and facts(p)["images"] == {"train": 1438, "test": 359}


PLANS = [  # what is said, what is found
    ({}, {"steps_per_epoch": 3, "epochs": 4.0, "rows_at_once": 256, "devices": 2}),
    ({"data__batch_size": 100, "optim__micro_batches": 3}, {"rows_at_once": 17, "steps_per_epoch": 15}),
    ({"data__batch_size": 100, "mesh__strict": 16}, {"rows_at_once": 7, "devices": 2}),
    ({}, {"evaluations_at": [6, 12], "validations": 3, "sample_grids": 2, "best_metric": "val/loss (min)"}),
    ({"eval__every": 0}, {"evaluations_at": [12]}),
    ({"eval__every": 5}, {"evaluations_at": [5, 10, 12]}),
    ({"eval__metrics": ()}, {"evaluations_at": [], "evaluates": []}),
    ({"val__every": 0, "sample__every": 0}, {"validations": 0, "sample_grids": 0, "best_metric": "train/loss (min)"}),
    ({"checkpoint__keep": 5}, {"checkpoints_kept": {"newest": 5, "best": 1}}),
    ({"sampler__steps": 5}, {"sampler_steps": 5, "net_calls_per_sample": 10}),
    ({"sampler__steps": 5, "sampler__guidance_scale": 1}, {"net_calls_per_sample": 5}),
    ({"sampler__steps": 5, "sampler__guidance_scale": 0}, {"net_calls_per_sample": 5}),
    ({"sampler__steps": 5, "cond__names": "()"}, {"net_calls_per_sample": 5}),
    ({"sampler__steps": 5, "sampler__name": "heun"}, {"net_calls_per_sample": 18}),
]


@pytest.mark.parametrize("changed, wanted", PLANS)
def test_the_plan(tmp_path, changed, wanted):
    found = facts(program(tmp_path, **changed))
    assert {name: found[name] for name in wanted} == wanted
    assert found["flops_per_step"] == found["flops_per_image"] * found["batch_size"]
    assert found["flops_per_sample"] * 3 == found["flops_per_image"] * found["net_calls_per_sample"]


def test_what_is_written_is_named(tmp_path):
    names = {Path(path).name for path in facts(program(tmp_path))["writes"]}
    assert names == {"config.json", "metrics.jsonl", "checkpoints", "samples", "eval"}
    fewer = facts(program(tmp_path, eval__metrics=(), sample__every=0))["writes"]
    assert {Path(path).name for path in fewer} == names - {"samples", "eval"}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_every_sampler_calls_as_often_as_it_says(name, steps):
    process, rule, calls = PROCESSES["decoupled" if name == "decoupled" else "cosine"], SAMPLERS[name](), 0

    def denoise(x, t):
        nonlocal calls
        calls += 1
        return Prediction(0 * x, x)

    with jax.disable_jit():  # loops and branches run as Python's, so that calls can be counted
        keys = jax.random.split(jax.random.key(0), 1)
        x0 = sample(process, denoise, rule, GRIDS["uniform"](process, steps), keys, x=jnp.ones((1, 2, 2, 1)))
    assert calls == rule.calls(steps) and math.isfinite(float(x0.sum()))
