"""Runs that are killed, in programs of their own, end up bit for bit where an undisturbed run does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import main_jax
from tests.tiny import arguments, log, state_print

REPO = Path(__file__).resolve().parent.parent

# dies by argv[1] as soon as step argv[2] is dispatched
DYING = """
import os, signal, sys
import main_jax
from diffusion import train

how, at, dispatch = sys.argv[1], int(sys.argv[2]), train.Loop._dispatch

def dying(self, *args):
    dispatch(self, *args)
    if self.step == at:
        if how == "_exit":
            os._exit(9)
        for name in how.split("+"):
            os.kill(os.getpid(), getattr(signal, name))

train.Loop._dispatch = dying
sys.exit(main_jax.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight") / "run"
    assert main_jax.main(arguments(workdir)) == 0
    return workdir


@pytest.mark.parametrize(
    ("how", "at", "status"),
    [
        ("_exit", 8, 9),  # mid-epoch, with a window of the log open and steps since the last save
        pytest.param("SIGKILL", 3, -9, marks=pytest.mark.slow),  # as step 3 is being saved
        ("SIGTERM", 7, 75),
        ("SIGINT", 11, 75),  # seen by the last step, before its events
        ("SIGTERM+SIGTERM", 5, 128 + 15),
    ],
)
def test_a_killed_run_goes_on_exactly(straight, tmp_path, how, at, status):
    workdir = tmp_path / "run"
    command = [sys.executable, "-c", DYING, how, str(at), *arguments(workdir)]
    died = subprocess.run(command, cwd=REPO, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    assert died.returncode == status, died.stderr
    if status == 75:
        assert "the same command goes on" in died.stderr
    assert main_jax.main(arguments(workdir)) == 0
    assert state_print(workdir) == state_print(straight)
    assert log(workdir) == log(straight)
