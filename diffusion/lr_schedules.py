"""Learning rates: updates -> rate, and the scale that a plateau takes off them.

``updates`` counts successful optimiser steps from 0, so a rate is a pure function of one integer and a
resumed run's rate is the fresh run's. A plateau is the exception: its scale is state (see `Plateau`).
Warm-ups are linear and never start at zero: after u updates of W, lr * (u + 1) / (W + 1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import ReduceLROnPlateauState, reduce_on_plateau

Array = jax.Array
Value = Callable[[Array], Array]


@dataclass(frozen=True)
class Plateau:
    """Reduce the rate when a loss stops improving: one observation per validation.

    The optimiser's rate is ``schedule(updates) * state.scale``.

    Attributes:
      every: steps between two observations where there is no validation.
      init: () -> state, scale 1.
      observe: (state, value f32[]) -> state, jitted. ``value`` is a loss: lower is better and it is not
        negative. A value that is not finite changes nothing; the caller says so.
    """

    every: int
    init: Callable[[], ReduceLROnPlateauState]
    observe: Callable[[ReduceLROnPlateauState, Array], ReduceLROnPlateauState]


@dataclass(frozen=True)
class Schedule:
    """A learning rate, called as ``schedule(updates i32[]) -> f32[]``.

    Attributes:
      value: updates -> rate.
      depends_on_steps: whether another length of the run changes a rate that both runs reach.
      plateau: the rule of the scale; None where the rate has no memory.
      in_steps: the rate changes seldom and by jumps, each worth a line to the user.
    """

    value: Value
    depends_on_steps: bool = False
    plateau: Plateau | None = None
    in_steps: bool = False

    def __call__(self, updates: Array) -> Array:
        return jnp.asarray(self.value(jnp.asarray(updates, jnp.int32)), jnp.float32)


def plateau_state() -> ReduceLROnPlateauState:
    """The state before any observation; a run without a plateau carries it unchanged."""
    return reduce_on_plateau().init(jnp.zeros((), jnp.float32))


def depends_on_steps(name: str) -> bool:
    """Whether the length of the run shapes this schedule, so that a resume may not change it."""
    return LR_SCHEDULES[name](1.0, 1_000).depends_on_steps


def constant(lr: float, steps: int) -> Schedule:
    """The same rate at every update."""
    _check(lr, steps)
    return Schedule(optax.constant_schedule(lr))


def warmup(lr: float, steps: int, *, warmup_steps: int = 500) -> Schedule:
    """Linear warm-up over ``warmup_steps`` updates, then constant."""
    _check(lr, steps, warmup_steps=warmup_steps)
    return Schedule(_warmup(lr, warmup_steps))


def cosine(lr: float, steps: int, *, end_scale: float = 0.0) -> Schedule:
    """Half a cosine from lr to end_scale * lr at the end of the run. Loshchilov 2017, eq. 5."""
    _check(lr, steps, end_scale=end_scale)
    return Schedule(optax.cosine_decay_schedule(lr, steps, alpha=end_scale), depends_on_steps=True)


def warmup_cosine(lr: float, steps: int, *, warmup_steps: int = 500, end_scale: float = 0.0) -> Schedule:
    """Linear warm-up, then half a cosine over the rest of the run."""
    _check(lr, steps, warmup_steps=warmup_steps, end_scale=end_scale)
    if warmup_steps >= steps:
        raise ValueError(f"warmup_steps: {warmup_steps} leaves nothing of {steps} steps to decay over")
    start = lr / (warmup_steps + 1)
    value = optax.warmup_cosine_decay_schedule(start, lr, warmup_steps, steps, end_value=end_scale * lr)
    return Schedule(value, depends_on_steps=True)


def cosine_restarts(
    lr: float,
    steps: int,
    *,
    period: int = 10_000,
    growth: int = 1,
    peak_decay: float = 1.0,
    end_scale: float = 0.0,
) -> Schedule:
    """Cosine cycles that start again at full rate. Loshchilov 2017 (SGDR), with T_0 and T_mult.

    Args:
      period: updates of the first cycle.
      growth: each cycle is this many times as long as the one before.
      peak_decay: each cycle's peak is this many times the one before, in (0, 1].
      end_scale: the end of a cycle over its peak, in [0, 1].
    """
    _check(lr, steps, period=period, growth=growth, peak_decay=peak_decay, end_scale=end_scale)
    shape = optax.cosine_decay_schedule(lr, 1, alpha=end_scale)

    def value(updates: Array) -> Array:
        cycle, share = _cycle(updates, period, growth)
        return shape(share) * peak_decay**cycle

    return Schedule(value)


def linear(lr: float, steps: int, *, warmup_steps: int = 0, end_scale: float = 0.0) -> Schedule:
    """Linear warm-up, then a line down to end_scale * lr at the end of the run."""
    _check(lr, steps, warmup_steps=warmup_steps, end_scale=end_scale)
    if warmup_steps >= steps:
        raise ValueError(f"warmup_steps: {warmup_steps} leaves nothing of {steps} steps to decay over")
    decay = optax.linear_schedule(lr, end_scale * lr, steps - warmup_steps)
    value = optax.join_schedules([_warmup(lr, warmup_steps), decay], [warmup_steps])
    return Schedule(value, depends_on_steps=True)


def step(lr: float, steps: int, *, interval: int = 10_000, factor: float = 0.5) -> Schedule:
    """The rate times ``factor`` after every ``interval`` updates."""
    _check(lr, steps, interval=interval, factor=factor)
    return Schedule(optax.exponential_decay(lr, interval, factor, staircase=True), in_steps=True)


def exponential(
    lr: float, steps: int, *, interval: int = 10_000, factor: float = 0.5, end_scale: float = 0.0
) -> Schedule:
    """The rate times ``factor`` per ``interval`` updates, smoothly, never below end_scale * lr."""
    _check(lr, steps, interval=interval, factor=factor, end_scale=end_scale)
    return Schedule(optax.exponential_decay(lr, interval, factor, end_value=end_scale * lr))


def one_cycle(
    lr: float, steps: int, *, warmup_share: float = 0.3, start_divisor: float = 25.0, end_divisor: float = 1e4
) -> Schedule:
    """Cosine up from lr / start_divisor over ``warmup_share`` of the run, then down. Smith 2017.

    The last rate is lr / (start_divisor * end_divisor).
    """
    _check(lr, steps, warmup_share=warmup_share, start_divisor=start_divisor, end_divisor=end_divisor)
    value = optax.cosine_onecycle_schedule(steps, lr, warmup_share, start_divisor, end_divisor)
    return Schedule(value, depends_on_steps=True)


def inverse_sqrt(lr: float, steps: int, *, warmup_steps: int = 500) -> Schedule:
    """Linear warm-up, then 1 / sqrt(updates). Vaswani 2017, eq. 3, with lr as the peak."""
    _check(lr, steps, warmup_steps=warmup_steps)

    def value(updates: Array) -> Array:
        u = (updates.astype(jnp.float32) + 1.0) / (warmup_steps + 1.0)
        return lr * jnp.minimum(u, jax.lax.rsqrt(u))

    return Schedule(value)


def plateau(
    lr: float,
    steps: int,
    *,
    warmup_steps: int = 0,
    factor: float = 0.5,
    patience: int = 5,
    rtol: float = 1e-3,
    cooldown: int = 0,
    min_scale: float = 0.0,
    every: int = 1000,
) -> Schedule:
    """Constant after a warm-up, times ``factor`` after ``patience`` observations without improvement.

    Args:
      patience: observations (validations), not updates.
      rtol: an improvement is a value below (1 - rtol) * best.
      cooldown: observations after a reduction that count for nothing.
      min_scale: the scale never falls below this share of the rate.
      every: steps between two observations of the mean training loss, where there is no validation.
    """
    _check(
        lr,
        steps,
        warmup_steps=warmup_steps,
        patience=patience,
        cooldown=cooldown,
        min_scale=min_scale,
        every=every,
    )
    if not 0 < factor < 1:
        raise ValueError(f"factor: {factor} is not in (0, 1)")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol: {rtol} is not in (0, 1)")
    tx = reduce_on_plateau(factor, patience, rtol, 0.0, cooldown, accumulation_size=1, min_scale=min_scale)

    def observe(state: ReduceLROnPlateauState, value: Array) -> ReduceLROnPlateauState:
        value = jnp.asarray(value, jnp.float32)
        seen = tx.update(jnp.zeros((), jnp.float32), state, value=value)[1]
        return jax.tree.map(lambda new, old: jnp.where(jnp.isfinite(value), new, old), seen, state)

    return Schedule(_warmup(lr, warmup_steps), plateau=Plateau(every, plateau_state, jax.jit(observe)), in_steps=True)


def _warmup(lr: float, warmup_steps: int) -> Value:
    if warmup_steps == 0:
        return optax.constant_schedule(lr)
    return optax.warmup_constant_schedule(lr / (warmup_steps + 1), lr, warmup_steps)


def _cycle(updates: Array, period: int, growth: int) -> tuple[Array, Array]:
    """The number of the cycle and the share of it that is over, in [0, 1)."""
    if growth == 1:
        return updates // period, (updates % period) / period
    starts, length = [0], period
    while starts[-1] + length < 2**31:
        starts.append(starts[-1] + length)
        length *= growth
    lengths = np.asarray([period * growth**n for n in range(len(starts))], np.float32)
    cycle = jnp.sum(updates >= np.asarray(starts, np.int32)) - 1
    return cycle, (updates - jnp.asarray(starts, jnp.int32)[cycle]) / jnp.asarray(lengths)[cycle]


_RANGES: dict[str, tuple[float, float, bool]] = {  # lowest, highest, whether the lowest itself is allowed
    "warmup_steps": (0, math.inf, True),
    "end_scale": (0, 1, True),
    "period": (1, math.inf, True),
    "growth": (1, math.inf, True),
    "peak_decay": (0, 1, False),
    "interval": (1, math.inf, True),
    "factor": (0, 1, False),
    "warmup_share": (0, 1, True),
    "start_divisor": (1, math.inf, True),
    "end_divisor": (1, math.inf, True),
    "patience": (1, math.inf, True),
    "cooldown": (0, math.inf, True),
    "min_scale": (0, 1, True),
    "every": (1, math.inf, True),
}


def _check(lr: float, steps: int, **keywords: float) -> None:
    """Raises ValueError that begins with the name of the number outside its range."""
    if not (math.isfinite(lr) and lr >= 0):
        raise ValueError(f"lr: {lr} is not a finite number >= 0")
    if steps < 1:
        raise ValueError(f"steps: {steps} is not at least 1")
    for name, value in keywords.items():
        low, high, closed = _RANGES[name]
        inside = math.isfinite(value) and (low <= value if closed else low < value) and value <= high
        if not inside:
            top = f", {high:g}]" if math.isfinite(high) else ", inf)"
            raise ValueError(f"{name}: {value} is not in {'[' if closed else '('}{low:g}{top}")


LR_SCHEDULES = {
    "constant": constant,
    "warmup": warmup,
    "cosine": cosine,
    "warmup_cosine": warmup_cosine,
    "cosine_restarts": cosine_restarts,
    "linear": linear,
    "step": step,
    "exponential": exponential,
    "one_cycle": one_cycle,
    "inverse_sqrt": inverse_sqrt,
    "plateau": plateau,
}
