"""This program's side of the contest: ``python -m benchmarks.contest_jax TASK``, started by ``benchmarks.contest``.

The real train step and the real sample step of a program that is built from a config, with random images.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import contest_shapes as shapes
from benchmarks.contest_worker import serve, task_of
from benchmarks.strict import timed_step
from configs.default import get_config
from diffusion import keys
from diffusion.build import build, halves_on_cpu
from diffusion.compile_cache import keep_compiled
from diffusion.config import override
from diffusion.heap import keep_heap
from diffusion.memory import device_peak, host_peak
from diffusion.mesh import over_rows, put_replicated, put_rows, two_cpu_devices
from diffusion.modes.describe import facts
from diffusion.program import CLASS_CONDITION, Program
from diffusion.sample_step import Held, make_sample_step


def main() -> None:
    task = task_of(sys.argv[1])
    keep_heap()
    keep_compiled("auto")
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(task, Path(folder))
        if halves_on_cpu(config):
            two_cpu_devices()
        program = build(config, Path(folder) / "run")
        found = facts(program)
        about = {name: found[name] for name in ("parameters", "flops_per_image", "flops_per_sample")}
        about |= {"version": f"JAX {jax.__version__}", "device": jax.devices()[0].device_kind}
        serve(
            {
                "train": lambda: timed_step(program),
                "sample": lambda: sampler(program),
                "peak": lambda: peak(program, task),
                "memory": lambda: lambda: device_peak(jax.local_devices()) or host_peak(),
            },
            about,
        )


def config_of(task: dict, folder: Path) -> ConfigDict:
    """Of a row of ``SHAPES``, with as many random images as a batch has, which are written into the folder."""
    shape = shapes.SHAPES[task["shape"]]
    fields = {
        "data.batch_size": task["batch"],
        "data.root": _images(folder, shape["image"], task["batch"]),
        "process.schedule": "cosine",
        "process.target": "v",
        "net.dtype": task["dtype"],
        "optim.name": "adamw",
        "optim.lr": shapes.LEARNING_RATE,
        "optim.global_norm.max_norm": shapes.CLIP_NORM,
        "optim.adamw.weight_decay": shapes.WEIGHT_DECAY,
        "ema.constant.decay": shapes.EMA_DECAY,
        "eval.batch_size": task["batch"],
        "sampler.name": "ddim",
        "sampler.steps": task["sampler_steps"],
        "sampler.guidance_scale": shapes.GUIDANCE_SCALE,
        **shape["ours"],
        **(task.get("fields") or {}),
    }
    latent = {"data.source": "latents", "codec.name": "latents"} if shape["image"][-1] == 4 else {"data.source": "npz"}
    texts = [f"{name}={_text(value)}" for name, value in (latent | fields).items()]
    return override(get_config().unlock(), texts).lock()


def _text(value: object) -> str:
    return ",".join(map(str, value)) + "," * (len(value) == 1) if isinstance(value, tuple) else str(value)


def _images(folder: Path, image: tuple[int, int, int], batch: int) -> Path:
    """Random images, or latents where there are four channels, with labels in turn."""
    random, number = np.random.default_rng(0), max(batch, 4 * shapes.CLASSES)
    labels = np.arange(number, dtype=np.int32) % shapes.CLASSES
    if image[-1] == 4:
        np.save(folder / "latents.npy", random.standard_normal((number, *image)).astype(np.float32))
        np.save(folder / "labels.npy", labels)
        return folder
    path = folder / "images.npz"
    np.savez(path, images=random.integers(0, 256, (number, *image), np.uint8), labels=labels)
    return path


def sampler(program: Program) -> Callable[[], float]:
    """A function that draws one batch and answers its seconds."""
    rows = program.eval.batch_size
    label = np.arange(rows, dtype=np.int32) % shapes.CLASSES
    labels, index = put_rows(program.mesh, (label, np.arange(rows, dtype=np.int32)))
    image_keys = jax.jit(keys.per_image, out_shardings=over_rows(program.mesh))(keys.stream(0, "sample"), labels, index)
    params, held = put_replicated(
        program.mesh, (program.diffusion.net.init(jax.random.key(0)), Held(program.diffusion.codec.frozen))
    )
    sample_step = make_sample_step(program.diffusion, program.sampling, program.mesh)

    def draw() -> float:
        began = time.perf_counter()
        np.asarray(sample_step(params, held, image_keys, {CLASS_CONDITION: labels}, {}))
        return time.perf_counter() - began

    return draw


def peak(program: Program, task: dict) -> Callable[[], float]:
    """A function that takes a matrix product of ``task["side"]``, rows over all devices, and answers its seconds."""
    side, mesh = task["side"], program.mesh
    a, b = (jax.random.normal(jax.random.key(i), (side, side), task["dtype"]) for i in range(2))
    a, b = jax.device_put(a, over_rows(mesh)), put_replicated(mesh, b)
    matmul = jax.jit(jnp.matmul)

    def product() -> float:
        began = time.perf_counter()
        jax.block_until_ready(matmul(a, b))
        return time.perf_counter() - began

    return product


if __name__ == "__main__":
    main()
