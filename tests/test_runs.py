"""A workdir that cannot be used, and a disk that fills: refused or ended with one line, and nothing is lost."""

import json
import logging
import os
import re
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import main_jax
from diffusion import destinations, disk, runs
from diffusion.checkpoint import Checkpoints
from diffusion.errors import MismatchError
from tests.tiny import arguments, log, program, state_print

# A write that Orbax gives up leaves tasks and event loops behind.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

REPO = Path(__file__).resolve().parent.parent
SMALL = {"train__steps": 6, "eval__metrics": "()", "sample__every": 0, "val__every": 0, "log__every": 1}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight") / "run"
    assert main_jax.main(arguments(workdir, **SMALL)) == 0
    return workdir


def until(path, limit=300):
    """The background is given up to ``limit`` seconds to bring a path about."""
    ends = time.monotonic() + limit
    while not path.exists():
        assert time.monotonic() < ends, path
        time.sleep(0.01)


def refused(capsys, workdir, **changed):
    """(exit status, the one line on stderr) of a run that ends early."""
    status = main_jax.main(arguments(workdir, **SMALL | changed))
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return status, lines[0]


def test_a_file_in_the_place_of_the_workdir_is_refused(tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    status, line = refused(capsys, tmp_path / "run")
    assert status == 2 and line.startswith("main_jax.py: --workdir: ") and line.count("run is a file") == 1
    assert (tmp_path / "run").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_two_runs_do_not_share_a_workdir(tmp_path, capsys):
    with runs.alone(program(tmp_path / "run")):
        status, line = refused(capsys, tmp_path / "run")
    assert status == 2 and "--workdir: another run is at work in" in line
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_too_little_room_for_one_checkpoint_is_refused_with_both_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 300_000)
    status, line = refused(capsys, tmp_path / "run")
    assert status == 1 and "a checkpoint needs about 1." in line and "300.0 kB are free" in line
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_too_little_room_for_all_that_is_kept_is_said(tmp_path, monkeypatch, caplog):
    p = program(tmp_path / "run")
    monkeypatch.setattr(disk, "free_bytes", lambda path: 3_000_000)
    with caplog.at_level(logging.WARNING):
        runs.check_room(p, runs.checkpoints(p))
    assert "4 checkpoints are kept" in caplog.text


def test_what_a_killed_save_left_does_not_take_the_room(tmp_path):
    p = program(tmp_path / "run")
    (p.workdir / "checkpoints" / "3.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    runs.check_room(p, runs.checkpoints(p))
    assert list((p.workdir / "checkpoints").iterdir()) == []


def test_a_log_on_a_full_disk_ends_the_run_and_keeps_no_half_line(straight, tmp_path, monkeypatch, capsys):
    whole, limits = destinations.jsonl, resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(run):
        """From the middle of step 5's line on no byte more finds room, here or in a checkpoint."""
        writer, path = whole(run), run.workdir / "metrics.jsonl"

        def write(step, metrics):
            if step == 5:
                until(run.workdir / "checkpoints" / "3")
                resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 16, limits[1]))
            writer.write(step, metrics)

        return replace(writer, write=write)

    workdir = tmp_path / "run"
    with monkeypatch.context() as full:
        full.setitem(destinations.WRITERS, "jsonl", filling)
        try:
            status, line = refused(capsys, workdir)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1 and line.startswith(f"main_jax.py: {workdir}/checkpoints: checkpoint ")
    assert "File too large" in line and "step 3 is the last good checkpoint. Make room" in line
    assert (workdir / "metrics.jsonl").read_bytes().endswith(b"\n"), "what found room of the line is cut off"
    assert main_jax.main(arguments(workdir, **SMALL)) == 0
    assert log(workdir) == log(straight) and state_print(workdir, **SMALL) == state_print(straight, **SMALL)


def test_a_checkpoint_says_what_it_was_made_with(straight):
    p = program(straight, **SMALL)
    found = runs.checkpoints(p, read_only=True).restore(runs._abstract_state(p)).meta
    assert found["counters"] == {"step": 6, "updates": 6, "bad_in_row": 0, "bad_total": 0}
    assert found["position"] == {"epoch": 2, "batch": 0} and found["environment"]["devices"] == 8
    assert found["config"] == json.loads((straight / "config.json").read_text())


def test_the_config_inside_the_checkpoint_counts_where_config_json_is_gone(straight, monkeypatch):
    p = program(straight, **SMALL | {"optim__lr": 0.5})
    monkeypatch.setattr(Checkpoints, "_set_aside", None)
    (straight / "config.json").rename(straight / "aside.json")
    try:
        with pytest.raises(MismatchError, match="optim.lr"):
            runs.start(p, runs.checkpoints(p), {})
    finally:
        (straight / "aside.json").rename(straight / "config.json")


# $1 is where a file system of 6 MB is mounted, $2 the program and $3 its arguments: it is filled, but for 300 kB,
# once a checkpoint is there; the last run finds room again.
FILLING = """
mount -t tmpfs -o size=6m none $1 || exit 99
(until ls $1/run/checkpoints | grep -qx '[0-9]*'; do sleep 0.02; done 2>/dev/null
 head -c $(( ($(df -k --output=avail $1 | tail -1) - 300) * 1024 )) /dev/zero > $1/filler) &
eval "$2 $3"; echo "first $?" >&2; wait
eval "$2 $3"; echo "second $?" >&2
rm $1/filler
eval "$2 $3"; echo "third $?" >&2
cp -r $1/run $4
"""


@pytest.mark.slow
def test_a_disk_that_fills_ends_the_run_and_nothing_is_lost(tmp_path):
    """The real command on a real file system."""
    (tmp_path / "mount").mkdir()
    changed = SMALL | {"train__steps": 12, "optim__schedule": "constant"}
    command = shlex.join([sys.executable, str(REPO / "main_jax.py")])
    given = shlex.join(arguments(tmp_path / "mount" / "run", **changed))
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FILLING, "sh", str(tmp_path / "mount"), command, given, str(tmp_path / "run")],
        cwd=REPO,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    first, second, _ = re.split("^(?:first|second|third) ", done.stderr, flags=re.MULTILINE)[:3]
    assert re.findall("^(?:first|second|third) .*", done.stderr, re.MULTILINE) == ["first 1", "second 1", "third 0"]
    # tasks that Orbax leaves behind may still say theirs after our line
    assert any("No space left on device" in line and "last good checkpoint" in line for line in first.splitlines())
    assert "a checkpoint needs about" in second
    assert main_jax.main(arguments(tmp_path / "straight", **changed)) == 0
    assert log(tmp_path / "run") == log(tmp_path / "straight")
    assert state_print(tmp_path / "run", **changed) == state_print(tmp_path / "straight", **changed)
