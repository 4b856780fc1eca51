"""What the bytes of a pickle mean, for ``unpickle``; an array's parts are checked against each other before use."""

import codecs
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[ui][1248]|f[248]|c8|c16|[SU][1-9]\d{0,8})")


class Refused(ValueError):
    """What a pickle asks for and does not get."""


@dataclass(frozen=True)
class Global:
    """A name that a pickle may use, as it stands on the stack."""

    name: str


@dataclass(eq=False)
class Dtype:
    """A dtype, whose byte order may be said later."""

    value: np.dtype


@dataclass(eq=False)
class Blank:
    """An array whose shape and bytes are still to come; ``keys`` are its places in the memo."""

    keys: list[int] = field(default_factory=list)


def make_dtype(name: Any) -> np.dtype:
    """A dtype of plain numbers, bools or strings; Refused for objects, records, dates and raw memory."""
    name = name.decode("latin-1") if isinstance(name, bytes) else name
    if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
        raise Refused(f"it holds an array of dtype {str(name)[:40]!r} (O stands for Python objects)")
    return np.dtype(name)


def ordered(dtype: np.dtype, order: Any, subarray: Any, names: Any, fields: Any) -> np.dtype:
    """``dtype`` in a byte order; Refused where the state makes it a structure."""
    order = order.decode("latin-1") if isinstance(order, bytes) else order
    if order not in ("<", ">", "|", "=") or any(part is not None for part in (subarray, names, fields)):
        raise Refused("it holds a structured array")
    return dtype.newbyteorder(order)


def make_array(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any) -> np.ndarray:
    """``raw`` (bytes, or str as Latin-1) as a read-only array, where its length is what dtype and shape say.

    Args:
      order: C, F, or K: C order with the ``axes`` then permuted.
    """
    if not isinstance(dtype, Dtype) or not isinstance(shape, tuple) or order not in ("C", "F", "K"):
        raise Refused("it holds an array in a form that NumPy does not write")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise Refused(f"it holds an array of shape {str(shape)[:40]}")
    needed = dtype.value.itemsize
    for n in shape:
        needed *= n
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(raw, bytes) or len(raw) != needed:
        found = f"{len(raw)} bytes" if isinstance(raw, bytes) else f"a {type(raw).__name__}"
        raise Refused(f"an array of {dtype.value}{list(shape)} needs {needed} bytes and is given {found}")
    array = np.ndarray(shape, dtype.value, raw, order="F" if order == "F" else "C")
    return array if axes is None else array.transpose(axes)


def quoted(line: bytes) -> str:
    """A byte string as Python 2's protocol 0 writes it."""
    line = line.rstrip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def integer(line: bytes) -> int:
    return line == b"01" if line in (b"00", b"01") else int(line)


def signed(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def latin1(raw: bytes) -> str:
    return raw.decode("latin-1")
