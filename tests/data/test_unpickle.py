"""Data comes back from every writer; whatever else a pickle asks for is named, not run, and takes no memory."""

import base64
import collections
import datetime
import io
import json
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from diffusion.data.unpickle import MAX_DEPTH, RIGHT, load
from diffusion.errors import DataError

OLD = json.loads((Path(__file__).parent / "old_pickles.json").read_text())
CLASSES = {
    "cat": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3),
    "dog": (255 - np.arange(12, dtype=np.uint8)).reshape(1, 2, 2, 3),
}


@pytest.fixture
def written(tmp_path):
    """Writes bytes, or a value by protocol, to a file."""

    def write(content, protocol=4):
        path = tmp_path / "train_set.pkl"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        return path

    return write


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = found.values(), expected.values()
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, list | tuple | type({}.values())):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


class TestData:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    @pytest.mark.parametrize(
        "value",
        [
            CLASSES,
            {0: CLASSES["cat"], 1: CLASSES["dog"]},
            collections.OrderedDict(b=CLASSES["cat"], a=[CLASSES["dog"]]),
            [1, -5, 255, 65536, 2**31, -(2**80), 1.5, float("inf"), True, False, None, "é\n'\\", b"", b"\xff\0", ()],
            {"nested": ({"x": [np.arange(3.0), {"y": (1, 2, 3, 4)}]},), 2.5: "", "s": np.int64(7), "c": 1 + 0 * 7},
            {
                "f": np.asfortranarray(CLASSES["cat"]),
                "t": CLASSES["cat"].transpose(3, 0, 2, 1),
                "r": CLASSES["cat"][::-1],
            },
            {"big": np.arange(5, dtype=">u2"), "names": np.array(["a", "bé"]), "b": np.array([b"x"]), "e": np.zeros(0)},
            {
                "none": np.zeros((0, 4, 4, 3), np.uint8),
                "one": np.array(3),
                "bool": np.array([True]),
                "h": np.float16(2),
            },
            np.zeros(300_000, np.uint8),
        ],
    )
    def test_every_protocol_of_this_python_and_numpy(self, written, value, protocol):
        assert_same(load(written(value, protocol)), value)

    @pytest.mark.parametrize("file", OLD, ids=lambda f: f"python{f['python']}-numpy{f['numpy']}-{f['protocol']}")
    def test_files_of_older_writers(self, written, file):
        found = load(written(base64.b64decode(file["base64"])))
        more = [1, 2.5, True, None, 2**70, np.float32(1.5), (np.arange(6, dtype=">i4").reshape(2, 3).T, "é")]
        for name, array in CLASSES.items():
            assert_same(found[name], array)
        assert_same(found["more"], more)
        assert set(found) == {*CLASSES, "more"}

    def test_the_same_array_twice_is_one_array(self, written):
        found = load(written([CLASSES["cat"], CLASSES["cat"]]))
        assert found[0] is found[1]
        assert_same(found[1], CLASSES["cat"])

    def test_python_2s_byte_strings_are_latin_1(self, written):
        found = load(written(b"(dp0\nS'caf\\xe9'\np1\nS'a\\\\u0041\\n'\np2\ns."))
        assert found == {"café": "a\\u0041\n"}


class Calls:
    """Pickles as a call."""

    def __init__(self, call, *args, state=None):
        self.call, self.args, self.state = call, args, state

    def __reduce__(self):
        return (self.call, self.args) if self.state is None else (self.call, self.args, self.state)


def named(module: str, name: str) -> bytes:
    return b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93"


