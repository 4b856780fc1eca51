"""``--mode=bench``: how fast this program trains and samples here. Nothing is written to the workdir."""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import keys, state
from diffusion.environment import environment
from diffusion.footprint import abstract_batch, of_compiled
from diffusion.lr_schedules import plateau_state
from diffusion.memory import device_peak, host_peak, room
from diffusion.mesh import made, over_rows, padded_rows, put_replicated, put_rows, replicated
from diffusion.modes.describe import facts
from diffusion.modes.largest_batch import largest_batch
from diffusion.nets.conditions import SET
from diffusion.program import CLASS_CONDITION, Program
from diffusion.sample_step import Held, make_sample_step
from diffusion.state import TrainState
from diffusion.steps import make_train_step
from diffusion.types import Batch, Cond, ImageSet, Params

WARM_UP = 2  # calls before any is timed
STEPS = 20  # train steps timed
DRAWS = 3  # batches of samples timed
PRODUCTS = 10  # matrix products timed
BATCHES = 2  # different random batches
SHARE = 0.95  # of the memory for the largest batch: an allocator wants some for itself
SIDE = {"cpu": 1024}  # of the square matrices, per device
SIDE_OF_OTHERS = 8192


def bench(program: Program, as_json: bool = False) -> None:
    """Print ``measure``, as a table or as one JSON object."""
    found = measure(program)
    print(json.dumps(found, indent=2, allow_nan=False) if as_json else _table(found))


def measure(program: Program) -> dict[str, Any]:
    """Medians after a warm-up, on random images; plain JSON.

    Keys:
      peak_flops_per_second: of a matrix product over all devices, by type, at JAX's default precision.
      train, sample: compile_seconds (from the compilation cache where ``compilation_cache`` names one),
        seconds_per_step (of the train step; of one step of the sampler for the whole batch), steps_per_second,
        images_per_second, flops_per_second (by formula), mfu (their share of the peak of the net's type), batch_size.
      memory: the peak of the host's process and, after training, of the fullest device (null where the backend does
        not say), in bytes; what one device needs to train, as ``describe`` estimates it and as measured by the device,
        or by the compiler where the device does not say; the estimate over that.
      largest_batch: null without ``bench.largest_batch``, or `largest_batch.Found` and the room that one device has.
    """
    planned, machine = facts(program), environment()
    dtype = program.config["net"]["dtype"]
    peaks = {name: _matrix_peak(program, name) for name in dict.fromkeys(("float32", dtype))}
    training = _Training(program)
    train, params = training.run(planned["flops_per_step"])
    memory = _memory(program, training.bytes_per_device, planned["bytes_per_device"]["total_estimate"])
    sample = _sample(program, params, planned["flops_per_sample"], planned["sampler_steps"])
    for figures in (train, sample):
        figures["mfu"] = figures["flops_per_second"] / peaks[dtype]
    return {
        "name": program.name,
        "platform": machine["platform"],
        "device": machine["device"],
        "devices": program.mesh.size,
        "cpus": machine["cpus"],
        "packages": machine["packages"],
        "compilation_cache": jax.config.jax_compilation_cache_dir,
        "dtype": dtype,
        "parameters": planned["parameters"],
        "flops_per_image": planned["flops_per_image"],
        "flops_per_sample": planned["flops_per_sample"],
        "peak_flops_per_second": peaks,
        "train": train,
        "sample": sample,
        "memory": memory | {"host_peak_bytes": host_peak()},
        "largest_batch": training.largest_batch() if program.bench.largest_batch else None,
    }


