"""One save at a time, in the background: what becomes of it, and the one repetition of a save that failed."""

import logging
import math
import tempfile
from collections.abc import Mapping
from typing import Any

import jax

from diffusion import disk
from diffusion.agreement import LIMIT_S, Meeting, all_processes
from diffusion.errors import DiskError
from diffusion.filelist import write_list
from diffusion.stepfolder import StepFolder

log = logging.getLogger(__name__)

# Of a repeated array each device saves a part, where that is as large: every shape is cut by a program of its own.
SHARED_BYTES = 2**20


def room_for(leaves: Mapping[str, Any]) -> int:
    """Bytes of disk that a checkpoint of these arrays may take: a tenth, 2 kB a leaf and 0.5 MB more than the arrays.

    The digits' 12.4 MB in 552 leaves take 12.1: Orbax compresses, metadata and the rounding to blocks come on top.
    """
    arrays = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves.values())
    return int(1.1 * arrays) + 2048 * len(leaves) + 524288


class Saver:
    """The save in the background. Every process calls every method, `check` aside, at the same step.

    A save succeeded when its folder stands, which is after every process has written its part; process 0 looks, so
    that all go by the same answer. A process that cannot write says so to the others (`agreement.Meeting`), whose
    save fails then too; one that hangs is waited for `agreement.LIMIT_S` seconds. An error that Orbax raises before
    the background begins ends a run of several processes: the others are then inside Orbax and cannot be told.
    """

    def __init__(self, folder: StepFolder):
        self._folder = folder
        self._meeting = Meeting()
        self._writer: Any = None
        self._pending: int | None = None  # the step that is being saved
        self._seen: Exception | None = None  # why the pending save failed on this process
        self._failure: Exception | None = None  # why the last save failed, until one succeeds
        self._step = self._needed = 0  # of the newest start: the step, the bytes of disk it may take

    def start(self, step: int, leaves: Mapping[str, Any], meta: Mapping[str, Any]) -> bool:
        """Begin to save; the arrays may be donated. No save may be pending.

        Returns:
          False when it failed at once, on every process: `settle` says so.
        """
        import orbax.checkpoint as ocp

        self._pending, self._step, self._needed = step, step, room_for(leaves)
        self._meeting.begin()
        self._folder.sweep()
        if not self._may_write():
            return False
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(dict(leaves)), meta=ocp.args.JsonSave(dict(meta)))
        try:
            if self._writer is None:
                self._writer = self._make_writer()
            self._writer.save(self._folder.path / str(step), args=args)
        except Exception as error:
            if jax.process_count() > 1:
                raise
            self._seen = error
        return self._seen is None

    def check(self) -> bool:
        """False once for each save that failed in the background on this process; does not wait.

        Local: another process may not know yet. Tell the others, and let all save at the same step.
        """
        if self._pending is None or self._seen is not None:
            return True
        try:
            self._writer.check_for_errors()
        except Exception as error:
            self._fail(error)
        return self._seen is None

    def settle(self) -> bool:
        """Wait for the pending save.

        Returns:
          Whether there was one and it succeeded. The first failure in a row is said.

        Raises:
          DiskError: the second failure in a row, where the disk refused.
          Exception: the second failure in a row, as Orbax gave it.
        """
        if self._pending is None:
            return False
        if self._seen is None:
            try:
                self._writer.wait_until_finished()
            except Exception as error:
                self._fail(error)
        step, error, self._pending, self._seen = self._pending, self._seen, None, None
        if self._folder.holds(step):
            self._failure = None
            return True
        error = error or OSError("another process could not write")
        if self._failure is not None:
            self._failure = self._failure if disk.refusal(self._failure) and not disk.refusal(error) else error
            self.raise_failure()
        self._failure = error
        name = disk.refusal(error) or f"{type(error).__name__}: {error}"
        log.warning("saving checkpoint %d failed (%s); it is tried once more", step, name)
        return False

    def raise_failure(self) -> None:
        """Raise why the last save failed, if it did; nothing of it is left on disk."""
        if self._failure is None:
            return
        self._folder.sweep()
        self._folder.bring_back_replaced()
        why = disk.refusal(self._failure)
        if why and not isinstance(self._failure, DiskError):
            good = max(self._folder.steps(), default=None)
            last = "there is no checkpoint yet" if good is None else f"step {good} is the last good checkpoint"
            self._failure = DiskError(
                f"{self._folder.path}: checkpoint {self._step} could not be saved: {why} "
                f"({disk.readable(disk.free_bytes(self._folder.path))} free, about {disk.readable(self._needed)} "
                f"needed); {last}. Make room, and the same command goes on from there"
            )
        raise self._failure

    def close(self) -> None:
        """Let go of the writer's threads; `settle` before."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _may_write(self) -> bool:
        """Whether process 0 can make a file; every process gets the same answer."""
        try:
            if jax.process_index() == 0:
                self._folder.path.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._folder.path):
                    pass
        except OSError as error:
            self._seen = error
        if all_processes(self._seen is None):
            return True
        self._seen = self._seen or OSError("process 0 cannot write")
        return False

    def _make_writer(self) -> Any:
        import orbax.checkpoint as ocp

        logging.getLogger("absl").addFilter(_not_said_twice)
        options = ocp.options.AsyncOptions(
            timeout_secs=LIMIT_S, barrier_sync_fn=self._meeting, post_finalization_callback=self._list_files
        )
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARED_BYTES)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        state = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
        handler = ocp.CompositeCheckpointHandler(state=state, meta=ocp.JsonCheckpointHandler())
        return ocp.AsyncCheckpointer(handler, async_options=options)

    def _list_files(self) -> None:
        """Called by Orbax on process 0, in the background, when all is written and before the step's rename."""
        write_list(self._folder.unfinished(self._pending))

    def _fail(self, error: Exception) -> None:
        self._seen = error
        self._meeting.fail()


def _not_said_twice(record: logging.LogRecord) -> bool:
    """Orbax prints the tracebacks of a save that failed; the failure itself is said or raised here."""
    return not (record.exc_info and "orbax" in record.pathname)
