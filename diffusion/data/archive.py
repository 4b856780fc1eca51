"""NumPy archives of others: nothing pickled in them is loaded, and no size that they claim is believed unseen."""

import hashlib
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion.errors import DataError

BLOCK = 1 << 20  # bytes read at a time
MAX_RATIO = 1032  # of deflate; what claims more is no archive that NumPy wrote

# What zipfile, its decompressors and NumPy's header parser raise on damaged files.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, SyntaxError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
)


class Header(NamedTuple):
    """What an array of an archive is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


def headers(path: Path) -> dict[str, Header]:
    """Name to header of every array of an .npz file; their values are not read.

    Raises:
      DataError: it is none, is damaged, or holds an array whose size is not what its header says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            return {member.filename.removesuffix(".npy"): _header(archive, member, path) for member in members}
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npz file ({error or type(error).__name__})") from error


def array(path: Path, name: str, header: Header) -> np.ndarray:
    """The array that ``headers`` told of.

    Raises:
      DataError: it is damaged, or holds Python objects.
    """
    if header.dtype.hasobject:
        raise DataError(
            f"{path}: array {name!r} cannot be read (it holds pickled Python objects, which may be code and are never "
            "loaded); save it as plain numbers or strings"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    except _UNREADABLE as error:
        raise DataError(f"{path}: array {name!r} cannot be read ({error or type(error).__name__})") from error


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an archive.

    Raises:
      DataError: as `headers` and `array` do.
    """
    told = headers(path)
    if any(header.dtype.hasobject for header in told.values()):
        raise DataError(f"{path}: holds pickled Python objects, which may be code and are never loaded")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in told}
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable .npz file ({error or type(error).__name__})") from error


def mapped(path: Path, name: str, header: Header) -> np.ndarray:
    """The array, left on the disk where it lies there uncompressed; else as `array` reads it.

    What is left there is not compared with the archive's checksum: `sha256` does that.

    Raises:
      DataError: as `array` does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                _, columns_first, _ = _READ[version](file)
                begins = file.tell()
        if member.compress_type != zipfile.ZIP_STORED or columns_first or header.dtype.hasobject:
            return array(path, name, header)
        with path.open("rb") as file:
            file.seek(member.header_offset)
            before = 30 + sum(struct.unpack("<26xHH", file.read(30)))  # lengths of the member's name and extra field
        return np.memmap(path, header.dtype, "r", member.header_offset + before + begins, header.shape)
    except _UNREADABLE as error:
        raise DataError(f"{path}: array {name!r} cannot be read ({error or type(error).__name__})") from error


def sha256(path: Path, names: Iterable[str]) -> str:
    """Of the named arrays with their shapes and types, a block at a time.

    Raises:
      DataError: one of them is damaged.
    """
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                digest.update(f"{name}\n".encode())
                with archive.open(f"{name}.npy") as file:  # which compares the checksum at its end
                    while block := file.read(BLOCK):
                        digest.update(block)
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({error or type(error).__name__})") from error
    return digest.hexdigest()


_READ = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Header:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _READ:
            raise ValueError(f"{member.filename} is of format {version}")
        shape, _, dtype = _READ[version](file)
        begins = file.tell()
    there = min(member.file_size, MAX_RATIO * min(member.compress_size, path.stat().st_size))
    needed = begins + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (there != needed or min(shape, default=0) < 0):
        raise ValueError(f"{member.filename} says {dtype}{list(shape)}, {needed} bytes, and holds {there}")
    return Header(shape, dtype)
