"""The places that numbers and pictures go to: the console, a JSONL file, TensorBoard, W&B.

A row of ``WRITERS`` makes a ``Writer`` from a ``Run``.
"""

import contextlib
import errno
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.pictures import png
from diffusion.progress import say

Metrics = Mapping[str, float | None]  # None: could not be computed
Rows = Sequence[Mapping[str, Any]]  # every row has the columns of the first

OFF_CONSOLE = ("train/", "perf/", "eval/", "data/")  # figures that a line of their own would not help


@dataclass(frozen=True)
class Run:
    """What a writer may need to know.

    Attributes:
      workdir: the run's folder.
      name: the run's name.
      project: the W&B project.
      wandb_id: the W&B run to begin or to go on with.
      offset: bytes of ``metrics.jsonl`` that the checkpoint knows, 0 for a fresh run; what follows them is
        cut off. None appends to what is there (``--mode=eval``).
    """

    workdir: Path
    name: str = ""
    project: str = "diffusion"
    wandb_id: str | None = None
    offset: int | None = None


def _nothing(*_: Any) -> None:
    """What a writer does not take."""


@dataclass(frozen=True)
class Writer:
    """What a destination takes; each field it has no use for does nothing.

    Attributes:
      write: (step, metrics), numbers of one moment.
      image: (step, name, u8[h w 1|3]).
      table: (step, name, rows), a list of dicts with the same keys.
      hparams: (config, facts), at the start and at every resume; facts are the data set's name, sizes,
        batches and classes, and the parameters in total.
      flush: everything said so far is on disk.
      close: flush, and no more follows.
      offset: bytes written so far, where a checkpoint keeps them.
    """

    write: Callable[[int, Metrics], None] = _nothing
    image: Callable[[int, str, np.ndarray], None] = _nothing
    table: Callable[[int, str, Rows], None] = _nothing
    hparams: Callable[[Mapping[str, Any], Mapping[str, Any]], None] = _nothing
    flush: Callable[[], None] = _nothing
    close: Callable[[], None] = _nothing
    offset: Callable[[], int | None] = _nothing


