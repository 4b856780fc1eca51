"""A part of a net as a safetensors file: its tensors are named by their paths within the part, joined by "/"."""

from pathlib import Path
from typing import Any

import numpy as np

from diffusion import tensor_files
from diffusion.errors import DataError
from diffusion.leaves import by_path
from diffusion.manifest import manifest, mismatches

WIDENED = ("float16", "bfloat16")


def read(path: Path, leaves: Any) -> dict[str, np.ndarray]:
    """{path within the part: array}, float16 and bfloat16 widened to float32; what else the file says is ignored.

    Args:
      leaves: the part's shapes and types.

    Raises:
      DataError: a damaged file, or one whose tensors are not exactly those of the part; all that differ are listed.
    """
    found = {name: _widened(tensor) for name, tensor in tensor_files.read(path).items()}
    lines = mismatches(manifest(found), manifest(by_path(leaves)))
    if lines:
        raise DataError(f"{path} does not hold this part of the net\n  " + "\n  ".join(lines))
    return found


def _widened(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(np.float32) if tensor.dtype.name in WIDENED else tensor
