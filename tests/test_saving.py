"""Saves that fail: said, repeated once, then raised; the steps before stay whole."""

import errno
import logging
import resource

import pytest

from diffusion.checkpoint import Checkpoints
from diffusion.errors import DiskError
from diffusion.state import fingerprint
from tests.checkpoints import ABSTRACT, META, train_state

# A write that Orbax gives up leaves tasks and event loops behind.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)

LAST_GOOD = "step 30 is the last good checkpoint"
LIMITS = resource.getrlimit(resource.RLIMIT_FSIZE)


def failing(monkeypatch, times, error=None):
    """Make the background of the next ``times`` saves fail, as on a full disk by default."""
    import orbax.checkpoint as ocp

    real, left = ocp.JsonCheckpointHandler.async_save, [times]

    class Full:
        def result(self, timeout=None):
            raise error or OSError(errno.ENOSPC, "No space left on device")

    async def async_save(self, *args, **kwargs):
        if left[0]:
            left[0] -= 1
            return [Full()]
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "async_save", async_save)


def background_ends(checkpoints):
    """Until the thread of the save has ended, without asking it for its error."""
    checkpoints._saver._writer._async_manager._thread.join()


def test_a_failed_save_is_said_and_repeated_once(copy, monkeypatch, caplog):
    failing(monkeypatch, 1)
    checkpoints = Checkpoints(copy, keep=9)
    with caplog.at_level(logging.WARNING):
        checkpoints.save(40, train_state(40), META)
        background_ends(checkpoints)
        assert [checkpoints.check() for _ in range(3)] == [False, True, True]
        checkpoints.save(41, train_state(41), META)
    assert "saving checkpoint 40 failed (No space left on device); it is tried once more" in caplog.text
    checkpoints.close()
    assert checkpoints.all_steps() == [10, 20, 30, 41] and checkpoints.check()


def test_the_second_failure_in_a_row_is_raised_by_the_save_that_learns_of_it(copy, monkeypatch):
    failing(monkeypatch, 2)
    checkpoints = Checkpoints(copy, keep=9)
    for step in (40, 41):
        checkpoints.save(step, train_state(step), META)
        background_ends(checkpoints)
        assert checkpoints.check() is False
    with pytest.raises(DiskError, match=f"checkpoint 41 .*No space left .* {LAST_GOOD}") as error:
        checkpoints.save(42, train_state(42), META)
    assert "\n" not in str(error.value)
    with pytest.raises(DiskError, match="checkpoint 41"):
        checkpoints.close()
    assert sorted(path.name for path in copy.iterdir()) == ["10", "20", "30"]
    assert Checkpoints(copy).restore(ABSTRACT).step == 30


def test_failures_that_are_not_in_a_row_are_each_repeated(copy, monkeypatch):
    checkpoints = Checkpoints(copy, keep=9)
    for step in (40, 50):
        failing(monkeypatch, 1)
        checkpoints.save(step, train_state(step), META)
        checkpoints.save(step + 1, train_state(step + 1), META)
    checkpoints.close()
    assert checkpoints.all_steps() == [10, 20, 30, 41, 51]


def test_a_failure_of_another_kind_keeps_its_type(copy, monkeypatch):
    failing(monkeypatch, 2, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        Checkpoints(copy).save(40, train_state(40), META, wait=True)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_the_last_save_waits_and_repeats_itself(copy, monkeypatch, times):
    failing(monkeypatch, times)
    checkpoints = Checkpoints(copy, keep=1)
    if times == 2:
        with pytest.raises(DiskError, match="No space left"):
            checkpoints.save(40, train_state(40), META, wait=True)
        assert checkpoints.all_steps() == [10, 20, 30]
        return
    checkpoints.save(40, train_state(40), META, wait=True)
    assert checkpoints.all_steps() == [40]
    checkpoints.close()


def test_a_replacement_that_fails_leaves_the_step_it_was_to_replace(copy, monkeypatch):
    failing(monkeypatch, 2)
    with pytest.raises(DiskError, match=LAST_GOOD):
        Checkpoints(copy).save(30, train_state(99), META, replace=True)
    assert fingerprint(Checkpoints(copy).restore(ABSTRACT).state) == fingerprint(train_state(30))


def test_a_list_that_cannot_be_written_is_a_failed_save(copy, monkeypatch):
    """Nothing becomes visible without its list."""

    def full(step):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("diffusion.saving.write_list", full)
    with pytest.raises(DiskError, match=LAST_GOOD):
        Checkpoints(copy).save(40, train_state(40), META, wait=True)
    assert sorted(path.name for path in copy.iterdir()) == ["10", "20", "30"]


def test_a_file_system_that_takes_no_bytes_is_said_for_what_it_is(copy):
    """The real writers of Orbax and TensorStore against a real limit: files may hold 2000 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, LIMITS[1]))
    try:
        with pytest.raises(DiskError, match=f"File too large .* {LAST_GOOD}"):
            Checkpoints(copy).save(40, train_state(40), META, wait=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, LIMITS)
    checkpoints = Checkpoints(copy, keep=9)
    assert checkpoints.all_steps() == [10, 20, 30]
    checkpoints.save(40, train_state(40), META, wait=True)
    checkpoints.close()
    assert sorted(path.name for path in copy.iterdir()) == ["10", "20", "30", "40"]
