"""Checkpoints with damaged files: an exact restore, an exact fall-back or a refusal, never other values."""

import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import pytest

from diffusion import restoring
from diffusion.checkpoint import Checkpoints
from diffusion.errors import NoValidCheckpoint
from diffusion.filelist import NAME
from diffusion.state import fingerprint
from tests.checkpoints import ABSTRACT, META, break_step, flip, train_state, tree_of

# A read that Orbax gives up leaves coroutines behind.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine")

MUTATIONS = {
    "delete": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "halve": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flip 25 %": lambda path: flip(path, 0.25),
    "flip 50 %": lambda path: flip(path, 0.5),
    "flip 90 %": lambda path: flip(path, 0.9),
}
UNREAD = {"_CHECKPOINT_METADATA", "commit_success.txt"}  # Orbax's notes beside the folders, written as it commits


def damaged(saved, tmp_path, mutation, *, listed=True):
    """(file, restored step) for each file of step 30, damaged in a copy of steps 20 and 30."""
    for number, path in enumerate(sorted(p for p in (saved / "30").rglob("*") if p.is_file())):
        if not listed and path.name == NAME:
            continue
        directory = Path(shutil.copytree(saved, tmp_path / str(number), ignore=shutil.ignore_patterns("10")))
        if not listed:
            (directory / "30" / NAME).unlink()
        if path.stat().st_size or mutation == "delete":
            MUTATIONS[mutation](directory / path.relative_to(saved))
        restored = Checkpoints(directory).restore(ABSTRACT)
        assert fingerprint(restored.state) == fingerprint(train_state(restored.step)), path
        yield path.relative_to(saved / "30").as_posix(), restored.step


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_damaged_file_is_found_before_orbax_reads_it(saved, tmp_path, mutation, monkeypatch):
    """Exact from step 30, where the file is not read, or from step 20; of step 30 Orbax sees no damaged file."""
    read, arrays = [], restoring._arrays
    monkeypatch.setattr(restoring, "_arrays", lambda path, *rest: read.append(path.name) or arrays(path, *rest))
    found = dict(damaged(saved, tmp_path, mutation))
    unlisted = {NAME} if mutation == "delete" else set()
    assert {file for file, step in found.items() if step == 30} == UNREAD & set(found) | unlisted
    assert Counter(read) == Counter(str(step) for step in found.values())
    assert len(found) >= 12 and {"meta/metadata", NAME} < set(found)


@pytest.mark.parametrize(
    "mutation", ["flip 50 %", *(pytest.param(m, marks=pytest.mark.slow) for m in MUTATIONS if m != "flip 50 %")]
)
def test_without_a_list_seal_and_fingerprints_find_what_matters(saved, tmp_path, mutation):
    steps = Counter(step for _, step in damaged(saved, tmp_path, mutation, listed=False))
    assert steps[20] >= 2 and steps[20] + steps[30] == steps.total() >= 12


def test_a_file_that_is_not_listed_is_of_no_account(copy):
    (copy / "30" / "state" / ".nfs0001").write_text("left by a file server")
    assert Checkpoints(copy).restore(ABSTRACT).step == 30


def test_the_list_holds_every_file_of_its_folders(saved):
    listed = json.loads((saved / "30" / NAME).read_text())["body"]["files"]
    files = {p.relative_to(saved / "30").as_posix(): p for p in (saved / "30").rglob("*") if p.is_file()}
    assert set(listed) == set(files) - UNREAD - {NAME}
    assert all(listed[name]["bytes"] == files[name].stat().st_size for name in listed)


@pytest.mark.parametrize("listed", [True, False])
def test_one_leaf_whose_bits_differ_from_the_sealed_ones_is_found(copy, caplog, listed):
    """Arrays of another save under the metadata of this one: Orbax alone restores them without a word."""
    shutil.rmtree(copy / "30" / "state")
    shutil.copytree(copy / "20" / "state", copy / "30" / "state")
    if not listed:
        (copy / "30" / NAME).unlink()
    with caplog.at_level(logging.WARNING):
        assert Checkpoints(copy).restore(ABSTRACT).step == 20
    assert ("30 is damaged: state/" if listed else "not the bits that were saved") in caplog.text


@pytest.mark.parametrize("broken", [[30], [30, 20]])
def test_damaged_steps_are_set_aside_and_the_run_goes_on(copy, broken, caplog):
    for step in broken:
        break_step(copy, step)
    checkpoints = Checkpoints(copy, keep=9)
    with caplog.at_level(logging.WARNING):
        restored = checkpoints.restore(ABSTRACT)
    good = 30 - 10 * len(broken)
    assert restored.step == good and fingerprint(restored.state) == fingerprint(train_state(good))
    assert all(f"{step}.corrupt" in caplog.text and (copy / f"{step}.corrupt").is_dir() for step in broken)
    assert checkpoints.save(30, train_state(30), META, wait=True)
    checkpoints.close()
    assert checkpoints.restore(ABSTRACT).step == 30


def test_a_step_can_be_damaged_twice(copy):
    (copy / "30.corrupt").mkdir()
    break_step(copy, 30)
    Checkpoints(copy).restore(ABSTRACT)
    assert (copy / "30.corrupt-2").is_dir()


def test_no_valid_step_stops_and_touches_nothing(copy):
    for step in (10, 20, 30):
        break_step(copy, step)
    before = tree_of(copy)
    for _ in range(2):
        with pytest.raises(NoValidCheckpoint, match="20: meta/metadata does not match"):
            Checkpoints(copy).restore(ABSTRACT)
    assert tree_of(copy) == before


def test_only_set_aside_steps_are_no_fresh_start(copy):
    for step in (10, 20, 30):
        (copy / str(step)).rename(copy / f"{step}.corrupt")
    with pytest.raises(NoValidCheckpoint, match=r"30\.corrupt"):
        Checkpoints(copy).restore(ABSTRACT)
