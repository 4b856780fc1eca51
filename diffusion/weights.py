"""Small files of frozen weights: float16 arrays, what they were trained on, and a hash that is checked."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from diffusion.data import archive
from diffusion.errors import DataError


@dataclass(frozen=True, eq=False)
class Weights:
    """Trained weights and their origin.

    Attributes:
      tree: nested dict of float16 arrays.
      fingerprint: sha256 of the data and recipe that made them.
      accuracy: on held-out data, in [0, 1].
    """

    tree: dict[str, Any]
    fingerprint: str
    accuracy: float

    @property
    def sha256(self) -> str:
        """Hash of names, shapes and values alone, so equal weights have equal names everywhere."""
        return tree_sha256(self.tree)


def tree_sha256(tree: dict[str, Any] | None) -> str:
    """Hash, in hex, of the names, shapes and values of a nested dict of arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(flatten_dict(tree or {}, sep="/").items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Header:
    sha256: str
    fingerprint: str
    accuracy: float


def save_weights(path: Path, weights: Weights) -> None:
    """Writes an npz that appears whole or not at all; the same weights give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps(asdict(_Header(weights.sha256, weights.fingerprint, weights.accuracy)))
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        np.savez(file, header=np.array(header), **flatten_dict(weights.tree, sep="/"))
    os.replace(partial, path)


def load_weights(path: Path) -> Weights:
    """Reads what ``save_weights`` wrote; nothing pickled is loaded.

    Raises:
      DataError: a file that cannot be read, or whose weights are not those that were saved.
    """
    try:
        arrays = {name: archive.array(path, name, header) for name, header in archive.headers(path).items()}
        header = _Header(**json.loads(str(arrays.pop("header"))))
    except (DataError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a readable weights file ({error})") from error
    weights = Weights(unflatten_dict(arrays, sep="/"), header.fingerprint, header.accuracy)
    if weights.sha256 != header.sha256:
        raise DataError(
            f"{path}: the weights hash to {weights.sha256[:8]}, the file says {header.sha256[:8]}: "
            "it was changed or damaged"
        )
    return weights
