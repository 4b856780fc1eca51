"""What training on encodings saves: a train step that encodes its images and one that reads them encoded, in turn.

    python -m benchmarks.encodings [--widths=128,512] [--steps=30]

The digits at 32x32, ``codec.name=random_conv`` (factor 4, 16 channels, 8 couplings) and the net of configs/digits.py.
Prints a line for each width: FLOPs of the encoder as a share of the net's in a step, the median steps in ms, reading
included, the median of the ratios within a round, and the seconds in which the whole set was encoded.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.strict import in_turn
from configs.digits import get_config
from diffusion import encode, feed
from diffusion.build import build
from diffusion.config import override
from diffusion.flops import flops
from diffusion.frozen import codec_weights
from diffusion.mesh import put_rows, two_cpu_devices
from diffusion.modes.bench import _fresh_state
from diffusion.modes.describe import facts
from diffusion.program import Program
from diffusion.steps import GO_ON, make_train_step

CODEC = [
    "codec.name=random_conv",
    "codec.random_conv.factor=4",
    "codec.random_conv.channels=16",
    "codec.random_conv.depth=8",
]
OF_LATENTS = ["data.size=32", "sampler.threshold=none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--widths", default="128,512")
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    two_cpu_devices()
    for width in map(int, given.widths.split(",")):
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as until:
            images, kept = program(width, ""), program(width, f"{folder}/encodings")
            began = time.perf_counter()
            encode.encode(kept)
            seconds = time.perf_counter() - began
            taken = in_turn([timed_step(p, until) for p in (images, kept)], given.steps)
            slow, fast = (1e3 * statistics.median(s) for s in taken)
            ratio = statistics.median(np.divide(*taken).tolist())
            print(
                f"width {width}: encoder {share(kept):.0%} of the net's FLOPs; encoding in the step {slow:.1f} ms, "
                f"encoded before {fast:.1f} ms, x{ratio:.2f}; the set was encoded in {seconds:.1f} s"
            )


def program(width: int, encodings: str) -> Program:
    said = [*CODEC, *OF_LATENTS, f"codec.random_conv.width={width}", f"data.encodings={encodings}"]
    return build(override(get_config().unlock(), said).lock(), Path("unused"))


def share(p: Program) -> float:
    """FLOPs to encode an image, of those to train the net on it encoded."""
    image = jax.ShapeDtypeStruct((1, *p.transform.shape), jnp.uint8)
    return flops(p.diffusion.codec.encode, p.diffusion.codec.frozen, image) / facts(p)["flops_per_image"]


def timed_step(p: Program, until: contextlib.ExitStack) -> Callable[[], float]:
    """A function that takes one step, reading its batch included, and answers its seconds."""
    state = _fresh_state(p)
    train_step = make_train_step(p.diffusion, p.optimiser, p.mesh, state)
    words = put_rows(p.mesh, np.full(p.mesh.size, GO_ON, np.int32))
    batches = until.enter_context(feed.from_step(p, feed.loader(p, "train", training=True), 0))

    def step() -> float:
        nonlocal state
        began = time.perf_counter()
        state, metrics = train_step(state, codec_weights(p), next(batches), words)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - began

    return step


if __name__ == "__main__":
    main()
