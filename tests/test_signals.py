"""A request to stop: by a signal, by the clock, and what a second signal does."""

import os
import signal
import subprocess
import sys

import pytest

from diffusion.errors import Stopped
from diffusion.signals import SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag_and_the_handlers_come_back(number, capfd):
    before = [signal.getsignal(n) for n in SIGNALS]
    with StopRequest() as stop:
        stop.check()
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.reason == number.name
        with pytest.raises(Stopped, match=number.name) as stopped:
            stop.check()
    assert stopped.value.status == 75
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert f"{number.name}: stopping" in capfd.readouterr().err


def test_handlers_taken_by_a_library_are_taken_back():
    theirs = lambda *_: None  # noqa: E731
    before = signal.getsignal(signal.SIGUSR1)
    with StopRequest() as stop:
        signal.signal(signal.SIGUSR1, theirs)
        stop.install()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop
    assert signal.getsignal(signal.SIGUSR1) is before


def test_the_minutes_count_from_the_start():
    now = [100.0]
    stop = StopRequest(clock=lambda: now[0])
    now[0] = 130.0
    stop.after_minutes(1)
    assert not stop
    now[0] = 160.0
    assert stop and "max_minutes" in stop.reason
    stop.after_minutes(0)
    assert stop, "once asked, it stays"


def test_no_minutes_never_stop():
    stop = StopRequest(clock=lambda: 1e9)
    stop.after_minutes(0)
    assert not stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_leaves_at_once(number):
    program = (
        "import os, signal, sys\n"
        "from diffusion.signals import StopRequest\n"
        "with StopRequest() as stop:\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    print(bool(stop), 'jax' in sys.modules, flush=True)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + number, "True False\n")
