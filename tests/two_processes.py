"""Real processes on this machine, started by launch/local.sh, of which one may be made to die at a certain step."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")  # of conftest.py; JAX warns of them
GRACE = 40  # seconds that the others may take to end by themselves

# main_jax.py, which in process DIES_WHO does DIES_HOW as soon as step DIES_AT is dispatched (an exception: is read);
# the ids of the training rows that each process was given go to READS
MAIN = """
import os, signal, sys
sys.path.insert(0, os.environ["REPO"])
import main_jax
import numpy as np
from diffusion import train
from diffusion.data.loader import Loader
from diffusion.errors import DataError

me = next(word.partition("=")[2] for word in sys.argv if word.startswith("--config.cluster.process="))
how, at = os.environ.get("DIES_HOW", ""), int(os.environ.get("DIES_AT", -1))
how = how if os.environ.get("DIES_WHO") == me else ""
dispatch, load = train.Loop._dispatch, Loader._load

def dispatching(self, *args):
    dispatch(self, *args)
    if self.step == at and how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))

def loading(self, step):
    if step == at and how == "DataError" and self.shuffle:
        raise DataError("record 3: /data/3.png is truncated")
    batch = load(self, step)
    if self.shuffle and "READS" in os.environ:
        np.save(os.path.join(os.environ["READS"], f"{me}_{step}.npy"), batch.id[batch.valid])
    return batch

train.Loop._dispatch, Loader._load = dispatching, loading
sys.exit(main_jax.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Ended:
    """What launch/local.sh returned; ``said`` is its standard error, where the others' words are shown if they fail."""

    rc: int
    out: str
    said: str


def local(folder: Path, *args: str, count: int = 2, program: str = MAIN, timeout: float = 600, **env: object) -> Ended:
    """Run ``count`` processes of ``program`` to their end; scratch files go to ``folder``."""
    main = folder / "main.py"
    main.write_text(program)
    added = {"PYTHON": sys.executable, "MAIN": main, "REPO": REPO, "GRACE": GRACE, "JAX_NUM_CPU_DEVICES": 1} | env
    wanted = {name: value for name, value in os.environ.items() if name not in PROXIES}
    done = subprocess.run(
        [REPO / "launch" / "local.sh", str(count), *map(str, args)],
        cwd=REPO,
        env=wanted | {name: str(value) for name, value in added.items()},
        timeout=timeout,
        capture_output=True,
        text=True,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def copied(run: Path, to: Path, *, without: int | None = None) -> Path:
    """A copy of a run's folder, without the checkpoint of one step."""
    shutil.copytree(run, to)
    if without is not None:
        shutil.rmtree(to / "checkpoints" / str(without))
    return to
