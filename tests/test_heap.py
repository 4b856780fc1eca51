"""Memory that is given back stays with the process, so that it need not be mapped and cleared again."""

import os
import subprocess
import sys

import pytest

from diffusion import heap
from tests.conftest import REPO

# page faults of taking 64 MB again that were given back just before, in a thread as XLA's are
AGAIN = """
import resource, sys, threading
import numpy as np
from diffusion.heap import keep_heap

kept = keep_heap() if sys.argv[1] == "kept" else None

def fill():
    np.ones(64 << 20, np.uint8)

def faults():
    fill()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill()
    print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=faults)
thread.start()
thread.join()
"""


def faults(how: str) -> tuple[str, int]:
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, how], cwd=REPO, env=env, capture_output=True, text=True, check=True
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_what_was_given_back_is_there_without_a_fault():
    kept, count = faults("kept")
    if kept != "True":
        pytest.skip("an accelerator is there, or the C library has no mallopt")
    pages = (64 << 20) // 4096
    assert count < pages // 100
    assert faults("as it is")[1] > 20 * max(count, 1), "else the settings would bring nothing"


@pytest.mark.parametrize(
    ("there", "chosen"), [(False, ""), (True, ""), (False, "MALLOC_ARENA_MAX"), (False, "GLIBC_TUNABLES")]
)
def test_an_accelerator_and_who_chose_are_left_alone(monkeypatch, tmp_path, there, chosen):
    device = tmp_path / "nvidiactl"
    device.touch() if there else None
    monkeypatch.setattr(heap, "ACCELERATORS", (str(device),))
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setenv(chosen, "2") if chosen else None
    asked = []
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: type("C", (), {"mallopt": lambda *a: asked.append(a) or 1})())
    free = not there and not chosen and sys.platform.startswith("linux")
    assert heap.keep_heap() == free == bool(asked)
    # the largest positive number would be 2 GiB, above which a large step's memory was given back each time
    assert not asked or (heap.M_TRIM_THRESHOLD, -1) in [given[1:] for given in asked]
