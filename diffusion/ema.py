"""Exponential moving averages of the weights, always float32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Decay = Callable[[Array], Array]

WIDEST = 12**-0.5  # relative width of the uniform profile


def init(params: Any) -> Any:
    """float32 copies of the params, in buffers of their own so that both can be donated."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)


def update(ema: Any, params: Any, decay: Array) -> Any:
    """decay * ema + (1 - decay) * params, written so that decay = 1 changes no bit."""
    return jax.tree.map(lambda e, p: e + (1.0 - decay) * (p.astype(jnp.float32) - e), ema, params)


def decay_at(decay: Array, updates: Array, every: int) -> Array:
    """The decay of one update when the average moves on every k-th update only.

    Args:
      decay: f32[], the decay per update.
      updates: i32[], successful updates, this one included.
      every: k >= 1.

    Returns:
      f32[]: decay**k where k divides ``updates``, else 1.
    """
    if every < 1:
        raise ValueError(f"every: {every} is not at least 1")
    return jnp.where(updates % every == 0, decay**every, 1.0)


@dataclass(frozen=True)
class Averages:
    """Which averages of the weights a run keeps.

    Attributes:
      decays: name -> (n -> decay), n updates came before this one.
      sigma_rels: name -> relative width of the averages that snapshots are taken of; only `power` has them.
      use: the one that is validated, sampled, evaluated and ranked.
    """

    decays: Mapping[str, Decay]
    sigma_rels: Mapping[str, float]
    use: str


def one(decay: Decay) -> Averages:
    """A single average, called ``ema``."""
    return Averages({"ema": decay}, {}, "ema")


def decays_at(averages: Averages, updates: Array, every: int) -> dict[str, Array]:
    """The decay of each average at the next update, f32[]; ``updates`` i32[] were successful so far."""
    return {name: decay_at(decay(updates), updates + 1, every) for name, decay in averages.decays.items()}


def constant(*, decay: float = 0.9999, warmup: bool = True) -> Averages:
    """n -> min(decay, (1 + n) / (10 + n)) with warm-up, else n -> decay.

    The warm-up is the one of TensorFlow's ExponentialMovingAverage (``num_updates``).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay: {decay} is not in [0, 1)")

    def at(n: Array) -> Array:
        n = jnp.asarray(n, jnp.float32)
        return jnp.minimum(decay, (1.0 + n) / (10.0 + n)) if warmup else jnp.full((), decay, jnp.float32)

    return one(at)


def halflife(*, updates: float = 1000.0, ramp: float = 0.05) -> Averages:
    """n -> 0.5 ** (1 / min(updates, ramp * n)): what is ``updates`` old weighs half (Karras 2022, their code).

    A half-life given in images is that many divided by the batch size. The ramp keeps it below a share of the training
    so far; 0 is none.
    """
    if not updates > 0:
        raise ValueError(f"updates: {updates} is not positive")
    if not ramp >= 0:
        raise ValueError(f"ramp: {ramp} is negative")

    def at(n: Array) -> Array:
        n = jnp.asarray(n, jnp.float32)
        half = jnp.minimum(updates, n * ramp) if ramp else jnp.full((), updates, jnp.float32)
        return jnp.exp2(-1.0 / jnp.maximum(half, 1e-8))

    return one(at)


def power(*, sigma_rels: tuple[float, ...] = (0.05, 0.10)) -> Averages:
    """Power-function averages of several widths at once: (1 - 1/n) ** (gamma + 1), n with this update.

    Karras 2024 ("Analyzing and Improving the Training Dynamics of Diffusion Models"), section 3.1.
    ``sigma_rels`` are the deviations of the profiles over time, as shares of the training so far. The first is used
    unless ``ema.use`` says otherwise. Their snapshots (``ema.snapshot_every``) give any other width afterwards.
    """
    if not sigma_rels:
        raise ValueError("sigma_rels: names no width")
    widths = {width_name(s): s for s in sigma_rels}
    if len(widths) < len(sigma_rels):
        raise ValueError(f"sigma_rels: {sigma_rels} holds a width twice")
    return Averages({name: _power(exponent(s, "sigma_rels")) for name, s in widths.items()}, widths, next(iter(widths)))


def _power(gamma: float) -> Decay:
    def at(n: Array) -> Array:
        n = jnp.asarray(n, jnp.float32) + 1.0
        return jnp.exp((gamma + 1.0) * jnp.log1p(-1.0 / n))  # 1 - 1/n itself has too few digits at large n

    return at


def exponent(sigma_rel: float, field: str = "sigma_rel") -> float:
    """gamma of the power function whose profile has that relative width (Karras 2024, appendix C).

    Raises:
      ValueError: not in (0, 12 ** -0.5): the widest profile is uniform.
    """
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(f"{field}: {sigma_rel} is not in (0, {WIDEST:.4f}); wider than uniform is no average")
    inverse = float(sigma_rel) ** -2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def width_name(sigma_rel: float) -> str:
    """``0.1 -> 0.10``, ``0.075 -> 0.075``."""
    return max(f"{sigma_rel:.2f}", f"{sigma_rel:g}", key=len)


EMAS = {"constant": constant, "halflife": halflife, "power": power}
