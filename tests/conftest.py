"""Every test runs on 8 emulated CPU devices, without a network, with one compilation cache for the whole run.

The settings are environment variables, set before JAX is first imported, so that the programs the tests
start inherit them. The 8 devices share the threads of a few cores, so wall time means nothing here.
"""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

REPO = Path(__file__).resolve().parent.parent
NOWHERE = "http://127.0.0.1:9"

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "8",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_COMPILATION_CACHE_DIR": str(REPO / ".cache" / f"jax-tests-{version('jax')}"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "GLIBC_TUNABLES": "",  # a choice, so that `diffusion.heap` leaves the many programs of one worker alone
    "WANDB_MODE": "offline",
    "HTTP_PROXY": NOWHERE,
    "HTTPS_PROXY": NOWHERE,
    "NO_PROXY": "localhost,127.0.0.1",
}
if int(version("jax").split(".")[1]) >= 10:
    # a starved machine may keep one of the eight device threads waiting for longer than the 40 s that XLA allows
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_collective_call_terminate_timeout_seconds=600"
    )


class Finished(NamedTuple):
    rc: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session", autouse=True)
def eight_devices() -> None:
    import jax

    assert jax.device_count() == 8, "JAX was imported before tests/conftest.py could set its devices"
    assert jax.config.jax_numpy_rank_promotion == "raise"


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_file() -> Iterator[None]:
    """What a file compiled is let go with it: a worker that kept all came to 9 GB."""
    yield
    import jax

    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 10, 20 and 30; tests copy them."""
    from tests.checkpoints import write

    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    write(directory, 10, 20, 30)
    return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.fixture(scope="session")
def run_main() -> Callable[..., Finished]:
    """``run_main("--mode=describe", ...)`` runs main_jax.py on its own, by default with one device.

    ``devices`` is how many CPU devices it sees, ``env`` adds variables (None removes one), ``timeout`` is in
    seconds. Nothing is raised for an exit status: look at ``rc``.
    """

    def run(*args: str, devices: int = 1, env: dict | None = None, timeout: float = 600) -> Finished:
        wanted = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)} | (env or {})
        done = subprocess.run(
            [sys.executable, REPO / "main_jax.py", *map(str, args)],
            cwd=REPO,
            env={name: str(value) for name, value in wanted.items() if value is not None},
            timeout=timeout,
            capture_output=True,
            text=True,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run