BLANK = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
MARKED = Path("/tmp") / f"run-by-a-pickle-{os.getpid()}"
ATTACKS = {
    "os.system": (pickle.dumps(Calls(os.system, f"touch {MARKED}")), "posix.system"),
    "eval": (pickle.dumps({"cat": Calls(eval, f"open({str(MARKED)!r}, 'w')")}), "builtins.eval"),
    "exec, protocol 0": (pickle.dumps(Calls(exec, "1"), 0), "__builtin__.exec"),
    "getattr": (pickle.dumps(Calls(getattr, np.ndarray, "tofile")), "builtins.getattr"),
    "open": (pickle.dumps(Calls(open, str(MARKED), "w")), "open"),
    "import": (named("builtins", "__import__") + b"\x8c\x02os\x85R.", "builtins.__import__"),
    "numpy runs": (named("numpy.testing._private.utils", "runstring") + b".", "runstring"),
    "numpy loads": (named("numpy", "load") + b".", "numpy.load"),
    "numpy maps files": (named("numpy", "memmap") + b".", "numpy.memmap"),
    "numpy runs f2py": (named("numpy.f2py", "compile") + b".", "numpy.f2py.compile"),
    "dots": (named("numpy", "core.multiarray._reconstruct.__globals__") + b".", "__globals__"),
    "more dots": (named("numpy.core.multiarray", "_reconstruct.__globals__") + b".", "_reconstruct.__globals__"),
    "dots, old": (b"cnumpy\nndarray.__class__\n.", "numpy.ndarray.__class__"),
    "dtype's mother": (named("numpy", "dtype.__class__") + b".", "numpy.dtype.__class__"),
    "instance": (b"(S'true'\nios\nsystem\n.", "os.system"),
    "object": (b"(cnumpy\ndtype\nS'u1'\no.", "opcode b'o'"),
    "new object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "opcode b'\\\\x81'"),
    "new object ex": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "opcode b'\\\\x92'"),
    "extension": (b"\x80\x02\x82\x01.", "opcode b'\\\\x82'"),
    "persistent": (b"Pname\n.", "persistent id"),
    "persistent, binary": (b"\x80\x02K\x01Q.", "persistent id"),
    "another buffer": (b"\x80\x05\x97.", "opcode b'\\\\x97'"),
    "set": (pickle.dumps({1, 2}), "opcode b'\\\\x8f'"),
    "date": (pickle.dumps(datetime.date(2020, 1, 1)), "datetime.date"),
    "path": (pickle.dumps(Path("/etc")), "pathlib"),
    "an object array": (pickle.dumps(np.array([None, {}], object)), "dtype 'O8'"),
    "an object array, protocol 0": (pickle.dumps(np.array([Calls(os.system, "true")], object), 0), "dtype 'O8'"),
    "a structured array": (pickle.dumps(np.zeros(2, [("a", "u1"), ("b", "O")])), "dtype 'V9'"),
    "a date array": (pickle.dumps(np.zeros(2, "M8[s]")), "dtype 'M8'"),
    "codec": (pickle.dumps(Calls(__import__("_codecs").encode, "x" * 9, "idna")), "encodes as idna"),
    "state of a function": (named("_codecs", "encode") + b"}b.", "sets the state of a Global"),
    "state of a class": (named("numpy", "ndarray") + b"}b.", "sets the state of a Global"),
    "state of a dict": (b"\x80\x02}}b.", "sets the state of a dict"),
    "state of an OrderedDict": (named("collections", "OrderedDict") + b")R}b.", "sets the state of a OrderedDict"),
    "a class is called": (named("numpy", "ndarray") + b"K\x01\x85\x85R.", "it calls ndarray"),
    "a class is returned": (named("numpy", "ndarray") + b".", "unfinished global"),
    "a dtype is returned": (pickle.dumps(np.dtype("u1")), "unfinished dtype"),
    "an array that begins with a shape": (BLANK.replace(b"K\x00", b"K\x05") + b".", "begins with a shape"),
    "a key that is a tuple": (pickle.dumps({(1, 2): 3}), "a dict key that is a tuple"),
    "a blank array": (BLANK + b".", "unfinished blank"),
    "a subclass": (pickle.dumps(np.ma.zeros(2)), "numpy.ma"),
    "a memory view": (b"\x80\x04\x8c\x08builtins\x8c\x0amemoryview\x93.", "builtins.memoryview"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), ATTACKS.values(), ids=ATTACKS)
def test_what_is_no_data_is_named_and_not_run(written, content, said):
    path = written(content)
    with pytest.raises(DataError, match=said) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: refused, and nothing in it was run") and RIGHT in str(refused.value)
    assert not MARKED.exists()


def test_the_attacks_are_real(tmp_path):
    """Python's own reader runs them."""
    with pytest.raises(TypeError, match="bad operand"):
        pickle.loads(pickle.dumps(Calls(eval, "-''")))


