"""Compiled programs that are kept over starts, so that the second start of a run need not compile again."""

import contextlib
import hashlib
import logging
import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax

log = logging.getLogger(__name__)

AUTO = "auto"
LIMIT = 5 * 2**30  # bytes that the folder of `AUTO` may hold when a run starts
ENVIRONMENT = "JAX_COMPILATION_CACHE_DIR"  # JAX's own variable, which goes before ours


def keep_compiled(where: str) -> Path | None:
    """Have JAX keep and find what it compiles; before anything is compiled.

    Args:
      where: a folder; ``auto``, one of the user's cache folder; empty for none.

    Returns:
      The folder, None where nothing is kept: asked so, or it cannot be written, which is said.
    """
    if ENVIRONMENT in os.environ:
        return Path(os.environ[ENVIRONMENT]) if os.environ[ENVIRONMENT] else None
    if not where:
        return None
    folder = where
    try:
        folder = automatic() if where == AUTO else Path(where).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if where == AUTO:
            forget_oldest(folder, LIMIT)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        log.warning("compile.cache: %s cannot be used (%s); every start compiles anew", folder, error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    return folder


def automatic() -> Path:
    """A folder for this JAX on this kind of processor: a home may be shared by unlike machines, and what XLA compiled
    for one may be an illegal instruction on the other."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "jax-diffusion" / f"jax-{version('jaxlib')}-{_processor()}"


def forget_oldest(folder: Path, limit: int) -> None:
    """Delete what was used longest ago until the files take at most ``limit`` bytes."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another start was faster
            found.append((path.stat(), path))
    held = sum(stat.st_size for stat, _ in found)
    for stat, path in sorted(found, key=lambda pair: max(pair[0].st_atime, pair[0].st_mtime)):
        if held <= limit:
            return
        path.unlink(missing_ok=True)
        held -= stat.st_size


def _processor() -> str:
    """What decides which instructions it has, as eight digits."""
    told = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told += sorted({line for line in lines if line.lower().startswith(("model name", "flags", "features"))})
    except OSError:
        pass  # not Linux: what platform says has to do
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]
