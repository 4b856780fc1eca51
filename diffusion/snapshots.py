"""Sealed npz files of averaged weights: the snapshots that a run leaves, and what is made of them afterwards.

float32, as the averages are: other widths are sums of snapshots with coefficients of both signs, whose absolute values
add up to some forty for the narrowest, which the 11 bits of float16 would not bear.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.data import archive
from diffusion.errors import DataError
from diffusion.leaves import by_path, host
from diffusion.types import Params

FOLDER = "ema_snapshots"
HEADER = "header"


@dataclass(frozen=True)
class Origin:
    """Where averages come from.

    Attributes:
      step: batches consumed.
      updates: successful ones among them, which the widths are shares of.
      sigma_rels: the average's name -> its relative width.
    """

    step: int
    updates: int
    sigma_rels: dict[str, float]


def path_at(workdir: Path, step: int) -> Path:
    """ema_snapshots/step_<8 digits>.npz."""
    return workdir / FOLDER / f"step_{step:08d}.npz"


def in_workdir(workdir: Path) -> list[Path]:
    """The snapshots of a run, the oldest first."""
    return sorted((workdir / FOLDER).glob("step_*.npz"), key=lambda path: int(path.stem.removeprefix("step_")))


def forget_after(workdir: Path, step: int) -> None:
    """Delete what was taken later than a step, which a run that goes on there takes again, and what is half-written."""
    if jax.process_index() == 0:
        late = [path for path in in_workdir(workdir) if int(path.stem.removeprefix("step_")) > step]
        for path in [*late, *(workdir / FOLDER).glob(".step_*")]:
            path.unlink()


def bytes_of(averages: Any) -> int:
    """About how large a snapshot of these arrays, or of their shapes, is: 0.3 kB a leaf come on top of the numbers."""
    leaves = jax.tree.leaves(averages)
    return sum(4 * int(np.prod(leaf.shape, dtype=np.int64)) + 300 for leaf in leaves)


def write(path: Path, origin: Origin, averages: Mapping[str, Params]) -> None:
    """A file that appears whole or not at all; the same averages give the same bytes.

    Every process calls it, as each may hold a part of a leaf; process 0 writes, one leaf in its memory at a time.

    Args:
      averages: name -> weights.
    """
    leaves = sorted(by_path(averages).items())
    if jax.process_index() != 0:
        for _, leaf in leaves:
            host(leaf)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, digest = path.with_name(f".{path.name}.{os.getpid()}"), _digest(origin)
    try:
        with zipfile.ZipFile(partial, "w") as file:
            for name, leaf in leaves:
                value = np.asarray(host(leaf), np.float32, order="C")
                _count(digest, name, value)
                _add(file, name, value)
            _add(file, HEADER, np.array(json.dumps(asdict(origin) | {"sha256": digest.hexdigest()})))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def origin_of(path: Path) -> Origin:
    """What a file says of itself; `read` verifies it. Raises DataError where it is not readable."""
    headers = archive.headers(path)
    if HEADER not in headers:
        raise DataError(f"{path}: not a snapshot of averages, or damaged: it has no header")
    return _parsed(path, archive.array(path, HEADER, headers[HEADER]))[0]


def read(path: Path) -> tuple[Origin, dict[str, np.ndarray]]:
    """(origin, {"average/params/…": f32}), equal bit for bit to what was written.

    Raises:
      DataError: the file is damaged, or is none that `write` made.
    """
    arrays = archive.arrays(path)
    origin, said = _parsed(path, arrays.pop(HEADER, None))
    digest = _digest(origin)
    for name, value in sorted(arrays.items()):
        _count(digest, name, value)
    if digest.hexdigest() != said:
        raise DataError(f"{path}: damaged: it does not match its checksum; put back a good copy, or delete it")
    return origin, arrays


def _parsed(path: Path, header: Any) -> tuple[Origin, str]:
    try:
        fields = json.loads(str(header))
        said = fields.pop("sha256")
        return Origin(**fields), said
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a snapshot of averages, or damaged ({error})") from error


def _digest(origin: Origin) -> Any:
    return hashlib.sha256(json.dumps(asdict(origin), sort_keys=True).encode())


def _count(digest: Any, name: str, value: np.ndarray) -> None:
    digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
    digest.update(np.ascontiguousarray(value).tobytes())


def _add(file: zipfile.ZipFile, name: str, value: np.ndarray) -> None:
    with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:  # of 1980: no clock in the bytes
        np.lib.format.write_array(member, value, allow_pickle=False)
