"""Where in its work a run is, told from the outside: by the stack of its main thread and by its files."""

import sys
import threading
from pathlib import Path

# (moment, file, function): the first row whose function is on the stack, so the special come before the general
PLACES = (
    ("compile", "compiler", "backend_compile"),
    ("compile", "compiler", "backend_compile_and_load"),
    ("compile", "compiler", "compile_or_get_cached"),
    ("restore", "checkpoint", "restore"),
    ("save", "checkpoint", "save"),
    ("save", "checkpoint", "wait"),
    ("save", "checkpoint", "close"),
    ("evaluation", "evaluations", "evaluation"),
    ("grid", "events", "sample_grid"),
    ("validation", "validation", "validation"),
    ("preparation", "train", "_prepare"),
    ("training", "train", "_dispatch"),
    ("training", "train", "_wait"),
    ("training", "train", "run"),
)
AIMS = ("save", "background save", "evaluation", "grid", "validation", "restore", "compile", "training")


def moment(workdir: Path) -> str:
    """What the main thread of this process is about; "background save" where it trains while a save is under way."""
    here = _on_stack()
    if here in ("training", "validation", "grid", "evaluation") and any(
        (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")
    ):
        return "background save"
    return here


def _on_stack() -> str:
    frame = sys._current_frames().get(threading.main_thread().ident)
    stack = set()
    while frame is not None:
        stack.add((Path(frame.f_code.co_filename).stem, frame.f_code.co_name))
        frame = frame.f_back
    return next((name for name, file, function in PLACES if (file, function) in stack), "start or end")
