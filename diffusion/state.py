"""Everything that training changes, as arrays."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion import ema
from diffusion.leaves import by_path, host
from diffusion.types import Array, Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Arrays only: the functions stay outside.

    Attributes:
      step: i32[], batches consumed; always advances.
      updates: i32[], successful optimiser steps; drives the rate and the EMA.
      bad_in_row: i32[], non-finite steps since the last good one.
      bad_total: i32[], non-finite steps of the whole run.
      key: u32[2], raw data of the run's key (a typed key does not survive a damaged checkpoint as such).
      params: the weights.
      ema: name -> float32 average of the weights.
      opt_state: the optimiser's.
      plateau: the state of the rate's scale (`lr_schedules.Plateau`).
      density: what the density of t has learned, () where it learns nothing.
    """

    step: Array
    updates: Array
    bad_in_row: Array
    bad_total: Array
    key: Array
    params: Params
    ema: dict[str, Params]
    opt_state: Any
    plateau: Any
    density: Any = ()


def create(
    params: Params,
    tx: optax.GradientTransformation,
    plateau: Any,
    seed: int,
    averages: Iterable[str] = ("ema",),
    density: Any = (),
) -> TrainState:
    """The state before the first batch; ``averages`` are names. Runs inside jit and under `jax.eval_shape` as well."""
    counters = {name: jnp.zeros((), jnp.int32) for name in ("step", "updates", "bad_in_row", "bad_total")}
    key = jax.random.key_data(jax.random.key(seed))
    held = {name: ema.init(params) for name in averages}
    learned = dict(params=params, ema=held, opt_state=tx.init(params), plateau=plateau, density=density)
    return TrainState(**counters, key=key, **learned)


def run_key(state: TrainState) -> Array:
    """The run's key, typed; every draw folds a purpose, a step and a slot into it."""
    return jax.random.wrap_key_data(state.key)


def count_parameters(params: Params) -> int:
    """Numbers in all leaves; works on shapes as well as on arrays."""
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(params))


def fingerprint(state: Any) -> str:
    """sha256 in hex of every leaf's path, dtype, shape and bytes: equal when bit for bit the same."""
    digest = hashlib.sha256()
    for path, leaf in sorted(by_path(state).items()):
        value = host(leaf)
        digest.update(f"{path} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