class _Training:
    """The train step, compiled, and what it needs."""

    def __init__(self, program: Program):
        self._program, self._now = program, _fresh_state(program)
        self._frozen = put_replicated(program.mesh, program.diffusion.codec.frozen)
        self._batches = [_random_batch(program, seed) for seed in range(BATCHES)]
        self._go_on = put_rows(program.mesh, np.zeros(len(program.mesh.local_devices), np.int32))
        self._state = jax.eval_shape(lambda: self._now)
        self._step = make_train_step(program.diffusion, program.optimiser, program.mesh, self._now)
        self._compiled, self._seconds = _compile(self._step, self._now, self._frozen, self._batches[0], self._go_on)
        self.bytes_per_device = of_compiled(self._compiled)

    def run(self, flops: int) -> tuple[dict[str, Any], Params]:
        """Figures, and the EMA weights that are left."""
        o, images = self._program.optimiser, self._program.loading.batch_size

        def step(i: int) -> jax.Array:
            self._now, metrics = self._compiled(self._now, self._frozen, self._batches[i % BATCHES], self._go_on)
            return metrics.control

        return _figures(_median_seconds(step, STEPS), self._seconds, images, 1, flops), self._now.ema[o.averages.use]

    def largest_batch(self) -> dict[str, int | None]:
        p = self._program
        space = int(SHARE * room(p.mesh.local_devices))
        return largest_batch(self._needs, (p.rows, self.bytes_per_device), p.parts, space)._asdict() | {"room": space}

    def _needs(self, rows: int) -> int | None:
        """Bytes of the step of so many rows; None where the compiler finds no memory for it."""
        try:
            batch = abstract_batch(self._program, rows)
            return of_compiled(self._step.lower(self._state, self._frozen, batch, self._go_on).compile())
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None


def _memory(program: Program, compiled: int, estimate: int) -> dict[str, Any]:
    peak = device_peak(program.mesh.local_devices)
    measured = compiled if peak is None else peak
    return {
        "device_peak_bytes": peak,
        "train_estimate_bytes": estimate,
        "train_measured_bytes": measured,
        "measured_by": "compiler" if peak is None else "device",
        "estimate_over_measured": estimate / measured,
    }


def _sample(program: Program, params: Params, flops_per_sample: int, sampler_steps: int) -> dict[str, Any]:
    """Figures of drawing ``eval.batch_size`` images at a time, as evaluations do."""
    mesh, conditions, weaker = program.mesh, program.diffusion.net.conditions, program.sampling.guidance.weaker
    rows = padded_rows(program.eval.batch_size, mesh.size)
    local = rows // jax.process_count()
    label, index = put_rows(mesh, (_labels(program, local), np.arange(local, dtype=np.int32)))
    image_keys = jax.jit(keys.per_image, out_shardings=over_rows(mesh))(keys.stream(0, "sample"), label, index)
    cond = {name: value for name, value in put_rows(mesh, _conditions(program, local)).items() if name in conditions}
    held = Held(program.diffusion.codec.frozen, weaker and jax.jit(weaker.net.init)(jax.random.key(0)))
    given = (params, put_replicated(mesh, held), image_keys, cond, {})
    sample_step = make_sample_step(program.diffusion, program.sampling, mesh)
    compiled, seconds = _compile(sample_step, *given)
    whole = _median_seconds(lambda i: compiled(*given), DRAWS)
    return _figures(whole, seconds, rows, sampler_steps, flops_per_sample * rows)


