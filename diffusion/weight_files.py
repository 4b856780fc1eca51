"""Published weights: found by path, URL or in cache folders, checked by hash and keys, read to {name: array}.

The sha256 of the file is computed at every start (a second for a gigabyte), never believed from an earlier one.
Torch is needed once for each ``.pth``: its tensors are then kept as safetensors in the cache folder, in a file that
records the sha256 of its source and of its own tensors. Such a conversion may stand in for its source.
"""

import hashlib
import http.client
import logging
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion import tensor_files
from diffusion.errors import ConfigError, DataError
from diffusion.tensor_files import Tensors

log = logging.getLogger(__name__)

SECONDS = 60  # of silence after which a download is given up
BLOCK = 1 << 20  # bytes read at a time
UNTRACKED = r".*\bnum_batches_tracked"  # a counter of torch's BatchNorm that no inference reads


@dataclass(frozen=True)
class WeightFile:
    """A published file, or folder of files, of weights.

    Attributes:
      names: of the file or folder as it is published, the usual one first.
      sha256: of the file, hex, whole or its first 8 or more digits; None where none is pinned.
      urls: where it is published, for people.
      hub: its model id where it is on Hugging Face ("openai/clip-vit-base-patch32"); their cache is searched too.
    """

    names: tuple[str, ...]
    sha256: str | None = None
    urls: tuple[str, ...] = ()
    hub: str = ""


@dataclass(frozen=True, eq=False)
class Loaded:
    """Tensors by their published names, and the sha256 of the file that they come from."""

    tensors: Tensors
    sha256: str
    path: Path


def load(
    given: str,
    file: WeightFile,
    *,
    field: str,
    shapes: Mapping[str, tuple[int, ...]],
    ignore: Iterable[str] = (),
) -> Loaded:
    """Finds, checks and reads weights: what a row of a table calls.

    Args:
      given: a path, a URL, or "" to look in the cache folders.
      field: of the config, named in every message.
      shapes: of all tensors that must be there.
      ignore: patterns of names that may be there as well.

    Raises:
      ConfigError: no such file, another file, a damaged one, or a package that is missing.
    """
    try:
        path = find(given, file)
        loaded = read(path, file)
        check_keys(loaded.tensors, shapes, ignore, path)
    except DataError as error:
        raise ConfigError(field, str(error)) from error
    return loaded


def cache_folders() -> list[Path]:
    """Where weights are looked for; the first is where downloads and conversions are kept."""
    home = Path.home() / ".cache"
    own = Path(os.environ.get("DIFFUSION_WEIGHTS") or home / "diffusion-weights").expanduser()
    return [own, Path(os.environ.get("TORCH_HOME") or home / "torch") / "hub/checkpoints"]


def find(given: str, file: WeightFile) -> Path:
    """The file or folder; a URL is downloaded whole or not at all, and its hash checked before it gets its name.

    Raises:
      DataError: nothing there, a download that failed, or one of another hash.
    """
    if re.match(r"(https?|file)://", given):
        return _downloaded(given, file)
    if given:
        path = Path(given).expanduser()
        if not path.exists():
            raise DataError(f"{path} does not exist; {_advice(file)}")
        return path
    for path in _candidates(file):
        if path.exists():
            return path
    folders = ", ".join(map(str, [*cache_folders(), *([_hub_cache()] if file.hub else [])]))
    raise DataError(f"no {' or '.join(file.names)} in {folders}; {_advice(file)}")


def read(path: Path, file: WeightFile | None = None) -> Loaded:
    """Reads a file, a sharded folder, or the conversion of a ``.pth`` that was read before.

    Raises:
      DataError: another hash than the pinned one, a damaged file, or a package that is missing.
    """
    pinned = (file.sha256 if file else None) or ""
    source = tensor_files.source_of(path)
    sha256 = source or _sha256(path)
    if not sha256.startswith(pinned):
        raise DataError(
            f"{path} has sha256 {sha256[:16]}…, but {file.names[0]} has {pinned[:16]}…: "
            "another file, or a damaged one (then delete it)"
        )
    if source:
        return Loaded(tensor_files.read_conversion(path), sha256, path)
    parts = tensor_files.parts(path)
    if any(tensor_files.pickled(part) for part in parts):
        return Loaded(_through_conversion(path, sha256), sha256, path)
    return Loaded(tensor_files.read(path), sha256, path)


