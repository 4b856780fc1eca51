"""How cost grows with the work: tables in Markdown, each with the exponent of the line through its logarithms.

    python -m benchmarks.scaling [--only=batch,depth,…] [--small]

Parts: batch, resolution and depth (a train step of a small U-Net or transformer), images and classes (an evaluation),
parameters (a checkpoint, saved and restored), devices (the same batch on emulated CPU devices, which share the cores:
the overhead of sharding). An exponent of 1 is linear; below it, a fixed part still shows. Some 6 minutes on two cores,
half of that with ``--small``: most of it is compilation.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from configs.digits import get_config
from diffusion import evaluate, runs
from diffusion.build import build
from diffusion.config import override
from diffusion.heap import keep_heap
from diffusion.mesh import put_replicated, put_rows, two_cpu_devices
from diffusion.modes.bench import _fresh_state, _random_batch
from diffusion.program import Program
from diffusion.state import count_parameters
from diffusion.steps import GO_ON, make_train_step

WARM_UP = 2  # calls before any is timed
SPAN = 2.0  # seconds for which calls are timed, or LEAST of them
LEAST = 5
LINEAR = 0.15  # an exponent so near to 1 is called linear

UNET = ("net.unet.channels=32", "net.unet.mults=(1,)", "net.unet.attention=()", "net.unet.heads=1")
DIT = ("net.name=dit", "net.dit.d=128", "net.dit.heads=4", "net.dit.depth=4")
EVALUATED = (*UNET, "eval.metrics=('fd','kid')", "eval.extractor=pixels", "sampler.steps=4", "eval.batch_size=100")
CHECKPOINTED = ("net.name=dit", "net.dit.heads=4", "net.dit.depth=4")

Rows = list[tuple[float, float]]  # value, seconds


def program(workdir: Path, *assignments: str) -> Program:
    return build(override(get_config().unlock(), list(assignments)).lock(), workdir)


def seconds_of(call: Callable[[], object]) -> float:
    """The median of a call, after a warm-up."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    while len(times) < LEAST or sum(times) < SPAN:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def train_step(p: Program) -> float:
    """Seconds of one step."""
    state, batch = _fresh_state(p), _random_batch(p, 0)
    step, frozen = make_train_step(p.diffusion, p.optimiser, p.mesh), put_replicated(p.mesh, p.diffusion.codec.frozen)
    words = put_rows(p.mesh, np.full(p.mesh.size, GO_ON, np.int32))

    def call() -> None:
        nonlocal state
        state, metrics = step(state, frozen, batch, words)
        jax.block_until_ready((state, metrics))

    return seconds_of(call)


def evaluation(p: Program) -> float:
    """Seconds of drawing and comparing, the second time, when its programs are compiled."""
    params = _fresh_state(p).ema[p.optimiser.averages.use]
    times = []
    for step in (1, 2):
        began = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # what it says of itself is no part of a table
            evaluate.run(p, params, step)
        times.append(time.perf_counter() - began)
    return times[-1]


def checkpoint(p: Program) -> tuple[int, float, float]:
    """(parameters, seconds to save, seconds to restore), the second time each."""
    state, found = _fresh_state(p), []
    saved = runs.checkpoints(p)
    for step in (1, 2):
        began = time.perf_counter()
        saved.save(step, state, {}, {}, wait=True)
        between = time.perf_counter()
        saved.restore(runs._abstract_state(p))
        found.append((between - began, time.perf_counter() - between))
    saved.close()
    return count_parameters(state.params), *found[-1]


def by_batch(workdir: Path, small: bool) -> None:
    sizes = (16, 32) if small else (16, 32, 64, 128)
    for name, net in (("U-Net", UNET), ("transformer", DIT)):
        rows = [(b, train_step(program(workdir, *net, f"data.batch_size={b}"))) for b in sizes]
        table(f"Train step of a small {name}, 8x8 digits", "batch", rows)


def by_resolution(workdir: Path, small: bool) -> None:
    sizes = (8, 16) if small else (8, 16, 32)
    for name, net in (("U-Net without attention", UNET), ("transformer, patches of 2", DIT)):
        rows = [(s * s, train_step(program(workdir, *net, f"data.size={s}", "data.batch_size=32"))) for s in sizes]
        table(f"Train step of a small {name}, batch 32", "pixels", rows)


