"""This program against PyTorch on the same work: nets, parameter counts, batches and precision are the same.

    python -m benchmarks.contest [--shapes=unet,dit] [--batches=16,64] [--rounds=7] [--dtype=float32] [--device=cpu]
                                 [--variants=eager,channels_last,compile] [--works=train,sample] [--json=FILE]

Needs torch and diffusers (requirements-bench.txt). Every side is a process of its own; they work in turn, in changing
order, so that what slows the machine down slows all of them. Prints markdown: medians, ratios within a round to the
PyTorch variant with the least median, true FLOPs, and their share of the best matrix product that either side reached.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import contest_shapes as shapes
from benchmarks.contest_worker import Worker

OURS = "ours"
WARM_UP = 2  # rounds of each work before any counts
SIDES = {"cpu": 2048, "cuda": 8192}  # of the square matrices
LEAN = "tiny_unet"  # the program that a worker of matrix products is told to build


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="unet,dit", help=", ".join(shapes.SHAPES))
    parser.add_argument("--batches", default="16,64")
    parser.add_argument("--works", default="train,sample")
    parser.add_argument("--variants", default="eager,channels_last,compile", help="of PyTorch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--sampler-steps", type=int, default=10)
    parser.add_argument("--json", type=Path, default=None, help="all seconds, as taken")
    given = parser.parse_args(argv)
    tasks = [
        {"shape": shape, "batch": int(batch), "dtype": given.dtype, "device": given.device}
        | {"sampler_steps": given.sampler_steps, "side": SIDES[given.device]}
        for shape in given.shapes.split(",")
        for batch in given.batches.split(",")
    ]
    with tempfile.TemporaryDirectory(prefix="contest-") as folder:
        log = Path(folder) / "workers.log"
        try:
            peaks, versions = matrix_peaks(tasks[0], given.rounds, log)
            print(f"{date.today()}, {machine()}, {', '.join(versions)}, {given.dtype}, {given.rounds} rounds in turn.")
            said = ", ".join(f"{side} {peak / 1e9:,.0f}" for side, peak in peaks.items())
            print(f"Best matrix product of {SIDES[given.device]} in GFLOP/s: {said}.\n")
            print("| work | net | batch | side | ms | this / best PyTorch | GFLOP/s | of peak |")
            print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
            found = []
            for task in tasks:
                for result in contest(task, given.works.split(","), given.variants.split(","), given.rounds, log):
                    found.append(result)
                    print("\n".join(rows(result, max(peaks.values()))), flush=True)
        except RuntimeError as error:
            sys.exit(f"{error}\n{log.read_text()[-2000:]}")
    if given.json:
        given.json.write_text(json.dumps({"peaks": peaks, "versions": versions, "found": found}, indent=1))


def contest(
    task: Mapping[str, Any], works: Sequence[str], variants: Sequence[str], rounds: int, log: Path
) -> Iterator[dict[str, Any]]:
    """Of each work the seconds of each side, [rounds]."""
    with ExitStack() as until:
        sides = {OURS: until.enter_context(Worker("benchmarks.contest_jax", task, log))}
        for variant in variants:
            sides[variant] = until.enter_context(Worker("benchmarks.contest_torch", {**task, "variant": variant}, log))
        about = {name: side.about for name, side in sides.items()}
        for work in works:
            yield {"task": dict(task), "work": work, "about": about, "seconds": in_turn(sides, work, rounds)}


def in_turn(sides: Mapping[str, Worker], work: str, rounds: int) -> dict[str, list[float]]:
    """Seconds by side, a value a round; the first of a round changes."""
    for side in sides.values():
        side.work(work, WARM_UP)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            taken[name] += sides[name].work(work, 1)
    return taken


def rows(result: Mapping[str, Any], peak: float) -> list[str]:
    """Of the table, the best PyTorch variant being the measure of all."""
    seconds, task, work = result["seconds"], result["task"], result["work"]
    flops = result["about"][OURS]["flops_per_image" if work == "train" else "flops_per_sample"] * task["batch"]
    theirs = {name: statistics.median(taken) for name, taken in seconds.items() if name != OURS}
    measure = seconds[min(theirs, key=theirs.get)] if theirs else seconds[OURS]
    found = []
    for name, taken in seconds.items():
        median = statistics.median(taken)
        ratio = statistics.median(a / b for a, b in zip(taken, measure, strict=True))
        parameters = result["about"][name]["parameters"]
        side = "**this program**" if name == OURS else f"PyTorch {name}"
        net = f"{task['shape']} {parameters / 1e6:.2f}M"
        cells = [work, net, task["batch"], side, f"{1e3 * median:,.0f}", f"{ratio:.2f}"]
        cells += [f"{flops / median / 1e9:,.0f}", f"{flops / median / peak:.0%}"]
        found.append(f"| {' | '.join(map(str, cells))} |")
    return found


def matrix_peaks(task: Mapping[str, Any], rounds: int, log: Path) -> tuple[dict[str, float], list[str]]:
    """FLOP/s by side, taken in turn, and what the sides are."""
    lean = {**task, "shape": LEAN, "batch": 16, "variant": "eager"}
    with (
        Worker("benchmarks.contest_jax", lean, log) as jax_side,
        Worker("benchmarks.contest_torch", lean, log) as torch_side,
    ):
        sides = {"XLA": jax_side, "PyTorch": torch_side}
        taken = in_turn(sides, "peak", max(rounds, 5))
        versions = [side.about["version"] for side in sides.values()]
    return {name: 2 * task["side"] ** 3 / statistics.median(seconds) for name, seconds in taken.items()}, versions


def machine() -> str:
    """The processor's name and its number of cores, as far as the system says."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}"


if __name__ == "__main__":
    main(sys.argv[1:])
