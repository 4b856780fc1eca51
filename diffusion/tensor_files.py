"""Files of named tensors: safetensors, one or in shards, and torch's pickles, which run no code here."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffusion.errors import DataError

Tensors = dict[str, np.ndarray]

PICKLED = (".pth", ".pt", ".bin")
# what a Hugging Face folder holds, the best first
IN_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read(path: Path) -> Tensors:
    """All tensors of a file, or of a Hugging Face folder or index with its shards.

    Raises:
      DataError: an unknown kind of file, a damaged one, a shard that is missing, or a package that is missing.
    """
    tensors: Tensors = {}
    for part in parts(path):
        read_part = _read_pickled if pickled(part) else _read_safetensors
        for name, tensor in read_part(part).items():
            if name in tensors:
                raise DataError(f"{part}: {name} is in another shard as well")
            tensors[name] = tensor
    if lost := _indexed(path) - set(tensors):
        raise DataError(f"{path}: its index names {len(lost)} tensors that no shard holds ({min(lost)})")
    return tensors


def parts(path: Path) -> list[Path]:
    """The files that hold the tensors.

    Raises:
      DataError: no such file, or an unknown kind.
    """
    path = _entry(path)
    found = [path]
    if path.name.endswith(".index.json"):
        found = sorted({path.parent / shard for shard in _index(path).values()})
    for part in found:
        if part.suffix not in (".safetensors", *PICKLED):
            raise DataError(f"{part}: weights are read from .safetensors, {', '.join(PICKLED)} or a folder of them")
        if not part.is_file():
            raise DataError(f"{part} does not exist")
    return found


def pickled(path: Path) -> bool:
    return path.suffix in PICKLED


def source_of(path: Path) -> str | None:
    """The sha256 of the file that a conversion was made from; None for any other file or folder."""
    return _metadata(path).get("source_sha256") if path.suffix == ".safetensors" else None


def read_conversion(path: Path) -> Tensors:
    """The tensors that ``save_conversion`` wrote.

    Raises:
      DataError: they are not those that were saved.
    """
    tensors = _read_safetensors(path)
    if _digest(tensors) != _metadata(path).get("tensors_sha256"):
        raise DataError(f"{path} does not hold what was saved: it was changed or damaged; delete it")
    return tensors


def save_conversion(path: Path, tensors: Mapping[str, np.ndarray], source_sha256: str) -> None:
    """Writes safetensors that appear whole or not at all; raises OSError where the disk refuses."""
    save(path, tensors, {"source_sha256": source_sha256, "tensors_sha256": _digest(tensors)})


def save(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes safetensors that appear whole or not at all.

    Raises:
      OSError: the disk refuses. DataError: the package is missing.
    """
    safetensors = _safetensors()
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        # np.array, for safetensors would write the memory of a strided array as it lies
        save_file({name: np.array(t, order="C") for name, t in tensors.items()}, partial, dict(metadata))
        os.replace(partial, path)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        Path(partial).unlink(missing_ok=True)


def _entry(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in IN_FOLDER:
        if (path / name).exists():
            return path / name
    raise DataError(f"{path} holds no weights; looked for {', '.join(IN_FOLDER)}")


def _index(path: Path) -> dict[str, str]:
    try:
        shards = json.loads(path.read_text())["weight_map"]
        return {str(name): str(Path(shard).name) for name, shard in shards.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not an index of shards ({error!r})") from error


def _indexed(path: Path) -> set[str]:
    entry = _entry(path)
    return set(_index(entry)) if entry.name.endswith(".index.json") else set()


def _read_safetensors(path: Path) -> Tensors:
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise DataError(f"{path} is not readable as safetensors ({error}): damaged, or cut off") from error


def _metadata(path: Path) -> dict[str, str]:
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"{path} is not readable as safetensors ({error}): damaged, or cut off") from error


def _safetensors():
    try:
        import safetensors
    except ImportError as error:
        raise DataError("weights are read by the package safetensors: pip install safetensors") from error
    return safetensors


def _read_pickled(path: Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise DataError(
            f"{path} is read by torch, once, to convert it: "
            "pip install torch --index-url https://download.pytorch.org/whl/cpu"
        ) from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly anything; all of it is said
        raise DataError(f"{path} is not readable as a file of tensors ({_line(error)})") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise DataError(f"{path} is not a dict of tensors; save the network's state_dict()")
    return {name: _array(t, torch) for name, t in tensors.items()}


def _array(tensor, torch) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:  # NumPy has none
        tensor = tensor.float()
    return tensor.detach().numpy()


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor))
    return digest.hexdigest()
