"""What a disk refuses, in words that name the place."""

import errno
import os
import tempfile

import pytest

from diffusion import disk
from diffusion.errors import ConfigError, DiskError

FULL = OSError(errno.ENOSPC, "No space left on device", "run/x.png")


def caused(outer, inner):
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (FULL, "No space left on device"),
        (OSError(errno.EDQUOT, "quota"), "Disk quota exceeded"),
        (OSError(errno.EROFS, "ro"), "Read-only file system"),
        (ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [28]"), "No space left on device"),
        (caused(RuntimeError("a writer failed"), FULL), "No space left on device"),
        (OSError(errno.ENOENT, "No such file"), None),
        (ValueError("a bug"), None),
    ],
)
def test_the_disk_is_blamed_for_what_it_did(error, why):
    assert disk.refusal(error) == why


def test_a_refused_file_is_reported_by_name():
    assert str(disk.refused(FULL)).startswith("run/x.png: No space left on device; make room")
    assert disk.refused(OSError(errno.ENOENT, "No such file")) is None
    assert disk.refused(caused(ConfigError("a.b", "is wrong"), FULL)) is None
    assert disk.refused(FULL).status == DiskError.status == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("new/run", None),
        ("there", None),
        ("file", "file is a file"),
        ("file/run", "file is a file"),
        ("lost", "lost is in the way and leads nowhere"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_folder_is_tried_and_nothing_is_left(tmp_path, name, why):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    found = disk.unwritable(tmp_path / name)
    assert found is None if why is None else found.endswith(why)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_read_only_file_system_is_named(tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert disk.unwritable(tmp_path / "a" / "b") == "Read-only file system"
    assert list(tmp_path.iterdir()) == []


def test_one_at_a_time_holds_a_file(tmp_path):
    with disk.held(tmp_path / "lock") as first, disk.held(tmp_path / "lock") as second:
        assert first and not second
    with disk.held(tmp_path / "lock") as again:
        assert again


def test_without_locks_the_run_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    def none(file, how):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(disk.fcntl, "flock", none)
    with disk.held(tmp_path / "lock") as mine:
        assert mine
    assert "has no locks" in caplog.text


def test_sizes_are_readable():
    sizes = [0, 999, 1000, 3145728, 2_500_000_000_000_000]
    assert [disk.readable(size) for size in sizes] == ["0 bytes", "999 bytes", "1.0 kB", "3.1 MB", "2500.0 TB"]
