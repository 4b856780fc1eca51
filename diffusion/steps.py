"""The jitted steps: train and validate. Pure functions of arrays, one compiled path for one or many devices."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from diffusion import ema, keys, optim, reduction
from diffusion.batch_losses import Diffusion, Sums, batch_losses, context_share, fill, loss_sums
from diffusion.mesh import as_given, gathered, over_rows, replicated, scattered, sharded
from diffusion.nets.conditions import SET
from diffusion.parts import by_part
from diffusion.state import TrainState, run_key
from diffusion.types import Array, Batch, Frozen, Params

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
class Optimiser:
    """How it is trained.

    Attributes:
      tx: gradients -> direction at rate 1.
      rate: updates i32[] -> the schedule's rate f32[].
      averages: of the weights.
      ema_every: they move on every k-th update.
      micro_batches: the batch's rows are taken in so many equal parts, gradients added.
      strict: slices that a batch is reduced in, whatever the devices (see `reduction.strict`); 0 leaves it to XLA.
      max_loss: a batch's mean loss above it makes the step a bad one; 0 allows any that is finite.
    """

    tx: optax.GradientTransformation
    rate: Callable[[Array], Array]
    averages: ema.Averages
    ema_every: int
    micro_batches: int
    strict: int
    max_loss: float


# frozen weights, the step's key, valid rows i32[] of the global batch, what the density of t has learned
Given = tuple[Frozen, Array, Array, Any]
Rows = tuple[Batch, Array]  # rows of the global batch and their slots i32[b]


class PerRow(NamedTuple):
    """Of each row: whether its loss is not finite, its time, its loss before the density's weight."""

    bad: Array
    t: Array
    loss: Array


TrainStep = Callable[[TrainState, Frozen, Batch, Array], tuple[TrainState, Metrics]]


def make_train_step(
    diffusion: Diffusion, optimiser: Optimiser, mesh: Mesh, state: TrainState | None = None
) -> TrainStep:
    """(state, frozen, batch, words i32[n devices]) -> (state, Metrics); the state is donated.

    The loss is sum(valid * weight * l) / sum(valid) over the global batch, also over micro-batches. A bad step, whose
    loss or gradient is not finite or whose loss is above ``max_loss``, changes nothing but ``step`` and the counters
    of such steps.

    Args:
      state: one like those it will be given, of which the shapes decide where they lie; needed with ``mesh.fsdp``.
    """

    reduced, gradient = reduction_of(optimiser, mesh), gradient_of(mean_loss_of(diffusion), mesh)

    def train_step(state: TrainState, frozen: Frozen, batch: Batch, words: Array) -> tuple[TrainState, Metrics]:
        (grads, sums), per_row = reduced(gradient, *terms(state, frozen, batch))
        density = diffusion.density.update(state.density, per_row.t, per_row.loss, batch.valid)
        return _apply(state, grads, sums, per_row.bad, density, words, optimiser)

    rows, whole, held = over_rows(mesh), replicated(mesh), layout(mesh, state)
    return jax.jit(train_step, in_shardings=(held, whole, rows, rows), out_shardings=(held, whole), donate_argnums=0)


def mean_loss_of(diffusion: Diffusion) -> Callable[[Params, Given, Rows], tuple[Array, tuple[Sums, PerRow]]]:
    """(params, given, rows) -> (these rows' share of the batch's loss, (sums, per row))."""

    def mean_loss(params: Params, given: Given, rows: Rows) -> tuple[Array, tuple[Sums, PerRow]]:
        (frozen, key, n_valid, density), (part, slot) = given, rows
        losses, penalties = batch_losses(
            diffusion, params, frozen, part, key, slot, n_valid, drop=True, density=density
        )
        sums = loss_sums(diffusion.process, losses, part.valid, "train/loss", penalties)
        bad_rows = part.valid & ~jnp.isfinite(losses.loss)
        return sums["train/loss"][0] / n_valid, (sums, PerRow(bad_rows, losses.t, losses.plain))

    return mean_loss


def layout(mesh: Mesh, state: TrainState | None) -> Any:
    """Where a state's leaves lie: `sharded`, or all of them whole."""
    return replicated(mesh) if state is None else sharded(mesh, state)


