"""What ``--mode`` chooses: each row takes a Program, and what its name's presence below says.

A row imports its mode when it is called: a command loads what its own mode needs, and no other's.
"""

from diffusion.program import Program
from diffusion.signals import StopRequest


def train(program: Program, stop: StopRequest) -> None:
    from diffusion.train import run

    run(program, stop)


def evaluate(program: Program, stop: StopRequest) -> None:
    from diffusion.modes.of_checkpoint import evaluate

    evaluate(program, stop)


def sample(program: Program, stop: StopRequest) -> None:
    from diffusion.modes.of_checkpoint import sample

    sample(program, stop)


def posthoc(program: Program) -> None:
    from diffusion.modes.posthoc import posthoc

    posthoc(program)


def usefulness(program: Program, stop: StopRequest) -> None:
    from diffusion.modes.usefulness import usefulness

    usefulness(program, stop)


def describe(program: Program, *, as_json: bool = False) -> None:
    from diffusion.modes.describe import describe

    describe(program, as_json)


def bench(program: Program, *, as_json: bool = False) -> None:
    from diffusion.modes.bench import bench

    bench(program, as_json)


def encode(program: Program, stop: StopRequest) -> None:
    from diffusion.modes.encode import encode

    encode(program, stop)


MODES = {
    "train": train,
    "eval": evaluate,
    "sample": sample,
    "encode": encode,
    "posthoc": posthoc,
    "usefulness": usefulness,
    "describe": describe,
    "bench": bench,
}
OF_A_RUN = ("eval", "sample", "posthoc", "usefulness")  # these take the workdir's own config as their base
AS_JSON = ("describe", "bench")  # these take as_json
STOPPABLE = ("train", "eval", "sample", "encode", "usefulness")  # these take the StopRequest, and stop in good order