def _matrix_peak(program: Program, dtype: str) -> float:
    """Operations per second of a [devices * n, n] by [n, n] product, rows over the mesh."""
    mesh = program.mesh
    n = SIDE.get(mesh.devices.flat[0].platform, SIDE_OF_OTHERS)
    rows, whole = over_rows(mesh), replicated(mesh)

    def random(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        a, b = jax.random.split(key)
        return jax.random.normal(a, (mesh.size * n, n), dtype), jax.random.normal(b, (n, n), dtype)

    a, b = jax.jit(random, out_shardings=(rows, whole))(jax.random.key(0))
    product = jax.jit(jnp.matmul, in_shardings=(rows, whole), out_shardings=rows)
    return 2 * mesh.size * n**3 / _median_seconds(lambda i: product(a, b), PRODUCTS)


def _compile(step: Callable, *given: Any) -> tuple[Callable, float]:
    """The compiled step, and the seconds to trace and compile it."""
    began = time.perf_counter()
    compiled = step.lower(*given).compile()
    return compiled, time.perf_counter() - began


def _median_seconds(call: Callable[[int], Any], times: int) -> float:
    """Between one result and the next, with a second call under way, as in the training loop."""
    ends, flight = [], call(0)
    for i in range(1, WARM_UP + times + 1):
        following = call(i)
        jax.block_until_ready(flight)
        ends.append(time.perf_counter())
        flight = following
    jax.block_until_ready(flight)
    return statistics.median(np.diff(ends[WARM_UP - 1 :]).tolist())


def _figures(seconds: float, compile_seconds: float, images: int, steps: int, flops: int) -> dict[str, Any]:
    return {
        "compile_seconds": compile_seconds,
        "seconds_per_step": seconds / steps,
        "steps_per_second": steps / seconds,
        "images_per_second": images / seconds,
        "flops_per_second": flops / seconds,
        "batch_size": images,
    }


def _fresh_state(program: Program) -> TrainState:
    def make() -> TrainState:
        params = program.diffusion.net.init(keys.stream(program.seed, "init"))
        o = program.optimiser
        return state.create(
            params, o.tx, plateau_state(), program.seed, o.averages.decays, program.diffusion.density.init()
        )

    return made(program.mesh, make)


def _random_batch(program: Program, seed: int) -> Batch:
    """Uniform pixels, or normal latents or encodings; every class in turn; rows beyond the batch size are not valid."""
    rows = program.rows // jax.process_count()
    id_ = np.arange(rows, dtype=np.int32) + rows * jax.process_index()
    random, x = np.random.default_rng([seed, jax.process_index()]), abstract_batch(program, rows).x
    of_pixels = x.dtype == np.uint8
    given = random.integers(0, 256, x.shape, np.uint8) if of_pixels else random.standard_normal(x.shape, np.float32)
    batch = Batch(given, _conditions(program, rows), id_, id_ < program.loading.batch_size)
    return put_rows(program.mesh, batch)


def _conditions(program: Program, rows: int) -> Cond:
    """Every class in turn, and grey sets where the net sees sets."""
    found = {CLASS_CONDITION: _labels(program, rows)}
    if program.loading.sets:
        shape = (rows, program.loading.sets.places)
        found[SET] = ImageSet(np.full((*shape, *program.transform.shape), 128, np.uint8), np.ones(shape, bool))
    return found


def _labels(program: Program, rows: int) -> np.ndarray:
    return (np.arange(rows) % max(len(program.dataset.classes), 1)).astype(np.int32)


def _table(m: dict[str, Any]) -> str:
    peaks = ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in m["peak_flops_per_second"].items())
    host, device = m["memory"]["host_peak_bytes"], m["memory"]["device_peak_bytes"]
    memory = f"host {host / 2**20:,.0f} MiB" + (f", device {device / 2**20:,.0f} MiB" if device else "")
    estimate, measured = m["memory"]["train_estimate_bytes"], m["memory"]["train_measured_bytes"]
    lines = [
        f"{m['name']}: {m['parameters']:,} parameters, {m['dtype']}, {m['devices']} x {m['device']}",
        f"matrix peak  {peaks}",
        f"peak memory  {memory}",
        f"training     {measured / 2**20:,.0f} MiB a device by the {m['memory']['measured_by']}, estimated "
        f"{estimate / 2**20:,.0f} MiB ({estimate / measured:.2f} of it)",
        f"{'':8}{'batch':>7}{'compile s':>11}{'steps/s':>10}{'images/s':>11}{'GFLOP/s':>11}{'MFU':>8}",
    ]
    for name in ("train", "sample"):
        f = m[name]
        lines.append(
            f"{name:8}{f['batch_size']:>7}{f['compile_seconds']:>11.1f}{f['steps_per_second']:>10.2f}"
            f"{f['images_per_second']:>11,.1f}{f['flops_per_second'] / 1e9:>11,.1f}{f['mfu']:>8.1%}"
        )
    if m["largest_batch"]:
        lines.append(_say_largest(**m["largest_batch"]))
    if m["compilation_cache"]:
        lines.append(f"compile times are those of the cache in {m['compilation_cache']} where it held the program")
    return "\n".join(lines)


def _say_largest(batch_size: int, bytes_per_device: int, too_large: int | None, compilations: int, room: int) -> str:
    more = f"{too_large:,} does not" if too_large else "no larger one was tried"
    needed = f"{bytes_per_device / 2**20:,.0f} of {room / 2**20:,.0f} MiB a device"
    return f"largest batch {batch_size:,} fits ({needed}), {more}; {compilations} compilations"