def terms(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[tuple[Params, Given], Rows]:
    """What the gradient of the step at ``state.step`` is made of: what all rows share, and the rows."""
    key = jax.random.fold_in(keys.of_purpose(run_key(state), "train"), state.step)
    slot = jnp.arange(batch.valid.shape[0], dtype=jnp.int32)
    slot = jnp.where(batch.valid, slot, jnp.argmax(batch.valid))  # what fills the shape draws what the first row draws
    n_valid = jnp.maximum(jnp.sum(batch.valid), 1)  # where no row is valid nothing is divided by 0
    return (state.params, (frozen, key, n_valid, state.density)), (fill(batch), slot)


def gradient_of(mean_loss: Callable, mesh: Mesh) -> Callable:
    """(params, given, rows) -> (loss, (sums, per row)), as a term: its gradient is one more of the sums."""
    gradient = jax.grad(mean_loss, has_aux=True)

    def summed(shared: tuple[Params, Given], rows: Rows) -> tuple[tuple[Params, Any], Any]:
        params, given = shared
        grads, (sums, per_row) = gradient(gathered(mesh, params), given, rows)
        return (scattered(mesh, grads), sums), per_row

    return summed


def reduction_of(optimiser: Optimiser, mesh: Mesh) -> Callable:
    """How the rows' terms are added."""
    if optimiser.strict:
        return functools.partial(reduction.strict, slices=optimiser.strict, mesh=mesh)
    return functools.partial(reduction.in_parts, parts=optimiser.micro_batches)


def _apply(
    state: TrainState, grads: Params, sums: Sums, bad_rows: Array, density: Any, words: Array, o: Optimiser
) -> tuple[TrainState, Metrics]:
    total, count = sums["train/loss"]
    grad_norms = _norms("train/grad_norm", grads)
    suspect = Suspect(bad_rows, total / jnp.maximum(count, 1), grad_norms["train/grad_norm"])
    ok = _healthy(suspect, o.max_loss)
    direction, opt_state = o.tx.update(grads, state.opt_state, state.params)
    rate = o.rate(state.updates) * state.plateau.scale
    params = optim.apply(state.params, direction, rate)
    decays = ema.decays_at(o.averages, state.updates, o.ema_every)
    averages = {name: ema.update(state.ema[name], params, decay) for name, decay in decays.items()}
    updated = replace(state, params=params, ema=averages, opt_state=opt_state, density=density)
    moves = ok & (count > 0)  # a batch of which no record could be read is no update, nor a bad step
    kept = jax.tree.map(lambda new, old: jnp.where(moves, new, old), updated, state)
    bad = jnp.where(ok, 0, 1).astype(jnp.int32)
    state = replace(
        kept,
        step=state.step + 1,
        updates=state.updates + moves.astype(jnp.int32),
        bad_in_row=(state.bad_in_row + 1) * bad,
        bad_total=state.bad_total + bad,
    )
    last = {
        "train/lr": rate,
        **grad_norms,
        **_norms("train/param_norm", kept.params),
        "train/ema_decay": decays[o.averages.use],
        **{f"train/ema_decay/{name}": decay for name, decay in decays.items() if name != o.averages.use},
        "train/bad_steps": state.bad_total.astype(jnp.float32),
    }
    sums = jax.tree.map(lambda a: jnp.where(ok, a, jnp.zeros_like(a)), sums)
    return state, Metrics(sums, last, jnp.stack([jnp.max(words).astype(jnp.int32), state.bad_in_row]), suspect)


def _norms(name: str, tree: Params) -> dict[str, Array]:
    """{name: f32[]} of the whole tree, and {name/part: f32[]} of each part where there is more than one."""
    parts = by_part(tree)
    of_parts = {f"{name}/{part}": optax.tree.norm(leaves) for part, leaves in parts.items()} if len(parts) > 1 else {}
    return {name: optax.tree.norm(tree), **of_parts}


def _healthy(suspect: Suspect, max_loss: float) -> Array:
    ok = jnp.isfinite(suspect.loss) & jnp.isfinite(suspect.grad_norm)
    return ok & (suspect.loss <= max_loss) if max_loss else ok


def make_validation_step(diffusion: Diffusion, mesh: Mesh, examples: int) -> Callable[..., Sums]:
    """(params, frozen, batch, key) -> {name: (sum, count)} of the loss on fixed (example, t, noise).

    Where the net sees sets, ``context_share`` too: what share of its answer's square goes with them (`context_share`).

    Args:
      examples: how many the whole split holds, for stratified times.
    """

    def validation_step(params: Params, frozen: Frozen, batch: Batch, key: Array) -> Sums:
        slot, params = jnp.maximum(batch.id, 0), gathered(mesh, params)
        given = (diffusion, params, frozen, fill(batch), key, slot, jnp.asarray(examples))
        losses, penalties = batch_losses(*given, drop=False)
        sums = loss_sums(diffusion.process, losses, batch.valid, "loss", penalties)
        if SET in diffusion.net.conditions:
            moved, whole = (jnp.sum(jnp.where(batch.valid, a, 0.0)) for a in context_share(*given))
            sums["context_share"] = (moved, whole)
        return sums

    rows, whole = over_rows(mesh), replicated(mesh)
    return jax.jit(validation_step, in_shardings=(as_given(mesh), whole, rows, whole), out_shardings=whole)
