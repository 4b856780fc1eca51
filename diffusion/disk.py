"""What a disk may refuse, said for people: no room, no permission, a file in the way, another run at work."""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from diffusion.errors import DiskError, UserError

log = logging.getLogger(__name__)

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def refusal(error: BaseException | None) -> str | None:
    """``No space left on device`` or the like where that is behind an error; None where the disk is not to blame.

    TensorStore and Orbax wrap the operating system's error in others of their own, so its words are looked for too.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            return os.strerror(error.errno)
        for number in REFUSALS:
            if os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def refused(error: Exception) -> DiskError | None:
    """The report of a file that could not be written; None where the disk is not to blame or all is said."""
    why = None if isinstance(error, UserError) else refusal(error)
    if why is None:
        return None
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return DiskError(f"{where}{why}; make room, and the same command goes on from the last checkpoint")


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def free_bytes(path: Path) -> int:
    """What may still be written in the file system that holds, or would hold, a path."""
    return shutil.disk_usage(existing(path)).free


def readable(size: int) -> str:
    """``3145728 -> 3.1 MB``."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def unwritable(folder: Path) -> str | None:
    """Why no file can be made in a folder, which may not exist yet; None where one can. Leaves nothing behind."""
    made: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except FileExistsError as error:
        return f"{error.filename} is in the way and leads nowhere"
    except NotADirectoryError:
        return f"{next(path for path in (folder, *folder.parents) if path.is_file())} is a file"
    except OSError as error:
        return error.strerror
    finally:
        for path in reversed(made):
            path.rmdir()


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether this program alone holds the file, which is made; the kernel lets go of it at any death.

    True, after a word, where the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            log.warning("%s: this file system has no locks (%s); take care that one run at a time uses it", path, error)
        yield True
