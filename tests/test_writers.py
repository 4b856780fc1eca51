import json
import math
import os
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffusion import destinations
from diffusion.destinations import WRITERS, Run, Writer, unfailing
from diffusion.writers import MultiWriter, make_writers

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
CLASSES = [{"class": "zero", "n": 18, "fd": 3.25}, {"class": "one", "n": 18, "fd": None}]
FACTS = {"data": "digits", "train": 1437, "classes": 10, "parameters": 1_234_567}


def a_run(workdir, **options):
    """Everything a run says, twice over with steps 10 and 20."""
    writers = make_writers(workdir, wandb_project="test", name="digits", offset=0, **options)
    writers.hparams({"optim": {"lr": 1e-3}}, FACTS)
    for step in (10, 20):
        writers.write(step, {"train/loss": 1 / step, "train/lr": np.float32(1e-3), "train/bad_steps": np.int32(0)})
        writers.write(step, {"eval/fd": step + 0.5, "eval/fd/class/zero": 2.0 * step, "eval/kid": None})
        writers.image(step, "samples", PICTURE)
        writers.table(step, "classes", CLASSES)
    writers.flush()
    state = writers.state()
    writers.close()
    return state


def logged(workdir, *but):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(entry).items() if k not in but} for entry in lines]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    import wandb

    workdir = tmp_path_factory.mktemp("tracked")
    state = a_run(workdir, wandb=True, tensorboard=True)
    wandb.teardown()  # waits for the process that writes the file; the end of a program does so too
    return workdir, state


def test_trackers_change_nothing_else(tracked, tmp_path):
    workdir, state = tracked
    alone = a_run(tmp_path, wandb=False, tensorboard=False)
    assert logged(workdir, "time") == logged(tmp_path, "time")
    assert logged(tmp_path, "time")[1] == {
        "step": 10,
        "eval/fd": 10.5,
        "eval/fd/class/zero": 20.0,
        "eval/kid": None,
    }
    assert alone == {"offset": (tmp_path / "metrics.jsonl").stat().st_size, "wandb_id": None}
    assert state["wandb_id"] and not (tmp_path / "tensorboard").exists() and not (tmp_path / "wandb").exists()


def wandb_records(workdir):
    """The records of the offline runs: a LevelDB log, blocks of 32 KiB after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
        content, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(content):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, length, kind = struct.unpack("<IHB", content[at : at + 7])
            whole += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # the whole of a record, or its last part
                yield path.stem, wandb_internal_pb2.Record.FromString(whole)
                whole = b""


def wandb_history(workdir):
    for _, record in wandb_records(workdir):
        if record.WhichOneof("record_type") == "history":
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def test_the_offline_wandb_run_holds_every_metric(tracked):
    workdir, state = tracked
    history = list(wandb_history(workdir))
    for entry in logged(workdir, "time"):
        assert any(entry.items() <= found.items() for found in history), entry
    for name in ("samples/path", "classes/path"):
        assert [found["step"] for found in history if name in found] == [10, 20]
    assert {name for name, _ in wandb_records(workdir)} == {f"run-{state['wandb_id']}"}
    records = [record for _, record in wandb_records(workdir)]
    assert any(record.metric.glob_name == "*" and record.metric.step_metric == "step" for record in records)
    config = {item.key: json.loads(item.value_json) for record in records for item in record.config.update}
    assert config == {"optim": {"lr": 1e-3}, "facts": FACTS}


def test_a_resumed_run_keeps_its_wandb_id(tracked):
    workdir, state = tracked
    again = make_writers(workdir, wandb=False, tensorboard=False, **state)
    assert again.state() == state, "also while W&B is off"
    again.close()


def events(workdir):
    """({tag: [(step, value)]}, {tag: {step: (h, w)}}, {tag: text}) of a TensorBoard folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loaded = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    tags = loaded.Tags()
    scalars, texts, pictures = {}, {}, {}
    for tag in tags["scalars"]:
        scalars[tag] = [(event.step, event.value) for event in loaded.Scalars(tag)]
    for tag in tags["images"]:
        pictures[tag] = {event.step: (event.height, event.width) for event in loaded.Images(tag)}
    for tag in tags["tensors"]:
        texts[tag] = loaded.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    return scalars, pictures, texts


def test_tensorboard_is_read_back(tracked):
    scalars, pictures, texts = events(tracked[0])
    assert scalars["eval/fd/class/zero"] == [(10, 20.0), (20, 40.0)]
    assert scalars["train/lr"][0] == (10, pytest.approx(1e-3))
    assert math.isnan(scalars["eval/kid"][0][1])
    assert pictures == {"samples": {10: (4, 4), 20: (4, 4)}}
    assert '"parameters": 1234567' in texts["facts"] and '"lr"' in texts["config"]


