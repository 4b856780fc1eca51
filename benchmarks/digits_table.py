"""FD of digits against wall time: what target, weighting, density, backbone, sampler and number of steps bring.

    python -m benchmarks.digits_table [--steps=1000] [--workdir=runs/table] ["--only=NAME;…"] [--times]

Trains each recipe of ``RECIPES`` with the budget of configs/digits.py and evaluates its EMA weights with the samplers
of ``FEW``, those of ``WHOLE`` with every one of ``SAMPLERS``. What is trained or evaluated already is not done again.
``--times`` takes the train steps and the drawing of a batch in turn, and prints medians: alone on the machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.strict import in_turn, timed_step
from configs.digits import get_config
from diffusion import evaluate, runs, train
from diffusion.build import build
from diffusion.config import override
from diffusion.generate import generate
from diffusion.mesh import two_cpu_devices
from diffusion.plan import indices
from diffusion.program import Program

COSINE = ["process.schedule=cosine", "process.target=v"]
FLOW = ["process.schedule=flow", "process.target=velocity"]
EDM = ["process.schedule=edm", "process.target=edm", "objective.weighting=edm", "objective.density=lognormal"]
DIT = ["net.name=dit", "net.dit.d=128", "net.dit.depth=4", "net.dit.heads=4"]
PLAIN = [  # unless a recipe says more
    *("objective.weighting=unit", "objective.density=uniform"),
    *("sampler.name=ddim", "sampler.steps=25", "sampler.grid=uniform"),
]
RECIPES = {
    "edm": [*EDM, "sampler.grid=karras"],
    "edm, DiT": [*EDM, "sampler.grid=karras", *DIT],
    "cosine, v": COSINE,
    "cosine, v, min-SNR": [*COSINE, "objective.weighting=min_snr"],
    "cosine, v, stratified": [*COSINE, "objective.density=stratified"],
    "cosine, v, importance": [*COSINE, "objective.density=importance"],
    "cosine, v, uncertainty": [*COSINE, "objective.weighting=uncertainty"],
    "cosine, eps": ["process.schedule=cosine", "process.target=eps"],
    "cosine, x0, min-SNR": ["process.schedule=cosine", "process.target=x0", "objective.weighting=min_snr"],
    "cosine, learned variance": ["process.schedule=cosine", "process.target=learned_variance"],
    "flow, velocity": FLOW,
    "flow, velocity, logit-normal": [*FLOW, "objective.density=logit_normal"],
    "flow, x0, velocity loss": ["process.schedule=flow", "process.target=x0", "objective.weighting=velocity"],
    "decoupled": [
        "process.schedule=decoupled",
        "process.target=decoupled",
        "objective.weighting=bounded_exp",
        "sampler.grid=quadratic",
    ],
    "cosine, v, DiT": [*COSINE, *DIT],
    "flow, velocity, DiT": [*FLOW, *DIT],
}
SAMPLERS = {
    "ddim 25": ["sampler.name=ddim", "sampler.steps=25"],
    "dpmpp_2m 10": ["sampler.name=dpmpp_2m", "sampler.steps=10"],
    "ddim 10": ["sampler.name=ddim", "sampler.steps=10"],
    "ddpm 25": ["sampler.name=ddpm", "sampler.steps=25"],
    "euler 25": ["sampler.name=euler", "sampler.steps=25"],
    "heun 13": ["sampler.name=heun", "sampler.steps=13"],
    "dpmpp_2m 25": ["sampler.name=dpmpp_2m", "sampler.steps=25"],
    "dpmpp_2m_sde 25": ["sampler.name=dpmpp_2m_sde", "sampler.steps=25"],
    "unipc 10": ["sampler.name=unipc", "sampler.steps=10"],
}
FEW, WHOLE = ("ddim 25", "dpmpp_2m 10"), ("edm", "cosine, v")
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("runs/table"))
    parser.add_argument("--only", default=";".join(RECIPES), help="recipes by name, separated by semicolons")
    parser.add_argument("--per-class", type=int, default=100, help="images; at least 20")
    parser.add_argument("--times", action="store_true", help="only measure times")
    given = parser.parse_args()
    two_cpu_devices()
    shared = [f"seed={given.seed}", f"train.steps={given.steps}", f"eval.num_samples_per_class={given.per_class}"]
    recipes = {name: (given.workdir / slug(name), [*PLAIN, *RECIPES[name], *shared]) for name in given.only.split(";")}
    if given.times:
        times(recipes)
        return
    lines = []
    for name, (workdir, fields) in recipes.items():
        quiet = ["eval.metrics=()", "sample.every=0", "val.every=0", "checkpoint.best_metric=train/loss"]
        train.run(program(workdir, [*fields, *quiet, "log.tensorboard=False"]))
        for sampler in SAMPLERS if name in WHOLE else FEW:
            found = evaluated(workdir, fields, sampler)
            lines.append([name, sampler, *(f"{found[figure]:.3f}" for figure in FIGURES.values())])
            print(lines[-1], flush=True)
    print(table(["recipe", "sampler", *FIGURES], lines))


FIGURES = {"FD pooled": "eval/fd", "FD mean of classes": "eval/fd/mean", "read as asked": "eval/accuracy"}


def evaluated(workdir: Path, fields: list[str], sampler: str) -> dict[str, float]:
    kept = workdir / f"table_{slug(sampler)}.json"
    if not kept.exists():
        p = program(workdir, [*fields, *SAMPLERS[sampler]], training=False)
        params, _, step = runs.ema_weights(p, "latest")
        kept.write_text(json.dumps(evaluate.run(p, params, step)))
    return json.loads(kept.read_text())


def times(recipes: dict[str, tuple[Path, list[str]]]) -> None:
    """Milliseconds of a train step by recipe, and of drawing a batch by sampler with the first recipe's weights."""
    steps = in_turn([timed_step(program(workdir, fields)) for workdir, fields in recipes.values()], ROUNDS)
    shown = [[name, f"{1e3 * statistics.median(taken):.0f}"] for name, taken in zip(recipes, steps, strict=True)]
    print(table(["recipe", "ms a train step"], shown))
    workdir, fields = next(iter(recipes.values()))
    drawing = [drawn(program(workdir, [*fields, *SAMPLERS[name]], training=False)) for name in SAMPLERS]
    taken = in_turn(drawing, ROUNDS)
    rates = [[name, f"{statistics.median(seconds):.1f}"] for name, seconds in zip(SAMPLERS, taken, strict=True)]
    print(table(["sampler", "seconds for 1,000 images"], rates))


def drawn(p: Program) -> Callable[[], float]:
    """A function that draws one batch and answers the seconds of a thousand images."""
    params, _, _ = runs.ema_weights(p, "latest")
    label = np.arange(p.eval.batch_size) % len(p.dataset.classes)

    def draw() -> float:
        began = time.perf_counter()
        jax.block_until_ready(list(generate(p, params, label, indices(label), seed=0, purpose="evaluate")))
        return (time.perf_counter() - began) * 1000 / len(label)

    return draw


def program(workdir: Path, fields: list[str], *, training: bool = True) -> Program:
    return build(override(get_config().unlock(), fields).lock(), workdir, training=training)


def slug(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "-")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
