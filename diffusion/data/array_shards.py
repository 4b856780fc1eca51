"""Named arrays of every record in array_record files, ``NAME-00000-of-00004.array_record``, read at random.

A record is the bytes of its arrays one after the other, in the order of a ``Layout``; no bytes are a record that could
not be read. Every block of such a file carries a hash of itself, which is checked when it is read.
"""

import bisect
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.errors import DataError

OPTIONS = "group_size:1,uncompressed"  # one record at a time is read, and numbers of a net hardly shrink
READING = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 1 << 15}


@dataclass(frozen=True)
class Layout:
    """The arrays of a record: name -> (type, shape), the same for all."""

    arrays: Mapping[str, tuple[np.dtype, tuple[int, ...]]]

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return sum(self._sizes())

    def _sizes(self) -> Iterator[int]:
        return (dtype.itemsize * int(np.prod(shape, dtype=int)) for dtype, shape in self.arrays.values())

    def packed(self, arrays: Mapping[str, Any]) -> bytes:
        """Raises ValueError where they are not those of the layout."""
        wanted, found = dict(self.arrays), {name: (np.asarray(a).dtype, np.shape(a)) for name, a in arrays.items()}
        if found != wanted:
            raise ValueError(f"arrays {found} do not fit the layout {wanted}")
        return b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in self.arrays)

    def unpacked(self, record: bytes) -> dict[str, np.ndarray]:
        """Views of the record's bytes. Raises DataError where it has another length."""
        if len(record) != self.size:
            raise DataError(f"holds {len(record)} bytes, {self.size} are a record")
        starts = itertools.accumulate(self._sizes(), initial=0)
        return {
            name: np.frombuffer(record, dtype, int(np.prod(shape, dtype=int)), start).reshape(shape)
            for (name, (dtype, shape)), start in zip(self.arrays.items(), starts, strict=False)
        }

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "dtype": dtype.str, "shape": list(shape)} for name, (dtype, shape) in self.arrays.items()
        ]


def layout_of(told: Sequence[Mapping[str, Any]]) -> Layout:
    """What `Layout.as_json` said. Raises KeyError, TypeError or ValueError for what it could not have said."""
    return Layout({one["name"]: (np.dtype(one["dtype"]), tuple(map(int, one["shape"]))) for one in told})


def shard_names(name: str, count: int) -> list[str]:
    return [f"{name}-{i:05d}-of-{count:05d}.array_record" for i in range(count)]


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Raises what ``records`` raises, and RuntimeError where the file cannot be written; then it is not whole."""
    from array_record.python.array_record_module import ArrayRecordWriter

    with contextlib.closing(ArrayRecordWriter(str(path), OPTIONS)) as writer:
        for record in records:
            writer.write(record)


class Shards:
    """Files as one sequence of records; may be read from many threads.

    Args:
      paths: in order, with the number of records in each.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int]):
        from array_record.python.array_record_module import ArrayRecordReader

        self._paths = list(paths)
        self._ends = list(itertools.accumulate(counts))
        self._readers = [ArrayRecordReader(str(path), **READING) for path in paths]
        for path, reader, count in zip(paths, self._readers, counts, strict=True):
            if reader.num_records() != count:  # a damaged index tells of none
                raise DataError(f"{path} is damaged or cut short: {reader.num_records()} of {count} records are there")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> bytes:
        shard = bisect.bisect_right(self._ends, i)
        first = self._ends[shard - 1] if shard else 0
        try:
            return self._readers[shard].read([i - first])[0]
        except RuntimeError as error:
            raise DataError(f"{self._paths[shard]}, record {i - first}: {str(error).splitlines()[0]}") from error