def test_tensorboard_hides_what_a_killed_run_left(tmp_path):
    for first, value in ((10, 1.0), (20, 2.0)):  # the second run goes on after step 10
        writer = WRITERS["tensorboard"](Run(tmp_path, offset=0))
        for step in range(first, 50, 10):
            writer.write(step, {"train/loss": value})
        writer.close()
    assert events(tmp_path)[0]["train/loss"] == [(10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]


def test_tensorboard_without_tensorflow(tmp_path):
    """A TensorFlow that is installed is left alone: importing this one fails."""
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    code = f"""
import numpy as np
from diffusion.writers import make_writers
writers = make_writers({str(tmp_path)!r}, tensorboard=True, wandb=True)
writers.write(1, {{"train/loss": 1.0}})
writers.image(1, "samples", np.zeros((4, 4, 3), np.uint8))
writers.hparams({{}}, {{}})
writers.close()
"""
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert events(tmp_path)[0] == {"train/loss": [(1, 1.0)]}


def test_the_log_of_a_killed_run_equals_that_of_another(tmp_path):
    def part(workdir, steps, offset):
        writers = make_writers(workdir, tensorboard=False, offset=offset)
        for step in steps:
            writers.write(step, {"train/loss": 1 / step})
        writers.flush()
        return writers.state()["offset"]

    part(tmp_path / "straight", range(1, 9), 0)
    saved = part(tmp_path / "killed", range(1, 5), 0)
    part(tmp_path / "killed", range(5, 8), saved)  # lost: the checkpoint does not know them
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 8, "ti')
    part(tmp_path / "killed", range(5, 9), saved)
    assert logged(tmp_path / "killed", "time") == logged(tmp_path / "straight", "time")

    part(tmp_path / "killed", range(1, 3), 0)
    assert [entry["step"] for entry in logged(tmp_path / "killed")] == [1, 2]


def test_appending_drops_half_a_line_only(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "ti')
    writers = make_writers(tmp_path, tensorboard=False)
    writers.write(3, {})
    assert [entry["step"] for entry in logged(tmp_path)] == [1, 3]


def test_a_log_shorter_than_the_checkpoint_knows_is_said(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    writers = make_writers(tmp_path, tensorboard=False, offset=100)
    writers.write(2, {})
    assert "88 bytes" in capsys.readouterr().out
    assert [entry["step"] for entry in logged(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    "value, written",
    [
        (float("nan"), None),
        (float("inf"), None),
        (None, None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array(2.5), 2.5),
    ],
)
def test_values_in_the_log(tmp_path, value, written):
    make_writers(tmp_path, tensorboard=False).write(np.int64(7), {"val/loss": value})
    entry = logged(tmp_path, "time")[0]
    assert entry == {"step": 7, "val/loss": written} and type(entry["val/loss"]) is type(written)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_console(tmp_path, capsys):
    a_run(tmp_path, tensorboard=False)
    destinations.console(Run(None)).write(10, {"val/loss": 0.25, "val/odd": None, "eval/fd": 1.0, "train/loss": 1.0})
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "step 10  val/loss 0.25  val/odd -"
    assert said[:4] == [
        "digits  data digits  train 1,437  classes 10  parameters 1,234,567",
        "classes, step 10",
        "class   n    fd",
        " zero  18  3.25",
    ]


def test_a_long_table_is_cut(capsys):
    destinations.console(Run(None)).table(1, "classes", [{"class": i} for i in range(1000)])
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 43 and out[-1] == "… and 960 more"


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    writers = make_writers(tmp_path / "run", wandb=True)
    writers.write(1, {"train/loss": 1.0})
    writers.close()
    assert writers.writers == [] and not (tmp_path / "run").exists()


@pytest.mark.parametrize("fails", ["start", "write", "close"])
def test_the_failure_of_a_tracker_is_said_once(fails, tmp_path, capsys):
    calls = []

    def boom(*_):
        calls.append(1)
        raise ConnectionError("no route")

    def tracker(run):
        return boom() if fails == "start" else Writer(**{fails: boom})

    writers = MultiWriter([unfailing("W&B", tracker)(Run(tmp_path)), destinations.jsonl(Run(tmp_path))])
    for step in (1, 2):
        writers.write(step, {"train/loss": 1.0})
    assert len(logged(tmp_path)) == 2 and writers.state()["offset"] > 0
    writers.close()
    assert capsys.readouterr().err == "W&B failed, the run goes on without it: ConnectionError: no route\n"
    assert len(calls) == 1


def test_the_failure_of_the_log_is_not_hidden(tmp_path):
    writers = make_writers(tmp_path, tensorboard=False)
    writers.close()
    with pytest.raises(ValueError, match="closed"):
        writers.write(1, {"train/loss": 1.0})


@pytest.mark.parametrize(
    "env, netrc, mode",
    [
        ({}, "", "offline"),
        ({}, "machine api.wandb.ai login user password x", "online"),
        ({}, "machine github.com login user password x", "offline"),
        ({"WANDB_BASE_URL": "https://wandb.example.org/"}, "machine wandb.example.org", "online"),
        ({"WANDB_API_KEY": "x"}, "", "online"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "", "offline"),
    ],
)
def test_wandb_is_online_only_with_a_key(env, netrc, mode, tmp_path, monkeypatch):
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "netrc").write_text(netrc)
    for name, value in ({"NETRC": str(tmp_path / "netrc"), "HOME": str(tmp_path)} | env).items():
        monkeypatch.setenv(name, value)
    asked = {}

    def init(**options):
        asked.update(options)
        raise ConnectionError("far enough")

    monkeypatch.setattr(wandb, "init", init)
    WRITERS["wandb"](Run(tmp_path, wandb_id="abc"))
    assert (asked["mode"], asked["resume"]) == (mode, "allow" if mode == "online" else None)
    assert asked["id"] == "abc"
