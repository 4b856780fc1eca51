"""split.json of a workdir: which file a run trains, validates and tests on. Others are refused before they are read."""

import logging
from collections.abc import Sequence
from pathlib import Path

import jax

from diffusion import cluster
from diffusion.data import split_file
from diffusion.data.duplicates import duplicates, report
from diffusion.data.listing import Listing, differences, said
from diffusion.errors import DataError, MismatchError
from diffusion.eval_report import replace_text
from diffusion.program import Program
from diffusion.progress import say

log = logging.getLogger(__name__)

NAME = "split.json"
NAMED = 20  # classes, at most, whose counts are said

# Of resume.allow, these and the fields in them let the files be others: a folder at another place is the same folder.
FREE = ("data.source", "data.split_seed", "data.folder", "data.digits_folder")


def check(program: Program, *, begun: bool = True) -> None:
    """Compare the set's files with those that the workdir's run was begun with. A set that has no files passes.

    Args:
      begun: there is such a run; before its first checkpoint the files may still change.

    Raises:
      MismatchError: they differ in name, split or content, and ``resume.allow`` does not say that they may; or the list
        of them cannot be read. DataError: a file cannot be read.
    """
    if program.dataset.listing is None or program.transfer:
        return
    try:
        now, saved = program.dataset.listing(), _saved(program.workdir)
    except DataError as error:
        error.status = 2  # before anything is drawn or trained
        raise
    found = differences(saved, now) if saved and begun else {}
    if found and not _may_differ(program.resume_allow):
        raise MismatchError(
            f"the files of {program.dataset.name} are not those that this run was begun with, by {_path(program)}:\n"
            f"{said(found)}\nrestore them, take another workdir, or allow it knowingly: --config.resume.allow=data"
        )


def check_duplicates(program: Program) -> None:
    """Say what is there more than once.

    Raises:
      DataError: it lies in two splits or two classes, and that is to be refused.
    """
    if program.dataset.listing is None:
        return
    now = program.dataset.listing()
    found = duplicates(now)
    if found.across and now.refuse_duplicates:
        raise DataError(
            f"{program.dataset.name}: {report(found)}; remove all but one of each, or take duplicates=report"
        )
    if (found.across or found.within) and jax.process_index() == 0:
        log.warning("%s: %s; %s lists those across splits and classes", program.dataset.name, report(found), NAME)


def across(program: Program) -> int | None:
    """How many images lie in more than one split or class; None of a set that has no files."""
    return None if program.dataset.listing is None else len(duplicates(program.dataset.listing()).across)


def write(program: Program) -> None:
    """The list of files into the workdir, whole or not at all, where it is not there or its files were let change."""
    if program.dataset.listing is None or jax.process_index() != 0:
        return
    path, now, saved = _path(program), program.dataset.listing(), _read(program.workdir)
    if saved is not None and not differences(split_file.parsed(saved), now):
        return
    replace_text(path, split_file.text(now))
    say(f"{path}: {'; '.join(_counts(now))}")


def _may_differ(allow: Sequence[str]) -> bool:
    return any(name == "data" or any(name == free or name.startswith(f"{free}.") for free in FREE) for name in allow)


def _path(program: Program) -> Path:
    return program.workdir / NAME


def _saved(workdir: Path) -> Listing | None:
    """Process 0's list on every process."""
    content = cluster.of_first(_read(workdir) if jax.process_index() == 0 else None)
    try:
        return None if content is None else split_file.parsed(content)
    except ValueError as error:
        raise MismatchError(
            f"{workdir / NAME} is damaged, or of another program ({error}); put back the run's own, or remove it: then "
            "it is made anew from the files that are there"
        ) from error


def _read(workdir: Path) -> str | None:
    path = workdir / NAME
    return path.read_bytes().decode("utf-8", "replace") if path.is_file() else None


def _counts(listing: Listing) -> list[str]:
    """Of each split: train 46 (cat 36, dog 10)."""
    return [
        f"{split} {sum(counts.values())}"
        + (f" ({', '.join(f'{name} {n}' for name, n in counts.items())})" if len(counts) <= NAMED else "")
        for split, counts in listing.counts().items()
    ]
