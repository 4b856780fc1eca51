"""Which times training draws. A draw belongs to a slot of the global batch, so padding, devices and micro-batches
cannot change it; a density may learn from the losses, and then its state belongs to the training state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.process import Process
from diffusion.types import Array

State = Any  # a pytree of arrays, () of a density that learns nothing


class Density(NamedTuple):
    """A density of t.

    Attributes:
      init: () -> state.
      draw: (state, key, slot i32[b], n_valid i32[]) -> (t f32[b], weight f32[b]); the weight undoes that some times are
        drawn more often, so that the mean of weight * loss is that of equally likely times of the plain density.
      update: (state, t [b], loss [b], valid bool[b]) -> state, after a healthy step, from the whole batch in the order
        of its slots; the loss before ``weight``.
    """

    init: Callable[[], State]
    draw: Callable[[State, Array, Array, Array], tuple[Array, Array]]
    update: Callable[[State, Array, Array, Array], State]


def uniform(process: Process) -> Density:
    """t uniform in (t_min, t_max)."""
    low, high = process.schedule.t_min, process.schedule.t_max
    return _plain(lambda key, slot, n_valid: low + (high - low) * _per_slot(jax.random.uniform, key, slot))


def stratified(process: Process) -> Density:
    """One draw and equally spaced offsets over the valid rows of the global batch, uniform in (t_min, t_max)."""
    low, high = process.schedule.t_min, process.schedule.t_max

    def draw(key: Array, slot: Array, n_valid: Array) -> Array:
        offset = slot.astype(jnp.float32) / jnp.maximum(n_valid, 1).astype(jnp.float32)
        return low + (high - low) * jnp.mod(jax.random.uniform(key) + offset, 1.0)

    return _plain(draw)


def lognormal(process: Process, *, mean: float = -1.2, std: float = 1.2) -> Density:
    """ln(sigma / alpha) ~ N(mean, std^2) (Karras 2022, table 1), clipped to the schedule's times."""
    _positive("std", std)

    def draw(key: Array, slot: Array, n_valid: Array) -> Array:
        log_sigma = mean + std * _per_slot(jax.random.normal, key, slot)
        return _clip_t(process, process.schedule.t_of_logsnr(-2.0 * log_sigma))

    return _plain(draw)


def logit_normal(process: Process, *, mean: float = 0.0, std: float = 1.0) -> Density:
    """logit(t) ~ N(mean, std^2) with the noise at t = 1 (Esser 2024, section 3.1), clipped to the schedule's times."""
    _positive("std", std)
    if process.schedule.t_max > 1:
        raise ValueError("logit_normal draws t in (0, 1); the edm schedule has its times in sigma: take lognormal")
    return _plain(
        lambda key, slot, n_valid: _clip_t(
            process, jax.nn.sigmoid(mean + std * _per_slot(jax.random.normal, key, slot))
        )
    )


def importance(process: Process, *, buckets: int = 100, history: int = 10, floor: float = 0.001) -> Density:
    """Buckets of t by the size of their last losses: p ~ sqrt(mean of loss^2) (Nichol 2021, section 3.3).

    Uniform until each of the equal buckets of (t_min, t_max) has seen ``history`` losses. ``floor`` is the share of
    draws that stay uniform, so that no bucket is forgotten and no weight unbounded. Validation draws uniformly.

    Raises:
      ValueError: buckets or history < 1, or a floor outside (0, 1].
    """
    for name, value in (("buckets", buckets), ("history", history)):
        if value < 1:
            raise ValueError(f"{name} is {value}; at least 1 is needed")
    if not 0 < floor <= 1:
        raise ValueError(f"floor is {floor}; it must lie in (0, 1]")
    low, high = process.schedule.t_min, process.schedule.t_max

    def init() -> State:
        return {"losses": jnp.zeros((buckets, history)), "seen": jnp.zeros(buckets, jnp.int32)}

    def shares(state: State) -> Array:
        size = jnp.sqrt(jnp.square(state["losses"]).mean(axis=1))
        warm = jnp.all(state["seen"] >= history) & (size.sum() > 0)
        size = jnp.where(warm, size, 1.0)
        return (1.0 - floor) * size / size.sum() + floor / buckets

    def draw(state: State, key: Array, slot: Array, n_valid: Array) -> tuple[Array, Array]:
        share = shares(state)
        # what of the row's place on the line of all shares is left inside its bucket is its place there
        place = _per_slot(jax.random.uniform, key, slot)
        ends = jnp.cumsum(share)
        bucket = jnp.minimum(jnp.searchsorted(ends, place, side="right"), buckets - 1)
        inside = jnp.clip(1.0 - (ends[bucket] - place) / share[bucket], 0.0, 1.0)
        t = low + (high - low) * (bucket + inside) / buckets
        return t, 1.0 / (buckets * share[bucket])

    def update(state: State, t: Array, loss: Array, valid: Array) -> State:
        bucket = jnp.clip(((t - low) / (high - low) * buckets).astype(jnp.int32), 0, buckets - 1)
        fell = (bucket[:, None] == jnp.arange(buckets)[None]) & valid[:, None]  # [b buckets]
        count = fell.sum(axis=0, dtype=jnp.int32)
        before = jnp.cumsum(fell, axis=0, dtype=jnp.int32)[jnp.arange(len(t)), bucket] - 1
        stays = valid & (before >= count[bucket] - history)  # of more than fit, the last
        column = (state["seen"][bucket] + before) % history
        losses = state["losses"].at[jnp.where(stays, bucket, buckets), column].set(loss, mode="drop")
        # counted up to two histories: more would only overflow
        seen = state["seen"] + count
        return {"losses": losses, "seen": jnp.where(seen >= 2 * history, history + seen % history, seen)}

    return Density(init, draw, update)


def _plain(draw: Callable[[Array, Array, Array], Array]) -> Density:
    """A density that learns nothing, from (key, slot, n_valid) -> t."""

    def weighted(state: State, key: Array, slot: Array, n_valid: Array) -> tuple[Array, Array]:
        return draw(key, slot, n_valid), jnp.ones(slot.shape)

    return Density(lambda: (), weighted, lambda state, t, loss, valid: state)


def _per_slot(draw: Callable[[Array], Array], key: Array, slot: Array) -> Array:
    return jax.vmap(lambda s: draw(jax.random.fold_in(key, s)))(slot)


def _clip_t(process: Process, t: Array) -> Array:
    return jnp.clip(t, process.schedule.t_min, process.schedule.t_max)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; it must be positive")