def array_of(raw, shape, dtype=b"u1", build=True):
    """A protocol 2 array whose parts are chosen."""
    d = (
        b"cnumpy\ndtype\nU"
        + bytes([len(dtype)])
        + dtype
        + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return BLANK + b"(K\x01" + shape + d + b"\x89" + raw + b"tb."


def long(n: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", n)


HUGE = 10**12
BOMBS = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"x.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", HUGE) + b"x.",
    "bytes that end before zero": b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b"N.",
    "integer": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "negative": b"\x80\x04T" + struct.pack("<i", -1) + b"x.",
    "decimal integer": b"I" + b"9" * 200_000 + b"\n.",
    "blank array": BLANK.replace(b"K\x00", long(HUGE)) + b".",
    "array": b"\x80\x02cnumpy\nndarray\n" + long(HUGE) + b"\x85\x85R.",
    "built array": array_of(b"U\x01x", long(HUGE) + b"\x85"),
    "negative shape": array_of(b"U\x01x", long(-1) + b"\x85"),
    "overflowing shape": array_of(b"U\x00", long(2**62) + long(4) + b"\x86"),
    "wide strings": array_of(b"U\x01x", b"K\x01\x85", b"U999999999"),
    "empty strings": array_of(b"U\x00", long(HUGE) + b"\x85", b"S0"),
    "raw memory": array_of(b"U\x01x", b"K\x01\x85", b"V1000000000"),
    "many dtypes": array_of(b"U\x01x", b"K\x01\x85", b"u1," * 80),
    "more bytes than its shape": array_of(b"U\x02xx", b"K\x01\x85"),
    "two columns": array_of(b"U\x02xx", b"K\x01\x85", b"u1,u1"),
    "bytes as a list": array_of(b"]", b"K\x00\x85"),
    "the same text encoded over and over": (
        b"\x80\x02X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"q\x000(c_codecs\nencode\nq\x01"
        + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 5000 + b"t."
    ),
    "depth": b"]" * 5000 + b"a" * 4999 + b".",
    "what contains itself": b"]q\x00h\x00a.",
    "laughs": b"]" + b"".join(b"q%c]h%cah%ca" % (i, i, i) for i in range(60)) + b".",
    "a key of keys": b"}N" + b"".join(b"2\x86" for _ in range(60)) + b"Ns.",
    "marks": b"(" * 1000 + b".",
    "an empty file": b"",
    "no pickle": b"PK\x03\x04 hello",
    "an image": b"\x89PNG\r\n\x1a\n",
    "text file": b"hello\n",
}  # fmt: skip


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_nothing_takes_more_than_the_file(written, content):
    path = written(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=f"{path}: ") as refused:
            load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert RIGHT in str(refused.value)
    assert peak < 1_000_000 + 20 * len(content)


def test_a_memo_that_says_a_huge_place_takes_one():
    machine = io.BytesIO(b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".")
    path = MARKED.with_suffix(".pkl")
    path.write_bytes(machine.getvalue())
    try:
        assert load(path) is None
    finally:
        path.unlink()


def test_too_many_instructions(written, monkeypatch):
    monkeypatch.setattr("diffusion.data.unpickle.MAX_OPCODES", 1000)
    assert load(written(b"(" + b"N" * 900 + b"l.")) == [None] * 900
    with pytest.raises(DataError, match="more than 1000 instructions"):
        load(written(b"(" + b"N" * 1000 + b"l."))


def test_depth_that_is_allowed(written):
    value = 1
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert load(written(value)) == value
    with pytest.raises(DataError, match=f"more than {MAX_DEPTH} deep"):
        load(written([value]))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_file_cut_anywhere_is_named(written, protocol):
    whole = pickle.dumps({"cat": CLASSES["cat"], "dog": [CLASSES["dog"]]}, protocol)
    for end in range(len(whole)):
        with pytest.raises(DataError, match=r"train_set.pkl: "):
            load(written(whole[:end]))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_flipped_byte_is_data_or_named(written, protocol):
    """Whatever a damaged file says, nothing but DataError leaves the reader, and only plain data is returned."""
    whole = pickle.dumps({"cat": CLASSES["cat"], "dog": [CLASSES["dog"]]}, protocol)
    refused = 0
    for at in range(len(whole)):
        for bits in (0x01, 0xFF):
            content = bytearray(whole)
            content[at] ^= bits
            try:
                load(written(bytes(content)))
            except DataError:
                refused += 1
    assert refused > len(whole) // 2


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no.pkl: not a readable pickle .*No such file"):
        load(tmp_path / "no.pkl")
    with pytest.raises(DataError, match="not a readable pickle .*Is a directory"):
        load(tmp_path)
