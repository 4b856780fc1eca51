"""NumPy archives of others: nothing pickled in them is loaded, and no size that they claim is believed unseen."""

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion.errors import DataError

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


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Header:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"{member.filename} is of format {version}")
        shape, _, dtype = read[version](file)
        begins = file.tell()
    there = min(member.file_size, MAX_RATIO * min(member.compress_size, path.stat().st_size))
    needed = begins + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (there != needed or min(shape, default=0) < 0):
        raise ValueError(f"{member.filename} says {dtype}{list(shape)}, {needed} bytes, and holds {there}")
    return Header(shape, dtype)
