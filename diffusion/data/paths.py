"""Where a name that a file gives may point."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from diffusion.errors import DataError


def inside(root: Path, name: str, where: str) -> Path:
    """The path that ``name``, read from a metadata file, means under ``root``; it need not exist.

    Such a name is another person's word, so it may not lead out of the data folder: not as an absolute path, by
    ``..``, by a Windows drive or backslash, nor through a symlink. (Symlinks that a person put into a folder which
    is scanned are their own, and are followed: see ``folder``.)

    Args:
      where: the file and line or field that gives the name, for the error.
    Raises:
      DataError: the name leads out, is empty, or can be no path.
    """

    def refused(problem: str) -> DataError:
        return DataError(f"{where}: the path {name!r} {problem}; a path below {root} is right")

    if not isinstance(name, str) or not name.strip():
        raise refused("is no file name")
    if any(ord(letter) < 32 for letter in name):
        raise refused("holds control characters")
    if PureWindowsPath(name).anchor:  # a drive, a server, or a leading slash of either kind
        raise refused("is absolute or names a drive")
    if "\\" in name:
        raise refused("holds a backslash; folders are separated by /")
    if ".." in PurePosixPath(name).parts:
        raise refused("goes up by ..")
    path = root / name
    target, base = (Path(os.path.realpath(each)) for each in (path, root))  # a link in a circle stays as it is
    if not target.is_relative_to(base):
        raise refused(f"leads out of the data folder, to {target}")
    if target == base:
        raise refused("is the data folder itself")
    return path
