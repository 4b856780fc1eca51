"""Parts of a net that begin with trained weights: the very bits, or a refusal before anything is written."""

import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import main_jax
from diffusion import runs, tensor_files, train
from diffusion.errors import ConfigError
from diffusion.leaves import by_path
from diffusion.state import fingerprint
from scripts import save_part
from tests.tiny import arguments, log, program, state_print

QUIET = {"val__every": 0, "sample__every": 0, "eval__metrics": "()", "log__every": 1, "checkpoint__keep": 9}


def quiet(workdir, **changed):
    return program(workdir, **(QUIET | changed))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of another run, of 6 steps."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train.run(quiet(workdir, seed=5, train__steps=6))
    return workdir


@pytest.fixture(scope="module")
def ema(trained):
    return jax.device_get(runs.ema_weights(quiet(trained), "latest").state)


@pytest.fixture(scope="module")
def label_file(trained):
    path = trained.parent / "label.safetensors"
    assert save_part.main([str(trained), "label", str(path)]) == 0
    return path


def fresh(tmp_path, **changed):
    return jax.device_get(runs._fresh_state(quiet(tmp_path / "run", **changed)))


def same(found, wanted):
    assert fingerprint(found) == fingerprint(wanted)


@pytest.mark.parametrize("source", ["file", "run", "step"])
def test_a_part_begins_with_what_is_named_and_the_rest_as_ever(tmp_path, trained, label_file, source):
    said = {"file": label_file, "run": trained, "step": f"{trained}:3"}[source]
    wanted = runs.ema_weights(quiet(trained), "3" if source == "step" else "latest").state["conditioners_label"]
    found, plain = fresh(tmp_path, init_parts=f"label:{said}"), fresh(tmp_path)
    same(found.params["conditioners_label"], wanted)
    same(found.ema["ema"], found.params)
    same(found.params["backbone"], plain.params["backbone"])
    assert fingerprint(plain.params["conditioners_label"]) != fingerprint(wanted)


def test_parts_win_over_init_from(tmp_path, trained, ema, label_file):
    doubled = {name: 2 * array for name, array in load_file(label_file).items()}
    save_file(doubled, tmp_path / "doubled.safetensors")
    said = {"init_from": str(trained), "init_parts": f"label:{tmp_path / 'doubled.safetensors'}"}
    found = fresh(tmp_path, **said).params
    same(found["backbone"], ema["backbone"])
    same(by_path(found["conditioners_label"]), doubled)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32], ids=lambda t: np.dtype(t).name)
def test_narrow_numbers_are_widened(tmp_path, label_file, dtype):
    narrow = {name: array.astype(dtype) for name, array in load_file(label_file).items()}
    save_file(narrow, tmp_path / "narrow.safetensors", {"made by": "another program"})
    found = fresh(tmp_path, init_parts=f"label:{tmp_path / 'narrow.safetensors'}").params["conditioners_label"]
    same(by_path(found), {name: array.astype(np.float32) for name, array in narrow.items()})


@pytest.mark.parametrize("layout", [(1, 8), (2, 4)])
def test_every_layout_begins_with_the_same_bits(tmp_path, label_file, trained, layout):
    said = {"init_parts": f"label:{label_file},backbone:{trained}"}
    spread = runs._fresh_state(quiet(tmp_path / "run", mesh__data=layout[0], mesh__fsdp=layout[1], **said))
    assert not spread.params["conditioners_label"]["table"]["embedding"].is_fully_replicated
    same(spread, fresh(tmp_path, **said))


def test_the_weights_are_arguments_of_what_is_compiled(tmp_path, label_file, monkeypatch):
    given = []
    monkeypatch.setattr(runs, "made", lambda mesh, make, *arguments: given.append((make, arguments)))
    runs._fresh_state(quiet(tmp_path / "run", init_parts=f"label:{label_file}"))
    make, arguments = given[0]
    assert [leaf.shape for leaf in jax.tree.leaves(arguments)] == [(11, 128)]
    assert max((np.size(const) for const in jax.make_jaxpr(make)(*arguments).consts), default=0) < 11 * 128


def wrong(name):
    def spoil(arrays):
        table = arrays["table/embedding"]
        return {
            "missing": ({}, "missing     table/embedding: wanted float32[11 128]"),
            "unexpected": (arrays | {"table/bias": table}, "unexpected  table/bias: saved float32[11 128]"),
            "mismatched": ({"table/embedding": table.T.copy()}, "mismatched  table/embedding: saved float32[128 11]"),
            "whole numbers": ({"table/embedding": table.astype(np.int32)}, "saved int32[11 128], wanted float32"),
            "wide": ({"table/embedding": table.astype(np.float64)}, "saved float64[11 128], wanted float32"),
        }[name]

    return spoil


