"""The jitted steps: train, validate, sample. Pure functions of arrays, one compiled path for one or many devices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from diffusion import ema, keys, optim
from diffusion.guidance import cfg
from diffusion.mesh import over_rows, replicated
from diffusion.nets.codec import Codec
from diffusion.nets.model import Net
from diffusion.objective import Density, Losses, Weighting, denoising_losses
from diffusion.process import Process
from diffusion.samplers import Rule, per_image_normal, sample
from diffusion.state import TrainState, run_key
from diffusion.types import Array, Batch, Cond, Denoiser, Frozen, Params

Sums = Mapping[str, tuple[Array, Array]]  # name -> (sum, count)

# Words of one process to all, from the weakest to the strongest: a process that was asked to stop, or whose background
# save failed, says so through the step, so that all of them act at the same step.
GO_ON, SAVE_AGAIN, STOP = range(3)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Suspect:
    """What to look at after a bad step; nobody else reads it. All as it was before the step was skipped.

    Attributes:
      rows: bool[b], in the order of the global batch: valid rows whose own loss is not finite.
      loss: f32[], the batch's mean.
      grad_norm: f32[].
    """

    rows: Array
    loss: Array
    grad_norm: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metrics:
    """What a train step reports.

    Attributes:
      sums: (sum, count) by name, to be added over steps and divided once, on the host.
      last: values by name of which the newest one counts.
      control: i32[2], (the strongest word of any device, bad steps in a row): all that the loop waits for.
      suspect: for the host to read where the step was bad.
    """

    sums: Sums
    last: Mapping[str, Array]
    control: Array
    suspect: Suspect


@dataclass(frozen=True)
class Diffusion:
    """What is trained, as pure parts.

    Attributes:
      cond_drop: chance that one condition of an example becomes its null.
      cond_drop_all: chance that all of an example's conditions become null together.
    """

    net: Net
    process: Process
    density: Density
    weighting: Weighting
    codec: Codec
    cond_drop: float
    cond_drop_all: float


@dataclass(frozen=True)
class Optimiser:
    """How it is trained.

    Attributes:
      tx: gradients -> direction at rate 1.
      rate: updates i32[] -> the schedule's rate f32[].
      decay: updates i32[] -> the EMA's decay f32[].
      ema_every: the EMA moves on every k-th update.
      micro_batches: the batch's rows are taken in so many equal parts, gradients added.
      max_loss: a batch's mean loss above it makes the step a bad one; 0 allows any that is finite.
    """

    tx: optax.GradientTransformation
    rate: Callable[[Array], Array]
    decay: Callable[[Array], Array]
    ema_every: int
    micro_batches: int
    max_loss: float


TrainStep = Callable[[TrainState, Frozen, Batch, Array], tuple[TrainState, Metrics]]


def make_train_step(diffusion: Diffusion, optimiser: Optimiser, mesh: Mesh) -> TrainStep:
    """(state, frozen, batch, words i32[n devices]) -> (state, Metrics); the state is donated.

    The loss is sum(valid * weight * l) / sum(valid) over the global batch, also over micro-batches. A bad step, whose
    loss or gradient is not finite or whose loss is above ``max_loss``, changes nothing but ``step`` and the counters
    of such steps.
    """

    def train_step(state: TrainState, frozen: Frozen, batch: Batch, words: Array) -> tuple[TrainState, Metrics]:
        batch, n_valid = _fill(batch), jnp.sum(batch.valid)
        key = jax.random.fold_in(keys.of_purpose(run_key(state), "train"), state.step)

        def mean_loss(params: Params, part: Batch, slot: Array) -> tuple[Array, tuple[Sums, Array]]:
            losses = _losses(diffusion, params, frozen, part, key, slot, n_valid, drop=True)
            sums = _loss_sums(diffusion.process, losses, part.valid, "train/loss")
            bad_rows = part.valid & ~jnp.isfinite(losses.loss)
            return sums["train/loss"][0] / jnp.maximum(n_valid, 1), (sums, bad_rows)

        grads, sums, bad_rows = _accumulate(mean_loss, state.params, batch, optimiser.micro_batches)
        return _apply(state, grads, sums, bad_rows, words, optimiser)

    rows, whole = over_rows(mesh), replicated(mesh)
    return jax.jit(train_step, in_shardings=(whole, whole, rows, rows), out_shardings=whole, donate_argnums=0)


def _accumulate(mean_loss: Callable, params: Params, batch: Batch, parts: int) -> tuple[Params, Sums, Array]:
    """Gradients and sums added over interleaved micro-batches, so that each device keeps its own rows.

    The third is bool[b], the rows whose loss is not finite, in the batch's order.
    """
    slot = jnp.arange(batch.valid.shape[0], dtype=jnp.int32)
    gradient = jax.grad(mean_loss, has_aux=True)
    if parts == 1:
        grads, (sums, bad_rows) = gradient(params, batch, slot)
        return grads, sums, bad_rows

    def micro(a: Array) -> Array:
        return a.reshape(a.shape[0] // parts, parts, *a.shape[1:]).swapaxes(0, 1)

    def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, Array]:
        grads, (sums, bad_rows) = gradient(params, *part)
        return jax.tree.map(jnp.add, total, (grads, sums)), bad_rows

    grads, (sums, _) = jax.eval_shape(gradient, params, *jax.tree.map(lambda a: micro(a)[0], (batch, slot)))
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (grads, sums))
    (grads, sums), bad_rows = jax.lax.scan(add, zero, jax.tree.map(micro, (batch, slot)))
    return grads, sums, bad_rows.swapaxes(0, 1).reshape(-1)


def _apply(
    state: TrainState, grads: Params, sums: Sums, bad_rows: Array, words: Array, o: Optimiser
) -> tuple[TrainState, Metrics]:
    total, count = sums["train/loss"]
    suspect = Suspect(bad_rows, total / jnp.maximum(count, 1), optax.tree.norm(grads))
    ok = _healthy(suspect, o.max_loss)
    # zeros where not ok: the discarded branch must not put NaN into anything that is selected later
    grads = jax.tree.map(lambda g: jnp.where(ok, g, jnp.zeros_like(g)), grads)
    direction, opt_state = o.tx.update(grads, state.opt_state, state.params)
    rate = o.rate(state.updates) * state.plateau.scale
    params = optim.apply(state.params, direction, rate)
    decay = ema.decay_at(o.decay(state.updates), state.updates + 1, o.ema_every)
    updated = replace(state, params=params, ema=ema.update(state.ema, params, decay), opt_state=opt_state)
    kept = jax.tree.map(lambda new, old: jnp.where(ok, new, old), updated, state)
    bad = jnp.where(ok, 0, 1).astype(jnp.int32)
    state = replace(
        kept,
        step=state.step + 1,
        updates=state.updates + 1 - bad,
        bad_in_row=(state.bad_in_row + 1) * bad,
        bad_total=state.bad_total + bad,
    )
    last = {
        "train/lr": rate,
        "train/grad_norm": suspect.grad_norm,
        "train/param_norm": optax.tree.norm(kept.params),
        "train/ema_decay": decay,
        "train/bad_steps": state.bad_total.astype(jnp.float32),
    }
    sums = jax.tree.map(lambda a: jnp.where(ok, a, jnp.zeros_like(a)), sums)
    return state, Metrics(sums, last, jnp.stack([jnp.max(words).astype(jnp.int32), state.bad_in_row]), suspect)


def _healthy(suspect: Suspect, max_loss: float) -> Array:
    ok = jnp.isfinite(suspect.loss) & jnp.isfinite(suspect.grad_norm)
    return ok & (suspect.loss <= max_loss) if max_loss else ok


def make_validation_step(diffusion: Diffusion, mesh: Mesh, examples: int) -> Callable[..., Sums]:
    """(params, frozen, batch, key) -> {name: (sum, count)} of the loss on fixed (example, t, noise).

    Args:
      examples: how many the whole split holds, for stratified times.
    """

    def validation_step(params: Params, frozen: Frozen, batch: Batch, key: Array) -> Sums:
        slot = jnp.maximum(batch.id, 0)
        losses = _losses(diffusion, params, frozen, _fill(batch), key, slot, jnp.asarray(examples), drop=False)
        return _loss_sums(diffusion.process, losses, batch.valid, "val/loss")

    rows, whole = over_rows(mesh), replicated(mesh)
    return jax.jit(validation_step, in_shardings=(whole, whole, rows, whole), out_shardings=whole)


def make_sample_step(
    diffusion: Diffusion,
    rule: Rule,
    times: Callable[[], Array],
    guidance_scale: float,
    threshold: Callable[[Denoiser], Denoiser],
    mesh: Mesh,
) -> Callable[[Params, Frozen, Array, Cond], Array]:
    """(params, frozen, keys [b], cond) -> u8[b h w c], replicated; one key per image."""
    net, process, codec = diffusion.net, diffusion.process, diffusion.codec

    def denoiser(params: Params, cond: Cond, b: int, null: bool) -> Denoiser:
        nulls = {name: jnp.full(b, null) for name in net.conditions}
        return process.denoiser(lambda x, c_noise: net.apply(params, x, c_noise, cond, nulls))

    def sample_step(params: Params, frozen: Frozen, image_keys: Array, cond: Cond) -> Array:
        b = image_keys.shape[0]
        denoise = denoiser(params, cond, b, null=guidance_scale == 0 and bool(net.conditions))
        if net.conditions and guidance_scale not in (0, 1):
            denoise = cfg(denoise, denoiser(params, cond, b, null=True), guidance_scale)
        return codec.decode(frozen, sample(process, threshold(denoise), rule, times(), image_keys, shape=net.shape))

    rows, whole = over_rows(mesh), replicated(mesh)
    return jax.jit(sample_step, in_shardings=(whole, whole, rows, rows), out_shardings=whole)


def _losses(
    d: Diffusion,
    params: Params,
    frozen: Frozen,
    batch: Batch,
    key: Array,
    slot: Array,
    n_valid: Array,
    drop: bool,
) -> Losses:
    t_key, eps_key, null_key, net_key = jax.random.split(key, 4)
    x0 = d.codec.encode(frozen, batch.x)
    eps = per_image_normal(keys.per_slot(eps_key, slot), 0, x0.shape[1:])
    t = d.density(t_key, slot, n_valid)
    null = _nulls(d, keys.per_slot(null_key, slot)) if drop else _no_nulls(d, slot)
    net_keys = keys.per_slot(net_key, slot) if drop else None
    return denoising_losses(
        d.process,
        d.weighting,
        lambda x, c_noise: d.net.apply(params, x, c_noise, batch.cond, null, net_keys),
        x0,
        eps,
        t,
    )


def _nulls(d: Diffusion, row_keys: Array) -> dict[str, Array]:
    """Which conditions of which rows are dropped, bool[b] by name."""

    def draws(key: Array) -> Array:
        return jax.random.uniform(key, (1 + len(d.net.conditions),))

    u = jax.vmap(draws)(row_keys)
    together = u[:, 0] < d.cond_drop_all
    return {name: together | (u[:, 1 + i] < d.cond_drop) for i, name in enumerate(d.net.conditions)}


def _no_nulls(d: Diffusion, slot: Array) -> dict[str, Array]:
    return {name: jnp.zeros(slot.shape, bool) for name in d.net.conditions}


def _loss_sums(process: Process, losses: Losses, valid: Array, name: str) -> Sums:
    """(sum, count) over valid rows, of all and by quarter of t."""
    loss = jnp.where(valid, losses.loss, 0.0)
    quarter = jnp.minimum((process.schedule.progress(losses.t) * 4).astype(jnp.int32), 3)
    sums = {name: (jnp.sum(loss), jnp.sum(valid).astype(jnp.float32))}
    for q in range(4):
        inside = valid & (quarter == q)
        sums[f"{name}/q{q}"] = (jnp.sum(jnp.where(inside, loss, 0.0)), jnp.sum(inside).astype(jnp.float32))
    return sums


def _fill(batch: Batch) -> Batch:
    """Rows that only fill the shape become a valid row, so that nothing in them, not even NaN, can matter."""
    first = jnp.argmax(batch.valid)

    def fill(a: Array) -> Array:
        valid = batch.valid.reshape(batch.valid.shape + (1,) * (a.ndim - 1))
        return jnp.where(valid, a, a[first][None])

    return replace(batch, x=fill(batch.x), cond={name: fill(a) for name, a in batch.cond.items()})
