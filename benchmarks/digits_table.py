"""FD of digits against wall time: what target, weighting, density, backbone, sampler and number of steps bring.

    python -m benchmarks.digits_table [--steps=1000] [--workdir=runs/table] "--only=NAME;…" [--per-class=100]

Trains each recipe of ``RECIPES`` with the seed and budget of configs/digits.py, then evaluates its EMA weights with
each sampler of ``SAMPLERS``; a recipe whose run is finished is not trained again. Two Markdown tables come at the end.
Seconds are those of drawing the images of one evaluation a second time, so nothing is compiled in them.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from configs.digits import get_config
from diffusion import evaluate, runs, train
from diffusion.build import build
from diffusion.config import override
from diffusion.generate import images, indices
from diffusion.mesh import two_cpu_devices
from diffusion.modes.how_long import steps_per_second
from diffusion.program import Program

FLOW = ["process.schedule=flow", "process.target=velocity"]
EDM = ["process.schedule=edm", "process.target=edm", "objective.weighting=edm", "objective.density=lognormal"]
DIT = ["net.name=dit", "net.dit.patch=2", "net.dit.d=128", "net.dit.depth=4", "net.dit.heads=4"]
RECIPES = {
    "cosine, v": [],
    "cosine, v, min-SNR": ["objective.weighting=min_snr"],
    "cosine, v, stratified": ["objective.density=stratified"],
    "cosine, eps": ["process.target=eps"],
    "cosine, x0, min-SNR": ["process.target=x0", "objective.weighting=min_snr"],
    "flow, velocity": FLOW,
    "flow, velocity, logit-normal": [*FLOW, "objective.density=logit_normal"],
    "flow, x0, velocity loss": ["process.schedule=flow", "process.target=x0", "objective.weighting=velocity"],
    "edm": EDM,
    "cosine, v, DiT": DIT,
    "flow, velocity, DiT": [*FLOW, *DIT],
}
SAMPLERS = {
    "ddim 10": ["sampler.name=ddim", "sampler.steps=10"],
    "ddim 25": ["sampler.name=ddim", "sampler.steps=25"],
    "ddpm 25": ["sampler.name=ddpm", "sampler.steps=25"],
    "euler 25": ["sampler.name=euler", "sampler.steps=25"],
    "heun 13": ["sampler.name=heun", "sampler.steps=13"],
    "dpmpp_2m 10": ["sampler.name=dpmpp_2m", "sampler.steps=10"],
    "dpmpp_2m 25": ["sampler.name=dpmpp_2m", "sampler.steps=25"],
    "unipc 10": ["sampler.name=unipc", "sampler.steps=10"],
}
KARRAS = ["sampler.grid=karras"]  # for a schedule whose times are in sigma


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--workdir", type=Path, default=Path("runs/table"))
    parser.add_argument("--only", default=";".join(RECIPES), help="recipes by name, separated by semicolons")
    parser.add_argument("--per-class", type=int, default=100, help="images; at least 20")
    given = parser.parse_args()
    two_cpu_devices()
    names = given.only.split(";")
    rows = {name: compared(name, given.workdir, given.steps, given.per_class) for name in names}
    print(table(["recipe", *SAMPLERS, "steps/s"], [[name, *fds, rate] for name, (fds, _, rate) in rows.items()]))
    print(table(["seconds", *SAMPLERS], [[name, *seconds] for name, (_, seconds, _) in rows.items()]))


def compared(name: str, folder: Path, steps: int, per_class: int) -> tuple[list[str], list[str], str]:
    """(FD with every sampler, seconds with every sampler, training steps a second) of one recipe."""
    workdir = folder / name.replace(", ", "_").replace(" ", "-")
    own = [*RECIPES[name], f"train.steps={steps}", f"eval.num_samples_per_class={per_class}"]
    own += KARRAS if "process.schedule=edm" in own else []
    quiet = ["eval.metrics=()", "sample.every=0", "val.every=0", "checkpoint.best_metric=train/loss"]
    train.run(program(workdir, [*own, *quiet, "log.tensorboard=False"]))
    found = []
    for sampler, fields in SAMPLERS.items():
        found.append(evaluated(program(workdir, [*own, *fields], training=False)))
        print(f"{name}; {sampler}: FD {found[-1][0]:.3f}, {found[-1][1]:.1f} s", flush=True)
    return (
        [f"{fd:.3f}" for fd, _ in found],
        [f"{took:.1f}" for _, took in found],
        f"{steps_per_second(workdir / 'metrics.jsonl'):.1f}",
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def program(workdir: Path, fields: list[str], *, training: bool = True) -> Program:
    return build(override(get_config().unlock(), fields).lock(), workdir, training=training)


def evaluated(p: Program) -> tuple[float, float]:
    """(mean of the classes' FD, seconds of drawing its images once all is compiled)."""
    params, _, step = runs.ema_weights(p, "latest")
    values = evaluate.run(p, params, step)
    label = np.repeat(np.arange(len(p.dataset.classes)), p.eval.num_samples_per_class)
    began = time.perf_counter()
    images(p, params, label, indices(label), seed=p.eval.seed, purpose="evaluate")
    return values["eval/fd/mean"], time.perf_counter() - began


if __name__ == "__main__":
    main()
