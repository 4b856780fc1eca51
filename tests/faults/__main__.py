"""The fault runner. Forks runs from a process that has imported everything and never initialised JAX."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

REPO = Path(__file__).resolve().parent.parent.parent
KILLS_PER_RUN = 4
HANG_S = 600  # a run that takes longer hangs, which is a failure


class Kill(NamedTuple):
    """One fault: what, where the run was, and its exit status; ``hit`` is False where the run had ended before."""

    fault: str
    moment: str
    status: int
    hit: bool
    real: bool
    run: int = -1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="faults to fire, at least")
    parser.add_argument("--real", type=int, default=20, help="of these, so many on the real command from outside")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    _quiet_environment()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    _import_everything()
    straight = folder / "straight"
    began = time.monotonic()
    if _forked(straight).status != 0:
        return _fail(f"the undisturbed run failed: {_said(straight)}")
    seconds = time.monotonic() - began
    wanted = _outcome(straight)
    began = time.monotonic()
    if _command(folder / "real", None, 0.0).status != 0:
        return _fail(f"the undisturbed real command failed: {_said(folder / 'real')}")
    real_seconds = time.monotonic() - began
    kills, wrong = _campaign(args, folder, wanted, seconds, real_seconds)
    print(_table(kills, set(wrong)))
    hits, runs = sum(k.hit for k in kills), len({k.run for k in kills})
    print(f"{hits} faults hit {runs} runs; {len(wrong)} runs ended otherwise than the undisturbed one")
    if wrong:
        return _fail("\n".join(wrong.values()) + f"\nworkdirs are left in {folder}")
    shutil.rmtree(folder)
    return 0


def _campaign(
    args: argparse.Namespace, folder: Path, wanted: dict[str, Any], seconds: float, real_seconds: float
) -> tuple[list[Kill], dict[int, str]]:
    """Runs, each killed a few times and then left to end, until enough faults have hit; what is wrong with which."""
    kills: list[Kill] = []
    wrong: dict[int, str] = {}
    lock, numbers = threading.Lock(), iter(range(10**6))

    def enough() -> bool:
        real = sum(k.hit and k.real for k in kills)
        return len(wrong) >= 5 or (sum(k.hit for k in kills) >= args.kills and real >= args.real)

    def worker() -> None:
        while True:
            with lock:
                if enough():
                    return
                number = next(numbers)
                real = sum(k.hit and k.real for k in kills) < args.real and number % 3 == 0
            workdir = folder / f"run{number}"
            done, problem = _killed_run(
                workdir, random.Random(f"{args.seed}/{number}"), wanted, real_seconds if real else seconds, real
            )
            with lock:
                kills.extend(kill._replace(run=number) for kill in done)
                if problem:
                    wrong[number] = f"run {number}: {problem}"
                print(f"run {number}: " + ", ".join(f"{k.fault} in {k.moment} ({k.status})" for k in done), flush=True)
            if not problem:
                shutil.rmtree(workdir)

    with ThreadPoolExecutor(args.jobs) as pool:
        for future in [pool.submit(worker) for _ in range(args.jobs)]:
            future.result()
    return kills, wrong


def _killed_run(
    workdir: Path, rng: random.Random, wanted: dict[str, Any], seconds: float, real: bool
) -> tuple[list[Kill], str]:
    """Its faults, and what is wrong with the run that they left; "" where nothing is."""
    from tests.faults.faults import FAULTS, FROM_OUTSIDE, status

    done: list[Kill] = []
    for _ in range(KILLS_PER_RUN):
        fault, after = rng.choice(FROM_OUTSIDE if real else list(FAULTS)), rng.random() * seconds
        kill = _command(workdir, fault, after) if real else _forked(workdir, fault, after, rng)
        done.append(kill)
        if kill.status == 0:
            break
        if kill.status != status(fault) and not _no_handler_yet_or_any_more(kill, workdir):
            return done, f"{fault} in {kill.moment}: exit status {kill.status}, not {status(fault)}: {_said(workdir)}"
    if done[-1].status != 0 and (last := _forked(workdir)).status != 0:
        return done, f"it does not go on after {done[-1]}: exit status {last.status}: {_said(workdir)}"
    found = _outcome(workdir)
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    return done, f"{', '.join(differing)} differ after {done}" if differing else ""


def _no_handler_yet_or_any_more(kill: Kill, workdir: Path) -> bool:
    """Whether a signal ended the process before the program took it or after the run had finished, as it may."""
    number = getattr(signal, kill.fault, 0)
    return kill.status in (-number, 128 + number) and (not workdir.exists() or "inished:" in _said(workdir)[-600:])


def _forked(workdir: Path, fault: str = "", after: float = 0.0, rng: random.Random | None = None) -> Kill:
    """A run in a child of this process, with a fault after so many seconds, or where it is in the moment aimed at."""
    from tests.faults.moments import AIMS

    note = workdir.with_suffix(".moment")
    note.unlink(missing_ok=True)
    aim = rng.choice(AIMS) if rng and rng.random() < 0.5 else ""
    child = os.fork()
    if child == 0:
        _child(workdir, fault, after, aim, note)
    status = _wait(child)
    hit = note.read_text() if note.exists() else ""
    return Kill(fault, hit, status, bool(hit) and status != 0, False)


def _child(workdir: Path, fault: str, after: float, aim: str, note: Path) -> None:
    """Never returns."""
    import main_jax
    from tests.faults.faults import FAULTS
    from tests.faults.moments import moment
    from tests.tiny import arguments

    log = os.open(workdir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)

    def fire() -> None:
        time.sleep(after if not aim else 0)
        while aim and moment(workdir) != aim:
            time.sleep(0.001)
        note.write_text(moment(workdir))
        FAULTS[fault]()

    if fault:
        threading.Thread(target=fire, daemon=True).start()
    status = 1
    try:
        status = main_jax.main(arguments(workdir))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int) -> int:
    ends = time.monotonic() + HANG_S
    while time.monotonic() < ends:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -999


def _command(workdir: Path, fault: str | None, after: float) -> Kill:
    """The real command, and a signal from outside after so many seconds."""
    from tests.tiny import arguments

    with workdir.with_suffix(".log").open("a") as log:
        command = [sys.executable, "main_jax.py", *arguments(workdir)]
        run = subprocess.Popen(command, cwd=REPO, stdout=log, stderr=log)
        if fault is None:
            return Kill("", "", run.wait(HANG_S), False, True)
        try:
            run.wait(max(after, 1.0))  # Python itself has no handlers in its first moments
            hit = False
        except subprocess.TimeoutExpired:
            run.send_signal(getattr(signal, fault))
            hit = True
        status = run.wait(HANG_S)
    return Kill(fault, "real command" if hit else "", status, hit and status != 0, True)


def _outcome(workdir: Path) -> dict[str, Any]:
    """What must be equal, read by a child: state, best record, log, pictures, figures of the evaluations."""
    answer = workdir.with_suffix(".outcome")
    child = os.fork()
    if child == 0:
        _write_outcome(workdir, answer)
    if _wait(child) != 0:
        return {"outcome": f"cannot be read: {_said(workdir)}"}
    return json.loads(answer.read_text())


def _write_outcome(workdir: Path, answer: Path) -> None:
    """Never returns."""
    import hashlib

    from tests.tiny import log, state_print

    status = 1
    try:
        state, meta = state_print(workdir)
        pictures = sorted((workdir / "samples").glob("*.png"))
        reports = sorted((workdir / "eval").glob("*.json"))
        found = {
            "state": state,
            "meta": meta,
            "metrics.jsonl": log(workdir),
            "samples": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures},
            "evaluations": {path.name: json.loads(path.read_text())["metrics"] for path in reports},
            "left over": sorted(path.name for path in (workdir / "cache").glob("evaluation-*")),
        }
        answer.write_text(json.dumps(found))
        status = 0
    finally:
        os._exit(status)


def _quiet_environment() -> None:
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(REPO / ".cache" / "jax-faults")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _import_everything() -> None:
    """All that a run imports, so that a child has it by being forked."""
    import importlib
    import pkgutil

    import grain  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import sklearn.datasets  # noqa: F401
    from jax._src import xla_bridge

    import diffusion
    import main_jax  # noqa: F401

    for module in pkgutil.walk_packages(diffusion.__path__, "diffusion."):
        importlib.import_module(module.name)
    assert not xla_bridge.backends_are_initialized(), "a child cannot use a JAX that was initialised before the fork"


def _said(workdir: Path) -> str:
    log = workdir.with_suffix(".log")
    return log.read_text()[-1500:] if log.exists() else "nothing"


def _table(kills: list[Kill], wrong: set[int]) -> str:
    """Markdown: how often each fault hit each moment, with what exit status, and in how many runs the end differed."""
    hits = [k for k in kills if k.hit]
    moments = sorted({k.moment for k in hits})
    lines = [f"| fault | {' | '.join(moments)} | exit status | runs that ended otherwise |"]
    lines.append("| --- |" + " ---: |" * len(moments) + " --- | ---: |")
    for fault in sorted({k.fault for k in hits}):
        mine = [k for k in hits if k.fault == fault]
        counts = Counter(k.moment for k in mine)
        statuses = ", ".join(map(str, sorted({k.status for k in mine})))
        differing = len(wrong & {k.run for k in mine})
        lines.append(f"| {fault} | {' | '.join(str(counts[m] or '') for m in moments)} | {statuses} | {differing} |")
    return "\n".join(lines)


def _fail(why: str) -> int:
    print(why, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
