"""What ``mesh.strict`` costs: a train step of the digits recipe with it and without, taken in turn in one process.

    python -m benchmarks.strict [--devices=2] [--slices=4,16] [--steps=30]

Prints one line: the median step in ms without, then with each number of slices, and the median of the ratios within a
round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from configs.digits import get_config
from diffusion.build import build
from diffusion.config import override
from diffusion.mesh import put_replicated, put_rows
from diffusion.modes.bench import _fresh_state, _random_batch
from diffusion.program import Program
from diffusion.steps import GO_ON, make_train_step

WARM_UP = 3  # rounds before any is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--slices", default="4,16")
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", given.devices)
    kinds = [0, *map(int, given.slices.split(","))]
    seconds = in_turn([timed_step(program(given.devices, slices)) for slices in kinds], given.steps)
    medians = [f"{1e3 * statistics.median(s):.1f} ms" for s in seconds]
    ratios = [f"x{statistics.median(np.divide(s, seconds[0]).tolist()):.2f}" for s in seconds]
    said = [f"{k} slices {m} ({r})" for k, m, r in zip(kinds[1:], medians[1:], ratios[1:], strict=True)]
    print(f"{given.devices} devices, digits, {given.steps} rounds: ordinary {medians[0]}, {', '.join(said)}")


def program(devices: int, slices: int) -> Program:
    return build(override(get_config().unlock(), [f"mesh.data={devices}", f"mesh.strict={slices}"]).lock())


def timed_step(p: Program) -> Callable[[], float]:
    """A function that takes one step and answers its seconds."""
    state = _fresh_state(p)
    train_step = make_train_step(p.diffusion, p.optimiser, p.mesh, state)
    frozen, batch = put_replicated(p.mesh, p.diffusion.codec.frozen), _random_batch(p, 0)
    words = put_rows(p.mesh, np.full(p.mesh.size, GO_ON, np.int32))

    def step() -> float:
        nonlocal state
        began = time.perf_counter()
        state, metrics = train_step(state, frozen, batch, words)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    return step


def in_turn(steps: list[Callable[[], float]], rounds: int) -> list[list[float]]:
    taken = [[step() for step in steps] for _ in range(WARM_UP + rounds)]
    return [list(one) for one in zip(*taken[WARM_UP:], strict=True)]


if __name__ == "__main__":
    main()
