"""The loss on the split that validates, at fixed times and noise: what ranks checkpoints where nothing is evaluated."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffusion import feed, keys
from diffusion.announced import announced
from diffusion.frozen import codec_weights
from diffusion.program import Program
from diffusion.steps import make_validation_step
from diffusion.types import Params
from diffusion.window import divide


def validation(
    program: Program, weights: Mapping[str, Params], between: Callable[[], None] = lambda: None
) -> dict[str, float | None]:
    """The loss of each of ``weights`` (``val/loss``, ``val/loss_raw``) and its quarters of t on that split.

    The example, its t and its noise are fixed, and the same for all weights. Where some classes are never trained on,
    the loss is that of the classes that are, and ``val/loss_out`` that of the others.
    """
    return {
        name: value
        for ending, split in program.dataset.validation_splits.items()
        for name, value in _on_split(program, split, {n + ending: w for n, w in weights.items()}, between).items()
    }


def _on_split(
    program: Program, split: str, weights: Mapping[str, Params], between: Callable[[], None]
) -> dict[str, float | None]:
    key, frozen = keys.stream(program.seed, "validate"), codec_weights(program)
    step, total = _step(program, split), None
    for batch in feed.once(program, split, sets=True, images=False):
        between()
        found = {name: jax.device_get(step(params, frozen, batch, key)) for name, params in weights.items()}
        sums = {_name(name, part): pair for name, sums in found.items() for part, pair in sums.items()}
        sums = jax.tree.map(np.float64, sums)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return divide(total)


def _name(name: str, part: str) -> str:
    """val/loss_raw/q0 of (val/loss_raw, loss/q0), val/context_share_raw of (val/loss_raw, context_share)."""
    return name + part.removeprefix("loss") if part.startswith("loss") else name.replace("loss", part)


@functools.cache
def _step(program: Program, split: str) -> Any:
    step = make_validation_step(program.diffusion, program.mesh, program.dataset.sizes[split])
    return announced("the validation", step)
