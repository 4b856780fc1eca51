"""Runs the benchmarks and writes their tables into docs/performance.md: ``make bench``.

    python -m benchmarks.performance [--only=contest-16,scaling-batch,…] [--page=docs/performance.md]

A table stands between two comments, ``<!-- NAME -->`` and ``<!-- end of NAME -->``; what a command prints replaces it,
under the command, the date and the machine. What does not run leaves its table as it was. To be run on a quiet machine.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.contest import machine

REPO = Path(__file__).resolve().parent.parent
SCALED = ("batch", "resolution", "depth", "images", "classes", "parameters", "devices")

# name of a table: module under benchmarks and its words
TABLES: dict[str, tuple[str, ...]] = {
    "contest-16": ("contest", "--batches=16", "--sampler-steps=4", "--rounds=5"),
    "contest-64": ("contest", "--batches=64", "--sampler-steps=2", "--rounds=5"),
    **{f"scaling-{part}": ("scaling", f"--only={part}") for part in SCALED},
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(TABLES), help=", ".join(TABLES))
    parser.add_argument("--page", type=Path, default=REPO / "docs" / "performance.md")
    given = parser.parse_args(argv)
    names = given.only.split(",")
    if unknown := [name for name in names if name not in TABLES]:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(TABLES)}")
    failed = [name for name in names if not written(name, given.page)]
    if failed:
        print(f"did not run, and were left as they were: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def written(name: str, page: Path) -> bool:
    """Run one benchmark and put what it prints into the page; False if it fails."""
    module, *words = TABLES[name]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *words], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        return False
    told = f"`python -m benchmarks.{module} {' '.join(words)}`, {date.today()}, {machine()}, JAX {version('jax')}"
    page.write_text(replaced(page.read_text(), name, f"{told}\n\n{done.stdout.strip()}"))
    return True


def replaced(page: str, name: str, table: str) -> str:
    """The page with another table.

    Raises:
      ValueError: the page has no place, or several, for a table of this name.
    """
    place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end of {re.escape(name)} -->)", re.DOTALL)
    page, count = place.subn(lambda found: f"{found[1]}\n{table}\n{found[2]}", page)
    if count != 1:
        raise ValueError(f"the page has {count} places '<!-- {name} --> … <!-- end of {name} -->'; it must have one")
    return page


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
