"""What a start costs: CPU seconds of ``--mode=describe`` against those of ``import jax, flax, optax``, taken in turn.

    python -m benchmarks.startup [--config=configs/digits.py] [--rounds=7]

Prints a line of Markdown: the medians over the rounds in seconds of user and system time, and of the ratios within a
round. A first round, which may write Python's byte code, does not count.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    imports = ["-c", "import jax, flax, optax"]
    describe = ["main_jax.py", f"--config={given.config}", "--mode=describe"]
    rounds = [(cpu_seconds(imports), cpu_seconds(describe)) for _ in range(given.rounds + 1)][1:]
    imported, described = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    print(f"| {given.config} | import {imported:.2f} s | describe {described:.2f} s | {ratio:.2f} times |")


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of a Python of its own on CPU devices."""
    before = _of_children()
    command, env = [sys.executable, *arguments], os.environ | {"JAX_PLATFORMS": "cpu"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # libraries have theirs from pip
    subprocess.run(command, cwd=REPO, env=env, check=True, stdout=subprocess.DEVNULL)
    return _of_children() - before


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