@pytest.mark.parametrize("name", ["missing", "unexpected", "mismatched", "whole numbers", "wide"])
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, label_file, capsys, name):
    arrays, problem = wrong(name)(load_file(label_file))
    save_file(arrays, tmp_path / "wrong.safetensors")
    said = QUIET | {"init_parts": f"label:{tmp_path / 'wrong.safetensors'}"}
    assert main_jax.main(arguments(tmp_path / "run", **said)) == 2
    lines = capsys.readouterr().err.strip()
    assert lines.startswith("main_jax.py: init_parts: label: ") and problem in lines
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_all_that_differs_is_listed(tmp_path, trained, capsys):
    """Of a file of another part, and of a run of another net."""
    assert save_part.main([str(trained), "backbone", str(tmp_path / "backbone.safetensors")]) == 0
    with pytest.raises(ConfigError) as refused:
        fresh(tmp_path, init_parts=f"label:{tmp_path / 'backbone.safetensors'}")
    assert str(refused.value).count("unexpected") == len(load_file(tmp_path / "backbone.safetensors")) > 50
    with pytest.raises(ConfigError, match=r"init_parts: label: checkpoint .*\n.*mismatched .*\[11 128\]"):
        fresh(tmp_path, init_parts=f"label:{trained}", cond__label__d=64)


@pytest.mark.parametrize("fault", ["damaged", "no such step"])
def test_what_cannot_be_read_is_refused(tmp_path, trained, label_file, fault):
    (tmp_path / "cut.safetensors").write_bytes(label_file.read_bytes()[:-100])
    source = {"damaged": tmp_path / "cut.safetensors", "no such step": f"{trained}:4"}[fault]
    with pytest.raises(
        ConfigError, match="init_parts: label: .*(damaged, or cut off|no checkpoint 4; there are: 3, 6)"
    ):
        fresh(tmp_path, init_parts=f"label:{source}")


def test_pretrained_and_frozen_stays_to_the_bit_and_is_not_read_again(tmp_path, label_file):
    """The file is gone when the run goes on."""
    workdir, copy = tmp_path / "run", tmp_path / "copy.safetensors"
    shutil.copy(label_file, copy)
    said = {"init_parts": f"label:{copy}", "optim__freeze": "label:always"}
    train.run(quiet(workdir, train__steps=3, **said))
    copy.unlink()
    p = quiet(workdir, train__steps=6, **said)
    train.run(p)
    restored = runs.checkpoints(p, read_only=True).restore(runs._abstract_state(p)).state
    assert int(restored.updates) == 6
    for held in (restored.params, restored.ema["ema"]):
        same(by_path(held["conditioners_label"]), load_file(label_file))
    assert not [path for path in by_path(restored.opt_state) if "conditioners_label" in path]
    assert len({line["train/param_norm/backbone"] for line in log(workdir)}) == 6
    with pytest.raises(ConfigError, match="there is no file"):
        quiet(tmp_path / "another", **said)


def test_another_source_is_another_run(tmp_path, trained, label_file, capsys):
    said = {"init_parts": f"label:{label_file}", "train__steps": 3}
    assert main_jax.main(arguments(tmp_path / "run", **(QUIET | said))) == 0
    before = state_print(tmp_path / "run", **(QUIET | said))
    assert main_jax.main(arguments(tmp_path / "run", **(QUIET | said | {"init_parts": f"label:{trained}"}))) == 4
    assert "init_parts" in capsys.readouterr().err
    assert state_print(tmp_path / "run", **(QUIET | said)) == before


@pytest.mark.parametrize("step", ["latest", "best", "3"])
def test_a_saved_part_is_the_average_of_its_step(tmp_path, trained, capsys, step):
    out = tmp_path / "made" / "part.safetensors"
    assert save_part.main([str(trained), "backbone", str(out), f"--step={step}"]) == 0
    found = 3 if step == "3" else 6  # without validation the newest loss ranks, which fell
    assert f"66 arrays of backbone, 15,737 numbers, of step {found}" in capsys.readouterr().out
    wanted = jax.device_get(runs.ema_weights(quiet(trained), str(found)).state["backbone"])
    same(load_file(out), by_path(wanted))
    with safe_open(out, framework="numpy") as file:
        assert file.metadata() == {"part": "backbone", "step": str(found)}
    assert [path.name for path in out.parent.iterdir()] == ["part.safetensors"]


@pytest.mark.parametrize(
    ("part", "out", "step", "status", "problem"),
    [
        ("set", "a.safetensors", "latest", 2, "'set' is not a part of the net of"),
        ("label", "a.npz", "latest", 2, "must end in .safetensors"),
        ("label", "a.safetensors", "4", 5, "no checkpoint 4; there are: 3, 6"),
    ],
)
def test_what_cannot_be_saved_is_said(tmp_path, trained, capsys, part, out, step, status, problem):
    assert save_part.main([str(trained), part, str(tmp_path / out), f"--step={step}"]) == status
    said = capsys.readouterr().err
    assert said.startswith("save_part: ") and problem in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_old_file(tmp_path, trained, label_file, capsys, monkeypatch):
    out = tmp_path / "label.safetensors"
    shutil.copy(label_file, out)

    def full(partial, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(tensor_files.os, "replace", full)
    assert save_part.main([str(trained), "label", str(out)]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_bytes() == label_file.read_bytes() and list(tmp_path.iterdir()) == [out]
