"""A run with two power-function averages and their snapshots: killed, gone on with, reconstructed and sampled from."""

import json
import shutil

import jax
import numpy as np
import pytest

import main_jax
from configs.default import get_config
from diffusion import posthoc, runs, snapshots, train, validation
from diffusion.build import build
from diffusion.config import from_json, override
from diffusion.leaves import by_path
from diffusion.modes.describe import facts
from tests.tiny import log, program, state_print

POWER = {
    "ema__name": "power",
    "ema__use": "0.10",
    "ema__snapshot_every": 5,
    "val__every": 6,
    "sample__every": 0,
    "eval__metrics": "()",
    "log__every": 4,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("power") / "run"
    train.run(program(workdir, **POWER))
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def taken(workdir):
    return {path.name: path.read_bytes() for path in (workdir / snapshots.FOLDER).iterdir()}


def newest(workdir):
    p = program(workdir, **POWER)
    return runs.checkpoints(p, read_only=True).restore(runs._abstract_state(p)).state


def weights(workdir, use, step="latest"):
    """What ``--mode=sample --config.ema.use=…`` reads, by path."""
    config = override(from_json(workdir / "config.json", get_config()).unlock(), [f"ema.use={use}"]).lock()
    return by_path(jax.device_get(runs.ema_weights(build(config, workdir, training=False), step).state))


def test_the_chosen_average_is_validated_and_logged(finished):
    lines, state = log(finished), newest(finished)
    logged = [line for line in lines if "train/ema_decay" in line]
    assert [line["step"] for line in logged] == [4, 8, 12]
    for line in logged:
        for name, sigma_rel in (("train/ema_decay", 0.1), ("train/ema_decay/0.05", 0.05)):
            wanted = (1 - 1 / line["step"]) ** (posthoc.exponent(sigma_rel) + 1)
            assert line[name] == pytest.approx(wanted, rel=1e-5)
    validated = next(line["val/loss"] for line in lines if line["step"] == 12 and "val/loss" in line)
    p = program(finished, **POWER)
    found = {name: validation.validation(p, {"val/loss": held})["val/loss"] for name, held in state.ema.items()}
    assert found["0.10"] == validated != found["0.05"]


def test_a_snapshot_holds_all_averages_of_its_step(finished):
    assert sorted(taken(finished)) == [f"step_{step:08d}.npz" for step in (5, 10, 12)]
    origin, arrays = snapshots.read(snapshots.path_at(finished, 12))
    assert origin == snapshots.Origin(12, 12, {"0.05": 0.05, "0.10": 0.1})
    held = by_path(jax.device_get(newest(finished).ema))
    np.testing.assert_equal(arrays, held)


def test_the_averages_go_to_other_devices(finished):
    assert state_print(finished, **POWER)[0] == state_print(finished, **(POWER | {"mesh__data": 8}))[0]


class Killed(BaseException):
    pass


def test_a_killed_run_leaves_the_same_snapshots(finished, tmp_path, monkeypatch):
    """Killed as it writes the snapshot of step 10; the newest checkpoint is of step 9, what lies later is not its."""
    workdir, add = tmp_path / "run", snapshots._add

    def dying(file, name, value):
        if "_00000010" in file.filename and name == snapshots.HEADER:
            raise Killed
        add(file, name, value)

    with monkeypatch.context() as patched:
        patched.setattr(train.Loop, "_save_healthy", lambda loop, error: None)
        patched.setattr(snapshots, "_add", dying)
        with pytest.raises(Killed):
            train.run(program(workdir, **POWER))
    assert sorted(taken(workdir)) == [f"step_{step:08d}.npz" for step in (5,)]
    assert runs.checkpoints(program(workdir, **POWER), read_only=True).latest() == 9
    for step in (10, 11, 12):
        snapshots.path_at(workdir, step).write_bytes(b"of another life")
    train.run(program(workdir, **POWER))
    assert state_print(workdir, **POWER) == state_print(finished, **POWER)
    assert taken(workdir) == taken(finished)
    assert log(workdir) == log(finished)


def test_what_is_made_afterwards_can_be_sampled_and_evaluated(copy, tmp_path, capsys):
    before = taken(copy), (copy / "metrics.jsonl").read_bytes()
    of_run = [f"--workdir={copy}"]
    assert main_jax.main(["--mode=posthoc", *of_run, "--config.posthoc.sigma_rel=0.07"]) == 0
    made = copy / "posthoc" / "sigma_rel_0.07_step_00000012.npz"
    assert str(made) in (said := capsys.readouterr().out) and "from 6 averages" in said and "is missed" in said
    arrays = snapshots.read(made)[1]
    for path, value in weights(copy, "posthoc:0.07").items():
        np.testing.assert_array_equal(value, arrays[f"0.07/{path}"])
    quick = ["--config.sample.num=4", f"--config.sample.out={tmp_path}", "--config.ema.use=posthoc:0.07"]
    assert main_jax.main(["--mode=sample", *of_run, *quick]) == 0
    assert "EMA weights posthoc:0.07 of step 12" in capsys.readouterr().out
    assert np.load(tmp_path / "samples.npz")["images"].shape == (4, 8, 8, 1)
    quick = ["--config.eval.metrics=fd", "--config.eval.num_samples_per_class=3", "--config.ema.use=posthoc:0.07"]
    assert main_jax.main(["--mode=eval", *of_run, *quick]) == 0
    report = json.loads((copy / "eval" / "step_00000012_posthoc_0.07.json").read_text())
    assert report["weights"]["of"] == "posthoc:0.07" and report["step"] == 12
    assert (taken(copy), (copy / "metrics.jsonl").read_bytes()) == before, "the run itself is as it was"


def test_a_stored_width_comes_back_as_the_average_of_the_checkpoint(copy):
    for name in ("0.05", "0.10"):
        assert main_jax.main(["--mode=posthoc", f"--workdir={copy}", f"--config.posthoc.sigma_rel={name}"]) == 0
        wanted, found = weights(copy, name), weights(copy, f"posthoc:{name}", "12")
        np.testing.assert_equal(wanted, by_path(jax.device_get(newest(copy).ema[name])))
        for path, value in wanted.items():
            np.testing.assert_allclose(found[path], value, rtol=0, atol=1e-6)


def test_another_run_starts_from_the_chosen_average(finished, tmp_path):
    p = program(tmp_path / "next", init_from=f"{finished}:9")
    started = by_path(jax.device_get(runs._fresh_state(p).params))
    np.testing.assert_equal(started, weights(finished, "0.10", "9"))


def refused(capsys, *argv):
    assert main_jax.main([*argv]) == 2
    said = capsys.readouterr().err
    assert said.startswith("main_jax.py: ") and said.count("\n") == 1
    return said.removeprefix("main_jax.py: ")


@pytest.mark.parametrize(
    ("asked", "begins", "says"),
    [
        (["--mode=posthoc", "--config.posthoc.sigma_rel=0.01"], "posthoc.sigma_rel: ", "lies outside"),
        (["--mode=posthoc", "--config.posthoc.sigma_rel=0.3"], "posthoc.sigma_rel: ", "(0, 0.2887)"),
        (["--mode=posthoc", "--config.posthoc.step=7"], "posthoc.step: ", "there are: 5, 10, 12"),
        (["--mode=posthoc", "--config.posthoc.step=best"], "posthoc.step: ", "latest or a number"),
        (["--mode=posthoc", "--config.ema.name=power"], "ema.name: ", "posthoc.*, usefulness.*, ema.use may be given"),
        (["--mode=sample", "--config.ema.use=0.07"], "ema.use: ", "'0.07' is not one of: 0.05, 0.10"),
        (["--mode=sample", "--config.ema.use=posthoc:wide"], "ema.use: ", "'posthoc:wide' names no width"),
        (["--mode=sample", "--config.ema.use=posthoc:0.07"], "ema.use: ", "not yet, step latest is asked; make it"),
    ],
)
def test_what_cannot_be_is_refused_by_name(finished, capsys, asked, begins, says):
    before = sorted(finished.rglob("*"))
    said = refused(capsys, *asked, f"--workdir={finished}")
    assert said.startswith(begins) and says in said
    assert sorted(finished.rglob("*")) == before


def test_a_run_without_snapshots_is_refused(tmp_path, capsys):
    for fields, begins in (
        ({}, "ema.name: this run's is constant"),
        ({"ema__name": "power"}, "ema.snapshot_every: "),
    ):
        runs.write_config(program(tmp_path, **fields))
        assert refused(capsys, "--mode=posthoc", f"--workdir={tmp_path}").startswith(begins)


def test_a_damaged_snapshot_is_refused_by_name(copy, capsys):
    damaged = snapshots.path_at(copy, 10)
    leaf = max(snapshots.read(damaged)[1].values(), key=np.size).tobytes()
    whole = damaged.read_bytes()
    damaged.write_bytes(whole.replace(leaf, leaf[:-1] + bytes([leaf[-1] ^ 1])))
    assert str(damaged) in refused(capsys, "--mode=posthoc", f"--workdir={copy}", "--config.posthoc.sigma_rel=0.07")
    assert not (copy / "posthoc").exists()


def test_training_uses_no_average_that_is_made_afterwards(tmp_path, capsys):
    said = refused(capsys, f"--workdir={tmp_path}", "--config.ema.use=posthoc:0.07")
    assert said.startswith("ema.use: ") and "is not one of: ema" in said


def test_describe_counts_their_bytes(finished):
    found = facts(program(finished, **POWER))
    assert found["bytes_per_device"]["ema"] == 2 * 4 * found["parameters"]
    on_disk = sum(map(len, taken(finished).values()))
    assert found["ema_snapshots"]["number"] == 3
    assert found["ema_snapshots"]["bytes"] == pytest.approx(on_disk, rel=0.05)
    assert f"{finished / snapshots.FOLDER}/" in found["writes"]
    assert facts(program(finished))["ema_snapshots"] == {"number": 0, "bytes": 0}
