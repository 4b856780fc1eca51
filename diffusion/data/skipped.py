"""The records of a run that cannot be read and are left out: told of, counted, listed, and limited."""

import functools
import json
import os
import threading
from pathlib import Path

from diffusion.data.records import LeaveOut
from diffusion.errors import DataError
from diffusion.progress import say

NAMED = 3  # of the records, in the error that ends a run


class Skipped:
    """What ``data.on_error=skip`` left out, of all splits; one for a run, told by all of its loaders.

    Each record counts once, however often it is met. A process lists what it meets, and no two write one file.
    Threads may call ``leave_out``.

    Args:
      limit: more records than this end the run (each process counts what it meets itself or finds listed).
      process: whose; the first one's list is skipped.jsonl, another's skipped.<process>.jsonl.
    """

    def __init__(self, limit: int, process: int = 0):
        self.limit = limit
        self._name = f"skipped.{process}.jsonl" if process else "skipped.jsonl"
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, int], dict] = {}
        self._path: Path | None = None

    def __len__(self) -> int:
        return len(self._lines)

    def of(self, split: str) -> LeaveOut:
        """What a loader of ``split`` calls for each record that it cannot read."""
        return functools.partial(self.leave_out, split)

    def leave_out(self, split: str, record: int, name: str, reason: str) -> None:
        """Note a record, at most once.

        Raises:
          DataError: it is one too many.
        """
        with self._lock:
            known = (split, record) in self._lines
            if not known:
                self._lines[split, record] = {"split": split, "record": record, "name": name, "reason": reason}
                self._write([self._lines[split, record]])
            count = len(self._lines)
        if not known:
            printable = reason.encode("utf-8", "backslashreplace").decode()
            say(f"{split} record {record} is left out ({count} so far, at most {self.limit}): {printable}")
        self._check()

    def keep_in(self, folder: Path) -> None:
        """From here on list them in ``folder``, going on with the lists of earlier processes there.

        Each line is {"split", "record": its number, "name": its file, "reason"}.

        Raises:
          DataError: there are too many with those of the lists.
        """
        with self._lock:
            self._path = folder / self._name
            _cut_torn_line(self._path)
            before = {}
            for path in sorted(folder.glob("skipped*.jsonl")):
                before |= {(line.get("split"), line.get("record")): line for line in _complete_lines(path)}
            self._write([line for key, line in self._lines.items() if key not in before])
            self._lines = before | self._lines
        if before:
            say(f"{len(before)} records were left out before; see {self._path}")
        self._check()

    def _write(self, lines: list[dict]) -> None:
        if self._path is not None and lines:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def _check(self) -> None:
        if len(self._lines) <= self.limit:
            return
        last = "; ".join(line["reason"] for line in list(self._lines.values())[-NAMED:])
        where = f"all are listed in {self._path}" if self._path else "nothing was written"
        raise DataError(
            f"{len(self._lines)} records cannot be read, data.max_skipped allows {self.limit}; {where}. "
            f"Repair them or raise the limit. The last: {last}"
        )


def _complete_lines(path: Path) -> list[dict]:
    """Without the last line where a kill or another process's write cut it."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    try:
        return [json.loads(line) | {} for line in lines]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not a list of left-out records ({error}); restore or remove it") from error


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