def check_keys(
    found: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    ignore: Iterable[str] = (),
    where: Path | str = "the weights",
) -> None:
    """Refuses another network's file by its list of keys; ``num_batches_tracked`` may be there or not.

    Args:
      shapes: of all tensors that must be there.
      ignore: patterns (whole names) of tensors that may be there as well.

    Raises:
      DataError: naming the first few keys that are missing, unexpected or of another shape.
    """
    may = re.compile("|".join(f"(?:{pattern})" for pattern in (UNTRACKED, *ignore)))
    lines = {
        "missing": [name for name in shapes if name not in found and not re.fullmatch(UNTRACKED, name)],
        "unexpected": [name for name in found if name not in shapes and not may.fullmatch(name)],
        "of another shape": [
            f"{name} {found[name].shape} for {tuple(shape)}"
            for name, shape in shapes.items()
            if name in found and found[name].shape != tuple(shape)
        ],
    }
    said = [f"{len(names)} {what} ({_few(names)})" for what, names in lines.items() if names]
    if said:
        raise DataError(f"{where} does not hold the weights of this network: {'; '.join(said)}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _advice(file: WeightFile) -> str:
    if file.hub:
        into = cache_folders()[0] / file.names[0]
        return f"run `hf download {file.hub} --local-dir {into}`, or give the folder's path (docs/weights.md)"
    at = f" from {file.urls[0]}" if file.urls else ""
    return f"download {file.names[0]}{at} into {cache_folders()[0]}, or give its path or URL (docs/weights.md)"


def _candidates(file: WeightFile) -> Iterator[Path]:
    folders = cache_folders()
    yield from (folder / name for folder in folders for name in file.names)
    if file.sha256:  # the .pth may be gone once it is converted
        yield from sorted(folders[0].glob(f"*.from-{file.sha256[:8]}.safetensors"))
    if file.hub:
        model = _hub_cache() / f"models--{file.hub.replace('/', '--')}"
        if (model / "refs/main").is_file():
            yield model / "snapshots" / (model / "refs/main").read_text().strip()


def _hub_cache() -> Path:
    """Where Hugging Face's own tools keep what they download."""
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface") / "hub"


def _sha256(path: Path) -> str:
    """Of a file; of a folder with several parts, the sha256 of their names and hashes."""
    hashes = {}
    for part in tensor_files.parts(path):
        with open(part, "rb") as file:
            hashes[part.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("".join(f"{h}  {name}\n" for name, h in sorted(hashes.items())).encode()).hexdigest()


def _through_conversion(path: Path, sha256: str) -> Tensors:
    """The tensors of a pickled file, from its conversion if there is one; else reads them by torch and converts."""
    converted = cache_folders()[0] / f"{path.stem}.from-{sha256[:8]}.safetensors"
    if converted.exists():
        try:
            if tensor_files.source_of(converted) == sha256:
                return tensor_files.read_conversion(converted)
        except DataError as error:
            log.warning("%s; converting %s anew", error, path)
    tensors = tensor_files.read(path)
    try:
        tensor_files.save_conversion(converted, tensors, sha256)
        log.info("kept the tensors of %s as %s", path, converted)
    except OSError as error:
        log.warning("%s cannot be kept (%s): torch is needed at every start; set $DIFFUSION_WEIGHTS", converted, error)
    return tensors


def _downloaded(url: str, file: WeightFile) -> Path:
    base = Path(urllib.parse.unquote(urllib.parse.urlparse(url).path)).name or "weights"
    # a name like model.safetensors says nothing of its origin, so the URL stands in the cached file's name
    name = base if base in file.names else f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{base}"
    path = cache_folders()[0] / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s to %s", url, path)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{name}.", suffix=".part")
    try:
        with open(handle, "wb") as out:
            sha256 = _fetch(url, out)
        if file.sha256 and not sha256.startswith(file.sha256):
            raise DataError(
                f"{url} has sha256 {sha256[:16]}…, but {file.names[0]} has {file.sha256[:16]}…: another file"
            )
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return path


def _fetch(url: str, out) -> str:
    """Copies what a URL holds and returns its sha256; DataError if it cannot be had whole."""
    digest, received = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as response:
            length = response.headers.get("Content-Length")
            while block := response.read(BLOCK):
                digest.update(block)
                out.write(block)
                received += len(block)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise DataError(f"{url} cannot be downloaded: {error}") from error
    if length is not None and received != int(length):
        raise DataError(f"{url} cannot be downloaded: it broke off after {received} of {length} bytes")
    return digest.hexdigest()
