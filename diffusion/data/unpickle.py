"""A pickle reader that knows data and runs nothing.

Python's own unpickler calls whatever a file names, and even a restricted ``find_class`` leaves it length and memo
fields that allocate what they say. This one interprets the opcodes itself: a name from its small table is an
instruction to this file, never a callable, and nothing is larger than the bytes that the file holds.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diffusion.data import pickled_values as pickled
from diffusion.data.pickled_values import Refused
from diffusion.errors import DataError

RIGHT = (
    "a data pickle may hold dicts, lists, tuples, strings, numbers and NumPy arrays of plain numbers or strings; "
    "save it again in this form, or as .npz"
)
MAX_OPCODES = 10_000_000  # each takes up to some 100 bytes of memory; arrays take a dozen opcodes
MAX_DEPTH = 32  # of containers in containers; what contains itself has no end
_LATIN1 = ("latin1", "latin-1", "iso-8859-1")
_KEYS = (str, bytes, int, float, np.generic)
_VALUES = (*_KEYS, type(None), np.ndarray)


def load(path: str | Path) -> Any:
    """What a pickle of plain data holds: nested dict, list, tuple, str, bytes, numbers, None and NumPy arrays.

    Protocols 0 to 5, by Python 2 or 3 and NumPy 1 or 2. Byte strings of Python 2 become str as Latin-1, arrays are
    read-only views of the file's bytes. Dict keys are strings or numbers. No code runs, whatever the file says, and
    the memory taken is bounded by the file's size.

    Raises:
      DataError: it asks for anything else (which is named), or it is damaged or no pickle.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).read()
    except Refused as error:
        raise DataError(f"{path}: refused, and nothing in it was run: {error}; {RIGHT}") from error
    except (OSError, EOFError, ValueError, LookupError, TypeError, OverflowError, struct.error) as error:
        raise DataError(f"{path}: not a readable pickle ({error or type(error).__name__}); {RIGHT}") from error


