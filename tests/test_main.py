"""The command line: one clear line and the right exit status, nothing written before a command is understood."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import main_jax
from tests.tiny import arguments

REPO = Path(__file__).resolve().parent.parent
WRONG = [  # what is said beside a tiny run, the field that is named, what else
    (["--config.optim.lrr=1"], "optim.lrr", "did you mean optim.lr?"),
    (["--config.seed=many"], "seed", "'many' is not a whole number"),
    (["--config.seed"], "seed", "no value given"),
    (["--config.optim=adam"], "optim", "this is a section"),
    (["--config.process.schedule=flow", "--config.process.target=eps"], "process", "take x0, v, velocity or edm"),
    (["--config.net.unet.attention=(3,)"], "net.unet.attention", "the levels are (0,)"),
    (["--config.eval.metrics=fid"], "eval.inception.weights", "docs/weights.md"),
    (["--config.cond.names=text"], "cond.names", "'text' is not one of: label"),
    (["--config.net.unet.mults=1,2,2,2,2"], "net.unet.mults", "must be divisible by 16"),
    (["--config.optim.warmup_cosine.warmup_steps=50", "--config.optim.schedule=warmup_cosine"], "optim.warmup_", "50"),
    (["--config.checkpoint.best_metric=fid"], "checkpoint.best_metric", "not measured by this run"),
    (["--config.data.source=npz", "--config.data.root=nowhere.npz"], "data.root", "nowhere.npz does not exist"),
    (["--config.mesh.data=99"], "mesh.data", "there are 8"),
    (["--config=configs/digit.py"], "--config", "did you mean configs/digits.py?"),
    (["--mode=trian"], "--mode", "one of: train, eval, sample, encode, posthoc, usefulness, describe, bench"),
    (["--json"], "--json", "--mode=train prints no JSON"),
    (["--steps=3"], "command line", "unrecognized arguments: --steps=3; usage: python main_jax.py"),
    (["now"], "command line", "unrecognized arguments: now"),
    (["--workdir"], "command line", "expected one argument"),
    (["--mod=train"], "command line", "unrecognized arguments: --mod=train"),
]


def refused(capsys, argv):
    """What is said on standard error, one line without its prefix, by a command that ends with status 2."""
    assert main_jax.main(argv) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("main_jax.py: ") and said.err.count("\n") == 1, said.err
    return said.err.removeprefix("main_jax.py: ")


@pytest.mark.parametrize("wrong, field, problem", WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_wrong_command_is_one_line_and_writes_nothing(tmp_path, capsys, monkeypatch, wrong, field, problem):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, [*arguments(tmp_path / "run"), *wrong])
    assert said.startswith(field) and problem in said
    assert list(tmp_path.iterdir()) == []


def test_the_program_itself_says_so_and_exits_2(tmp_path, run_main):
    done = run_main(f"--workdir={tmp_path / 'run'}", "--config.optim.lrr=1")
    assert (done.rc, done.stdout) == (2, "")
    assert done.stderr.startswith("main_jax.py: optim.lrr: there is no such field; did you mean optim.lr?")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()


def test_help_is_the_usage(capsys):
    with pytest.raises(SystemExit) as over:
        main_jax.main(["--help"])
    out = capsys.readouterr().out
    assert over.value.code == 0 and "python main_jax.py [--config=configs/NAME.py]" in out and "--workdir" in out


def test_a_value_may_follow_as_a_word_of_its_own():
    args, overrides = main_jax.parse(["--config.seed", "-1", "--mode=eval", "--config.a.b=c d", "--config.x"])
    assert args.mode == "eval" and overrides == ["seed=-1", "a.b=c d", "x"]


def test_an_unexpected_error_is_a_traceback_and_exit_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffusion.build.build", lambda *given, **named: 1 / 0)
    assert main_jax.main(arguments(tmp_path / "run")) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def described(capsys, argv):
    assert main_jax.main(["--mode=describe", "--json", *argv]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_default_config_is_found_from_any_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_default, by_name = described(capsys, []), described(capsys, ["--config=configs/digits.py"])
    del by_default["seconds_estimate"], by_name["seconds_estimate"]  # measures these cores
    assert by_default == by_name
    assert by_default["name"] == "digits" and by_default["workdir"] == "runs/digits"


THREE_MODES = """
import json, sys
import jax
import main_jax
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **about: compiled.append(about["fun_name"]) if "backend_compile" in event else None
)
workdir, *fields = sys.argv[1:]
rcs = [main_jax.main([workdir, *fields])]
print("compiled", json.dumps(compiled))
rcs += [main_jax.main([workdir, *said]) for said in (["--mode=eval"], ["--mode=sample"])]
print("exit statuses", rcs, "TensorFlow" if "tensorflow" in sys.modules else "no TensorFlow")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, output) of one process that trained, evaluated and sampled where a TensorFlow could be imported."""
    workdir, stub = tmp_path_factory.mktemp("main") / "run", tmp_path_factory.mktemp("stub")
    (stub / "tensorflow.py").touch()
    quick = {"train__steps": 4, "val__every": 2, "sample__every": 4, "eval__every": 0}
    more = {
        "log__tensorboard": True,
        "log__wandb": True,
        "checkpoint__every": 4,
        "eval__metrics": "fd",
        "sample__num": 5,
    }
    argv = arguments(workdir, **quick, **more)
    command = [sys.executable, "-c", THREE_MODES, *argv]
    env = os.environ | {"PYTHONPATH": str(stub)}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
    return workdir, done.stdout + done.stderr


def test_no_path_imports_tensorflow(finished):
    assert "exit statuses [0, 0, 0] no TensorFlow" in finished[1], finished[1]


def test_a_run_compiles_each_program_once_and_says_so(finished):
    lines = finished[1].splitlines()
    compiled = json.loads(next(line.removeprefix("compiled ") for line in lines if line.startswith("compiled ")))
    programs = {
        "whole": "the initial state",
        "train_step": "the train step",
        "validation_step": "the validation",
        "sample_step": "the sampler",
        "answers": "the evaluation's classifier",
    }
    training = lines[: next(i for i, line in enumerate(lines) if line.startswith("compiled "))]
    for name, said in programs.items():
        assert compiled.count(f"jit({name})") == 1 == training.count(f"Compiling {said} …"), name
    assert len(compiled) <= 16, f"small ones, too, cost a start their time: {compiled}"


def test_each_mode_left_its_files(finished):
    workdir, _ = finished
    drawn = np.load(workdir / "samples.npz")
    assert drawn["images"].shape == (5, 8, 8, 1) and drawn["images"].dtype == np.uint8
    assert drawn["labels"].tolist() == [0, 1, 2, 3, 4] and drawn["labels"].dtype == np.int32
    assert (workdir / "samples.png").exists() and (workdir / "eval" / "step_00000004.json").exists()


def test_the_resolved_config_runs_again(finished, capsys):
    workdir, _ = finished
    before = (workdir / "config.json").read_text()
    assert main_jax.main([f"--config=configs/from_json.py:{workdir / 'config.json'}", f"--workdir={workdir}"]) == 0
    assert "This run is finished" in capsys.readouterr().out
    assert (workdir / "config.json").read_text() == before


def test_sampling_lays_its_fields_over_the_runs_own_config(finished, capsys, tmp_path):
    workdir, _ = finished
    said = ["--config.sample.classes=7:2,3:1", f"--config.sample.out={tmp_path / 'here'}"]
    assert main_jax.main(["--mode=sample", f"--workdir={workdir}", *said]) == 0
    assert np.load(tmp_path / "here" / "samples.npz")["labels"].tolist() == [7, 7, 3]
    assert str(tmp_path / "here" / "samples.png") in capsys.readouterr().out


OF_A_RUN = [  # what is said of a finished run, the field that is named, what else
    (
        ["--config.optim.lr=1"],
        "optim.lr",
        "takes the run's own config; only sample.*, sampler.*, eval.*, mesh.*, log.*",
    ),
    (["--config.seed=1"], "seed", "takes the run's own config"),
    (["--config.train.steps=9"], "train.steps", "takes the run's own config"),
    (["--config.sampler.stpes=9"], "sampler.stpes", "did you mean sampler.steps?"),
]


@pytest.mark.parametrize("mode", ["sample", "eval"])
@pytest.mark.parametrize("wrong, field, problem", OF_A_RUN)
def test_a_runs_own_config_is_not_overridden(finished, capsys, mode, wrong, field, problem):
    said = refused(capsys, [f"--mode={mode}", f"--workdir={finished[0]}", *wrong])
    assert said.startswith(field) and problem in said


@pytest.mark.parametrize("mode", ["sample", "eval"])
def test_a_folder_without_a_run_is_refused(tmp_path, capsys, mode):
    said = refused(capsys, [f"--mode={mode}", f"--workdir={tmp_path / 'none'}"])
    assert said.startswith("--workdir: there is no") and "train first" in said
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_is_not_there_is_refused(finished, capsys):
    said = refused(capsys, ["--mode=sample", f"--workdir={finished[0]}", "--config.sample.classes=3,x"])
    assert said.startswith("sample.classes: 'x' is not a class")
