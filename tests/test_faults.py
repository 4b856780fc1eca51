"""A dozen of the fault runner's kills; ``make faults`` fires hundreds."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def test_a_dozen_kills_change_nothing():
    command = [sys.executable, "-m", "tests.faults", "--kills=12", "--real=2"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 runs ended otherwise" in done.stdout