class _Reader:
    """The stack machine of one file of ``size`` bytes."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.made = 0  # bytes of arrays and of re-encoded strings: the file holds each of them once

    def read(self) -> Any:
        for _ in range(MAX_OPCODES):
            code = self.bytes(1)
            if code == b".":
                return _checked(self.stack.pop())
            if code not in OPCODES:
                raise Refused(f"opcode {code!r} at byte {self.file.tell() - 1} makes objects or is unknown")
            OPCODES[code](self)
        raise Refused(f"more than {MAX_OPCODES} instructions")

    def bytes(self, n: int) -> bytes:
        if n < 0 or n > self.size - self.file.tell():
            raise EOFError(f"{n} bytes are asked for at byte {self.file.tell()} of {self.size}")
        found = self.file.read(n)
        if len(found) < n:
            raise EOFError("it became shorter while it was read")
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.bytes(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        found = self.file.readline()
        if not found.endswith(b"\n"):
            raise EOFError("it ends within a line")
        return found[:-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, n: int = 1) -> list[Any]:
        """The topmost ``n`` values, which must lie above the last mark."""
        if len(self.stack) < n:
            raise IndexError("the stack is empty")
        taken = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return taken

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        taken, self.stack = self.stack, self.marks.pop()
        return taken

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]
        if isinstance(self.stack[-1], pickled.Blank):
            self.stack[-1].keys.append(key)

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("values are added to what is no list")
        self.stack[-1].extend(values)

    def update(self, flat: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise TypeError("items are set in what is no dict")
        self.stack[-1].update(_pairs(flat))

    def find(self, module: str, name: str) -> None:
        if (module, name) not in GLOBALS:
            raise Refused(f"it asks for {module}.{name}, which is no data")
        self.push(pickled.Global(GLOBALS[module, name]))

    def find_stacked(self) -> None:
        module, name = self.pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a global's name is no text")
        self.find(module, name)

    def reduce(self) -> None:
        called, args = self.pop(2)
        if not isinstance(called, pickled.Global) or called.name not in CALLS or not isinstance(args, tuple):
            raise Refused(f"it calls {getattr(called, 'name', type(called).__name__)}")
        self.push(CALLS[called.name](self, *args))

    def build(self) -> None:
        target, state = self.pop(2)
        if isinstance(target, pickled.Blank) and isinstance(state, tuple) and len(state) == 5:
            array = self.array(state[4], state[2], state[1], "F" if state[3] else "C")
            self.memo.update((key, array) for key in target.keys)
            self.push(array)
        elif isinstance(target, pickled.Dtype) and isinstance(state, tuple) and len(state) in (8, 9):
            target.value = pickled.ordered(target.value, *state[1:5])
            self.push(target)
        else:
            raise Refused(f"it sets the state of a {type(target).__name__}")

    def blank(self, kind: Any, shape: Any, code: Any) -> pickled.Blank:
        if not isinstance(kind, pickled.Global) or kind.name != "ndarray" or shape != (0,):
            raise Refused("an array that begins with a shape or a class of its own")
        return pickled.Blank()

    def dtype(self, name: Any, *flags: Any) -> pickled.Dtype:
        return pickled.Dtype(pickled.make_dtype(name))

    def array(self, raw: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> np.ndarray:
        found = pickled.make_array(raw, dtype, shape, order, axes)
        self.spend(found.nbytes)
        return found

    def scalar(self, dtype: Any, raw: Any) -> np.generic:
        return self.array(raw, dtype, ())[()]

    def encode(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in _LATIN1:
            raise Refused(f"it encodes as {str(encoding)[:40]}; NumPy writes latin1")
        self.spend(len(text))
        return text.encode("latin-1")

    def spend(self, n: int) -> None:
        self.made += n
        if self.made > 2 * self.size:  # protocols before 3 re-encode an array's bytes, and make the array of them
            raise Refused(f"its arrays take more bytes than the {self.size} of the file")


def _checked(result: Any) -> Any:
    """``result``, which holds plain values only and is at most MAX_DEPTH deep; each level's objects are seen once."""
    level = {id(result): result}
    for _ in range(MAX_DEPTH):
        deeper: dict[int, Any] = {}
        for value in level.values():
            if isinstance(value, dict):
                deeper.update((id(v), v) for v in value.values())
            elif isinstance(value, list | tuple):
                deeper.update((id(v), v) for v in value)
            elif not isinstance(value, _VALUES):
                raise Refused(f"it holds an unfinished {type(value).__name__.lower()}")
        if not deeper:
            return result
        level = deeper
    raise Refused(f"containers are more than {MAX_DEPTH} deep")


def _pairs(flat: list[Any]) -> list[tuple[Any, Any]]:
    """[key, value, key, value, ...] as pairs."""
    for key in flat[::2]:  # hashing nested tuples may take for ever
        if not isinstance(key, _KEYS):
            raise Refused(f"a dict key that is a {type(key).__name__.lower()}")
    return list(zip(flat[::2], flat[1::2], strict=True))


def _ordered_dict(reader: _Reader, pairs: Any = ()) -> OrderedDict:
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Refused("an OrderedDict of what are no pairs")
    return OrderedDict(_pairs([part for pair in pairs for part in pair]))


def _no_bytes(reader: _Reader) -> bytes:
    return b""


def _pushes(value: Callable[[_Reader], Any]) -> Callable[[_Reader], None]:
    return lambda r: r.push(value(r))


def _counted(form: str, decode: Callable[[bytes], Any]) -> Callable[[_Reader], None]:
    """A length, that many bytes, and what they mean."""
    return lambda r: r.push(decode(r.bytes(r.number(form))))


def _line(decode: Callable[[bytes], Any]) -> Callable[[_Reader], None]:
    return lambda r: r.push(decode(r.line()))


def _global(r: _Reader) -> None:
    r.find(r.line().decode("ascii"), r.line().decode("ascii"))


def _instance(r: _Reader) -> None:
    raise Refused(f"it asks for an object of {pickled.latin1(r.line())}.{pickled.latin1(r.line())}")