def by_depth(workdir: Path, small: bool) -> None:
    depths = (1, 2) if small else (2, 4, 8, 16)
    nets = (
        ("U-Net (blocks a level)", (*UNET, "data.size=16"), "net.unet.blocks", depths[:3]),
        ("transformer (blocks)", DIT, "net.dit.depth", depths),
    )
    for name, net, field, values in nets:
        rows = [(d, train_step(program(workdir, *net, f"{field}={d}", "data.batch_size=32"))) for d in values]
        table(f"Train step of a small {name}, batch 32", "depth", rows)


def by_images(workdir: Path, small: bool) -> None:
    counts = (5, 10) if small else (25, 50, 100, 200)
    rows = [(10 * n, evaluation(program(workdir, *EVALUATED, f"eval.num_samples_per_class={n}"))) for n in counts]
    table("Evaluation of 10 classes: drawing, FD and KID on pixels", "images", rows)


def by_classes(workdir: Path, small: bool) -> None:
    counts, each = ((1, 2), 10) if small else ((2, 5, 10), 100)
    rows = []
    for k in counts:
        chosen = ",".join(map(str, range(k)))
        fields = f"eval.classes={chosen}", f"eval.num_samples_per_class={each}"
        rows.append((k, evaluation(program(workdir, *EVALUATED, *fields))))
    table(f"Evaluation of {each} images a class", "classes", rows)


def by_parameters(workdir: Path, small: bool) -> None:
    widths = (32, 64) if small else (64, 128, 256, 512)
    found = [checkpoint(program(workdir / str(d), *CHECKPOINTED, f"net.dit.d={d}")) for d in widths]
    table("Saving a checkpoint (weights, average, two moments)", "parameters", [(n, save) for n, save, _ in found])
    table("Restoring and checking it", "parameters", [(n, restore) for n, _, restore in found])


def by_devices(workdir: Path, small: bool) -> None:
    rows = []
    for count in (1, 2) if small else (1, 2, 4, 8):
        command = [sys.executable, "-m", "benchmarks.scaling", "--only=this_many_devices"]
        done = subprocess.run(
            command, env=os.environ | {"JAX_NUM_CPU_DEVICES": str(count)}, capture_output=True, text=True, check=True
        )
        rows.append((count, float(done.stdout)))
    table("Train step of a small U-Net, batch 64, on emulated devices that share the cores", "devices", rows, linear=0)


def this_many_devices(workdir: Path, small: bool) -> None:
    print(train_step(program(workdir, *UNET, "data.size=16", "data.batch_size=64")))


def table(title: str, value: str, rows: Rows, linear: int = 1) -> None:
    """Print it, and how it grows: like ``value`` to the power ``linear``, or not."""
    print(f"\n**{title}**\n\n| {value} | seconds | time grows | {value} grow |\n| ---: | ---: | ---: | ---: |")
    before: tuple[float, float] | None = None
    for x, seconds in rows:
        ratios = f"x{seconds / before[1]:.2f} | x{x / before[0]:.2f}" if before else " | "
        print(f"| {x:,} | {seconds:.4g} | {ratios} |")
        before = x, seconds
    print(f"\n{growth(rows, linear)}", flush=True)


def growth(rows: Rows, linear: int = 1) -> str:
    """In words: the exponent of the line through the logarithms, and of its last two points."""
    x, y = np.log(np.array(rows, float)).T
    whole, last = np.polyfit(x, y, 1)[0], (y[-1] - y[-2]) / (x[-1] - x[-2])
    kind = "constant" if linear == 0 else "linear"
    if abs(whole - linear) <= LINEAR:
        said = kind
    elif whole < linear:
        said = f"below {kind}: a fixed part shows" if abs(last - linear) > LINEAR else f"{kind} at the end"
    else:
        said = f"above {kind}"
    return f"Exponent {whole:.2f}, of the last two rows {last:.2f}: {said}."


PARTS: dict[str, Callable[[Path, bool], None]] = {
    "batch": by_batch,
    "resolution": by_resolution,
    "depth": by_depth,
    "images": by_images,
    "classes": by_classes,
    "parameters": by_parameters,
    "devices": by_devices,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="the smallest sizes alone, to see that it runs")
    given = parser.parse_args(arguments)
    parts = PARTS | {"this_many_devices": this_many_devices}
    names = given.only.split(",")
    if unknown := [name for name in names if name not in parts]:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(PARTS)}")
    keep_heap()
    two_cpu_devices()
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for name in names:
            parts[name](Path(folder) / name, given.small)


if __name__ == "__main__":
    main()
