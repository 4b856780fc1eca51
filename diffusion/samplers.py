"""Samplers: rules (init, step) along a grid of decreasing times, shaped like an optax transform.

A rule reads the (alpha, sigma) of the two times that it steps between, so strided grids are right by construction.
Every grid holds ``steps + 1`` times and ends at 0, the clean end, where alpha = 1 and sigma = 0.
"""

import jax
import jax.numpy as jnp

from diffusion.grids import GRIDS
from diffusion.multistep import MULTISTEP
from diffusion.onestep import ONE_STEP
from diffusion.process import Process
from diffusion.rule import Memory, Rule, fold, per_image_normal
from diffusion.types import Array, Denoiser

__all__ = ["GRIDS", "SAMPLERS", "Rule", "per_image_normal", "sample"]


def sample(
    process: Process,
    denoise: Denoiser,
    rule: Rule,
    ts: Array,
    keys: Array,
    shape: tuple[int, ...] | None = None,
    x: Array | None = None,
    trajectory: bool = False,
) -> Array | tuple[Array, Array]:
    """Draw b images in one compiled loop.

    Args:
      process: the process that ``denoise`` was trained on.
      denoise: (x_t, t) -> Prediction, condition and params closed over.
      rule: from ``SAMPLERS``.
      ts: f32[n + 1], decreasing, ending at the clean end (from ``GRIDS``).
      keys: one typed key per image, [b]; an image depends on its own key only.
      shape: (h, w, c) of one image; needed where ``x`` is not given.
      x: [b h w c], a state at ts[0] in place of the initial draw.
      trajectory: also return what the denoiser answers at the beginning of every step.

    Returns:
      x0, [b h w c]; with ``trajectory``, (x0, the x0 predicted at each of ts[:-1], [n b h w c]).

    Raises:
      ValueError: neither or both of shape and x, fewer than two times, or a rule that is not for this process.
    """
    if (shape is None) == (x is None):
        raise ValueError("give either shape=(h, w, c), for an initial draw, or x, a state at ts[0]")
    if ts.ndim != 1 or ts.shape[0] < 2:
        raise ValueError(f"ts has shape {ts.shape}; at least two times are needed")
    if x is None:
        x = process.schedule.alpha_sigma(ts[0])[1] * per_image_normal(keys, 0, shape)

    def body(carry: tuple[Array, Memory], at: tuple[Array, Array, Array]):
        x, memory = carry
        i, t, s = at
        seen = denoise(x, t).x0 if trajectory else None  # the rule's own call is the same one, and compiled once
        return rule.step(process, denoise, x, t, s, memory, fold(keys, i + 1)), seen

    steps = ts.shape[0] - 1
    start = x, rule.init(process, x, steps)
    (x, _), seen = jax.lax.scan(body, start, (jnp.arange(steps), ts[:-1], ts[1:]))
    return (x, seen) if trajectory else x


SAMPLERS = ONE_STEP | MULTISTEP