def _persistent(r: _Reader) -> None:
    raise Refused("a persistent id, which means something to the program that wrote it only")


def _frame(r: _Reader) -> None:
    if r.number("<Q") > r.size - r.file.tell():
        raise EOFError("it ends within a frame")


# What a file may name, and what this reader takes it for.
GLOBALS = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{(f"numpy.{core}.multiarray", name): name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_frombuffer" for core in ("core", "_core")},
    ("_codecs", "encode"): "encode",
    ("collections", "OrderedDict"): "OrderedDict",
    **{(module, "bytes"): "bytes" for module in ("builtins", "__builtin__")},  # b"" before protocol 3
}
CALLS = {
    "dtype": _Reader.dtype,
    "_reconstruct": _Reader.blank,
    "scalar": _Reader.scalar,
    "_frombuffer": _Reader.array,
    "encode": _Reader.encode,
    "OrderedDict": _ordered_dict,
    "bytes": _no_bytes,
}
OPCODES: dict[bytes, Callable[[_Reader], Any]] = {
    b"\x80": lambda r: r.bytes(1),
    b"\x95": _frame,
    b"(": _Reader.mark,
    b"0": lambda r: r.pop() if r.stack else r.pop_mark(),
    b"1": _Reader.pop_mark,
    b"2": lambda r: r.push(r.stack[-1]),
    b"N": lambda r: r.push(None),
    b"\x88": lambda r: r.push(True),
    b"\x89": lambda r: r.push(False),
    b"I": _line(pickled.integer),
    b"L": _line(lambda line: int(line.removesuffix(b"L"))),
    b"F": _line(float),
    b"J": _pushes(lambda r: r.number("<i")),
    b"K": _pushes(lambda r: r.number("<B")),
    b"M": _pushes(lambda r: r.number("<H")),
    b"G": _pushes(lambda r: r.number(">d")),
    b"\x8a": _counted("<B", pickled.signed),
    b"\x8b": _counted("<i", pickled.signed),
    b"S": _line(pickled.quoted),
    b"T": _counted("<i", pickled.latin1),
    b"U": _counted("<B", pickled.latin1),
    b"V": _line(lambda line: line.decode("raw-unicode-escape")),
    b"X": _counted("<I", pickled.text),
    b"\x8c": _counted("<B", pickled.text),
    b"\x8d": _counted("<Q", pickled.text),
    b"B": _counted("<I", bytes),
    b"C": _counted("<B", bytes),
    b"\x8e": _counted("<Q", bytes),
    b"\x96": _counted("<Q", bytes),
    b"]": lambda r: r.push([]),
    b"}": lambda r: r.push({}),
    b")": lambda r: r.push(()),
    b"l": lambda r: r.push(r.pop_mark()),
    b"t": lambda r: r.push(tuple(r.pop_mark())),
    b"\x85": lambda r: r.push(tuple(r.pop(1))),
    b"\x86": lambda r: r.push(tuple(r.pop(2))),
    b"\x87": lambda r: r.push(tuple(r.pop(3))),
    b"d": lambda r: r.push(dict(_pairs(r.pop_mark()))),
    b"a": lambda r: r.extend(r.pop()),
    b"e": lambda r: r.extend(r.pop_mark()),
    b"s": lambda r: r.update(r.pop(2)),
    b"u": lambda r: r.update(r.pop_mark()),
    b"p": lambda r: r.put(int(r.line())),
    b"q": lambda r: r.put(r.number("<B")),
    b"r": lambda r: r.put(r.number("<I")),
    b"\x94": lambda r: r.put(len(r.memo)),
    b"g": lambda r: r.push(r.memo[int(r.line())]),
    b"h": lambda r: r.push(r.memo[r.number("<B")]),
    b"j": lambda r: r.push(r.memo[r.number("<I")]),
    b"c": _global,
    b"\x93": _Reader.find_stacked,
    b"R": _Reader.reduce,
    b"b": _Reader.build,
    b"i": _instance,
    b"P": _persistent,
    b"Q": _persistent,
}