def console(run: Run) -> Writer:
    """A line per write of other figures than the progress line's, the evaluation table's and counts that only grow."""

    def write(step: int, metrics: Metrics) -> None:
        shown = {name: value for name, value in metrics.items() if not name.startswith(OFF_CONSOLE)}
        if shown:
            say("  ".join([f"step {step}", *(f"{name} {_short(value)}" for name, value in shown.items())]))

    def table(step: int, name: str, rows: Rows) -> None:
        say(f"{name}, step {step}\n{_columns(rows)}")

    def hparams(config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        short = {key: value for key, value in facts.items() if not isinstance(value, list)}  # a list has its table
        say("  ".join([run.name, *(f"{key} {_short(value)}" for key, value in short.items())]))

    return Writer(write=write, table=table, hparams=hparams)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error of a file that is open does not say which file it is."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def jsonl(run: Run) -> Writer:
    """``metrics.jsonl``, one object per write; what is not finite is null.

    What lies beyond ``run.offset`` was written after the checkpoint and is cut off, so the log of a run that
    was killed and resumed equals that of one that was not.
    """
    path = run.workdir / "metrics.jsonl"
    file = path.open("ab", buffering=0)
    end = path.read_bytes().rfind(b"\n") + 1 if run.offset is None else min(run.offset, file.tell())
    if run.offset is not None and end < run.offset:
        say(f"{path}: {run.offset - end} bytes that the checkpoint knows are gone; the log goes on with a gap")
    file.truncate(end)

    def write(step: int, metrics: Metrics) -> None:
        finite = {n: v if v is not None and math.isfinite(v) else None for n, v in metrics.items()}
        entry = {"step": step, "time": round(time.time(), 3), **finite}
        append(json.dumps(entry, allow_nan=False).encode() + b"\n")

    def append(line: bytes) -> None:
        """A whole line or none: what a full disk took of it is cut off again."""
        nonlocal end
        try:
            with _named(path):
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise
        end += len(line)

    def flush() -> None:
        with _named(path):
            os.fsync(file.fileno())

    return Writer(write=write, flush=flush, close=file.close, offset=lambda: end)


def tensorboard(run: Run) -> Writer:
    """Event files in ``tensorboard/``.

    They are written with tensorboard's ``RecordWriter`` over a plain file: its ``EventFileWriter`` opens
    files through TensorFlow wherever TensorFlow is installed, which takes many seconds.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder = run.workdir / "tensorboard"
    folder.mkdir(exist_ok=True)
    stamp = f"{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}"
    records = RecordWriter((folder / f"events.out.tfevents.{stamp}").open("wb"))
    purged = run.offset is None

    def add(**event: Any) -> None:
        records.write(Event(wall_time=time.time(), **event).SerializeToString())
        records.flush()

    def summary(step: int, *values: Summary.Value) -> None:
        nonlocal purged
        if not purged:  # hides the steps from here on that a killed run left behind
            add(step=step, session_log=SessionLog(status=SessionLog.START))
            purged = True
        add(step=step, summary=Summary(value=values))

    def hparams(config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        add(summary=Summary(value=[_text_value("config", config), _text_value("facts", facts)]))

    add(file_version="brain.Event:2")
    return Writer(
        write=lambda step, metrics: summary(step, *(_scalar_value(n, v) for n, v in metrics.items())),
        image=lambda step, name, image: summary(step, _image_value(name, image)),
        hparams=hparams,
        flush=records.flush,
        close=records.close,
    )


def wandb(run: Run) -> Writer:
    """A Weights & Biases run, online when a key is there and offline otherwise; WANDB_MODE overrides both.

    Every metric is drawn over our own ``step``: W&B's counter restarts at 0 when an offline run is resumed.
    """
    import wandb as api

    mode = os.environ.get("WANDB_MODE") or ("online" if _wandb_key() else "offline")
    session = api.init(
        project=run.project,
        name=run.name,
        id=run.wandb_id,
        dir=run.workdir,
        mode=mode,
        resume="allow" if mode == "online" else None,
        settings=api.Settings(console="off", silent=True),
    )
    session.define_metric("step", hidden=True)
    session.define_metric("*", step_metric="step")
    place = session.url if mode == "online" else f"wandb sync {Path(session.dir).parent} uploads it"
    say(f"W&B {mode}: {place}")

    def table(step: int, name: str, rows: Rows) -> None:
        columns = list(rows[0])
        session.log({"step": step, name: api.Table(columns, [[row[c] for c in columns] for row in rows])})

    def hparams(config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        session.config.update({**config, "facts": dict(facts)}, allow_val_change=True)

    return Writer(
        write=lambda step, metrics: session.log({"step": step, **metrics}),
        image=lambda step, name, image: session.log({"step": step, name: api.Image(image)}),
        table=table,
        hparams=hparams,
        close=session.finish,
    )


def unfailing(title: str, make: Callable[[Run], Writer]) -> Callable[[Run], Writer]:
    """A tracker whose first failure, at its start or later, is said on stderr and ends it, not the run."""

    def row(run: Run) -> Writer:
        alive = True

        def guard(call: Callable[..., Any]) -> Callable[..., Any]:
            def attempt(*args: Any) -> Any:
                nonlocal alive
                try:
                    return call(*args) if alive else None
                except Exception as error:
                    alive = False
                    say(
                        f"{title} failed, the run goes on without it: {type(error).__name__}: {error}",
                        sys.stderr,
                    )

            return attempt

        writer = guard(make)(run) or Writer()
        return replace(writer, **{f.name: guard(getattr(writer, f.name)) for f in fields(Writer)})

    return row


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _columns(rows: Rows, most: int = 40) -> str:
    """Rows as aligned columns; of more than ``most``, the first."""
    names = list(rows[0])
    cells = [names] + [[_short(row[name]) for name in names] for row in rows[:most]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(lines + [f"… and {len(rows) - most} more"] * (len(rows) > most))


def _scalar_value(tag: str, value: float | None) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(tag=tag, simple_value=math.nan if value is None else value)


def _image_value(tag: str, image: np.ndarray) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    h, w, c = image.shape
    picture = Summary.Image(height=h, width=w, colorspace=c, encoded_image_string=png(image))
    return Summary.Value(tag=tag, image=picture)


def _text_value(tag: str, content: Mapping[str, Any]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    lines = json.dumps(content, indent=2, default=str).splitlines()
    text = "\n".join("    " + line for line in lines)  # four spaces make a Markdown code block
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=[text.encode()])
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def _wandb_key() -> bool:
    """Whether W&B would find credentials without asking: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    places = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    files = [Path(place).expanduser() for place in places if place]
    return any(host in path.read_text() for path in files if path.is_file())


WRITERS: dict[str, Callable[[Run], Writer]] = {
    "console": console,
    "jsonl": jsonl,
    "tensorboard": unfailing("TensorBoard", tensorboard),
    "wandb": unfailing("W&B", wandb),
}
