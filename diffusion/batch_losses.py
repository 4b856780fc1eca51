"""From a batch to the losses of its rows. A draw belongs to a row's slot in the global batch, and padding is inert."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from diffusion import keys
from diffusion.augment import Augment, none
from diffusion.densities import Density
from diffusion.nets.codec import Codec
from diffusion.nets.conditions import AUGMENT, SET
from diffusion.nets.model import Net
from diffusion.objective import Losses, Weighting, denoising_losses
from diffusion.process import Process
from diffusion.samplers import per_image_normal
from diffusion.target import expand
from diffusion.types import Array, Batch, Cond, Frozen, ImageSet, Params

AUGMENT_FOLD, CONTEXT_FOLD, CODEC_FOLD = 1_000, 1_001, 1_002  # folded into a step's key, away from its parts by `split`

Sums = Mapping[str, tuple[Array, Array]]  # name -> (sum, count)


@dataclass(frozen=True)
class Diffusion:
    """What is trained, as pure parts.

    Attributes:
      cond_drop: chance that one condition of an example becomes its null.
      cond_drop_all: chance that all of an example's conditions become null together.
      augment: of the training images.
      class_weights: factor on the training loss of each class, mean 1 over what is drawn; () is 1 for all.
    """

    net: Net
    process: Process
    density: Density
    weighting: Weighting
    codec: Codec
    cond_drop: float
    cond_drop_all: float
    augment: Augment = none()
    class_weights: tuple[float, ...] = ()


def batch_losses(
    d: Diffusion,
    params: Params,
    frozen: Frozen,
    batch: Batch,
    key: Array,
    slot: Array,
    n_valid: Array,
    drop: bool,
    density: Any = None,
) -> tuple[Losses, Mapping[str, Array]]:
    """The loss of each row, drawn for its slot of the global batch.

    Args:
      batch: any rows of the global batch, after ``fill``.
      key: of the step.
      slot: i32[b], the rows' places in the global batch.
      n_valid: i32[], valid rows of the global batch.
      drop: whether conditions and activations are dropped, images augmented, latents drawn from the distribution that
        a codec answers, and classes weighted, as in training.
      density: what the density of t has learned; its state at the start where it is not given.

    Returns:
      The losses with what the net's conditions add to them, and those penalties by name, f32[b] each.
    """
    t_key, eps_key, null_key, net_key = jax.random.split(key, 4)
    codec_keys = keys.per_slot(jax.random.fold_in(key, CODEC_FOLD), slot) if drop else None
    x0 = d.codec.net_units(frozen, batch.x, codec_keys)
    eps_keys = keys.per_slot(eps_key, slot)
    eps = per_image_normal(eps_keys, 0, x0.shape[1:])
    third = d.process.target.third
    t, density_weight = d.density.draw(d.density.init() if density is None else density, t_key, slot, n_valid)
    null = _nulls(d, keys.per_slot(null_key, slot)) if drop else _no_nulls(d, slot)
    net_keys = keys.per_slot(net_key, slot) if drop else None
    cond = in_net_units(d.codec, frozen, batch.cond, keys.per_slot(jax.random.fold_in(key, CONTEXT_FOLD), slot), drop)
    x0, cond = _augmented(d, x0, cond, key, slot) if drop else (x0, cond)
    cond, penalties = d.net.encode(params, _without_dropped(cond, null), d.process.c_noise(t))
    losses = denoising_losses(
        d.process,
        d.weighting,
        lambda x, c_noise: d.net.apply(params, x, c_noise, cond, null, net_keys),
        x0,
        eps,
        t,
        third=third.draw(per_image_normal(eps_keys, 1, x0.shape[1:])) if third else None,
        density_weight=density_weight,
        params=params,
    )
    loss = _class_weighted(d, losses.loss, batch) if drop and d.class_weights else losses.loss
    return losses._replace(loss=sum(penalties.values(), loss)), penalties


def _class_weighted(d: Diffusion, loss: Array, batch: Batch) -> Array:
    """The whole loss of a row times its class's weight, as if it were drawn so often; 1 where there is no class.

    A learned log-variance is thus that of the weighted loss, which it evens out over times. ``Losses.plain`` stays as
    it is: a density learns which times are hard from losses that compare between runs, and a rare class's few heavy
    rows would make it learn from noise.
    """
    label = batch.cond["label"]
    return loss * jnp.where(label < 0, 1.0, jnp.asarray(d.class_weights, jnp.float32)[label])


def in_net_units(codec: Codec, frozen: Frozen, cond: Cond, keys: Array, random: bool) -> Cond:
    """Sets of images as the codec makes them, as it does with the images that are learned.

    Args:
      keys: [b] typed, of each row's set.
      random: whether a context that is a distribution is drawn from it.
    """

    def encoded(value: Any) -> Any:
        if not isinstance(value, ImageSet):
            return value
        b, n, *shape = value.images.shape
        images = codec.net_units(frozen, value.images.reshape(b * n, *shape))
        return ImageSet(images.reshape(b, n, *images.shape[1:]), value.valid, keys if random else None)

    return {name: encoded(value) for name, value in cond.items()}


def _without_dropped(cond: Cond, null: Mapping[str, Array]) -> Cond:
    """A set that is dropped has no member, so that its encoding costs its row no penalty."""
    return {
        name: replace(value, valid=value.valid & ~null[name][:, None])
        if isinstance(value, ImageSet) and name in null
        else value
        for name, value in cond.items()
    }


def _augmented(d: Diffusion, x0: Array, cond: Cond, key: Array, slot: Array) -> tuple[Array, Cond]:
    if not d.augment.numbers:
        return x0, cond
    x0, label = d.augment.apply(keys.per_slot(jax.random.fold_in(key, AUGMENT_FOLD), slot), x0)
    return x0, {**cond, AUGMENT: label}


def _nulls(d: Diffusion, row_keys: Array) -> dict[str, Array]:
    """Which conditions of which rows are dropped, bool[b] by name."""

    def draws(key: Array) -> Array:
        return jax.random.uniform(key, (1 + len(d.net.conditions),))

    u = jax.vmap(draws)(row_keys)
    together = u[:, 0] < d.cond_drop_all
    return {name: together | (u[:, 1 + i] < d.cond_drop) for i, name in enumerate(d.net.conditions)}


def _no_nulls(d: Diffusion, slot: Array) -> dict[str, Array]:
    return {name: jnp.zeros(slot.shape, bool) for name in d.net.conditions}


def loss_sums(
    process: Process, losses: Losses, valid: Array, name: str, penalties: Mapping[str, Array] | None = None
) -> Sums:
    """(sum, count) over valid rows, of all and by quarter of t, and of the penalties within."""
    loss = jnp.where(valid, losses.loss, 0.0)
    quarter = jnp.minimum((process.schedule.progress(losses.t) * 4).astype(jnp.int32), 3)
    sums = {name: (jnp.sum(loss), jnp.sum(valid).astype(jnp.float32))}
    for q in range(4):
        inside = valid & (quarter == q)
        sums[f"{name}/q{q}"] = (jnp.sum(jnp.where(inside, loss, 0.0)), jnp.sum(inside).astype(jnp.float32))
    for part, penalty in (penalties or {}).items():
        sums[f"{name}/{part}"] = (jnp.sum(jnp.where(valid, penalty, 0.0)), sums[name][1])
    return sums


def context_share(
    d: Diffusion, params: Params, frozen: Frozen, batch: Batch, key: Array, slot: Array, n_valid: Array
) -> tuple[Array, Array]:
    """How much the net's answer owes to its sets: squares of (answer - answer without set) and of the answer, f32[b].

    Times and noise are those of `batch_losses` without ``drop``. The ratio of the sums is 0 where sets are ignored.
    """
    t_key, eps_key, *_ = jax.random.split(key, 4)
    x0 = d.codec.net_units(frozen, batch.x)
    eps_keys = keys.per_slot(eps_key, slot)
    third = d.process.target.third
    t, _ = d.density.draw(d.density.init(), t_key, slot, n_valid)
    k = third.draw(per_image_normal(eps_keys, 1, x0.shape[1:])) if third else None
    x_t = d.process.perturb(x0, per_image_normal(eps_keys, 0, x0.shape[1:]), t, k)
    x, c_noise = expand(d.process.c_in(t), x_t) * x_t, d.process.c_noise(t)
    cond, _ = d.net.encode(params, in_net_units(d.codec, frozen, batch.cond, eps_keys, random=False), c_noise)
    none = _no_nulls(d, slot)
    answers = [
        d.net.apply(params, x, c_noise, cond, none | {SET: jnp.full(slot.shape, null)}) for null in (False, True)
    ]
    return _squares(answers[0] - answers[1]), _squares(answers[0])


def _squares(a: Array) -> Array:
    return jnp.sum(jnp.square(a.astype(jnp.float32)), axis=tuple(range(1, a.ndim)))


def fill(batch: Batch) -> Batch:
    """Rows that only fill the shape become a valid row, or zeros where there is none: not even NaN in them matters.

    The row is taken as a sum of which it is the only term: an index would gather the whole batch on every device.
    """
    chosen = batch.valid & (jnp.arange(batch.valid.shape[0]) == jnp.argmax(batch.valid))

    def filled(a: Array) -> Array:
        of_rows = lambda which: which.reshape(which.shape + (1,) * (a.ndim - 1))  # noqa: E731
        alone = jnp.where(of_rows(chosen), a, jnp.zeros_like(a))
        row = alone.any(0, keepdims=True) if a.dtype == bool else alone.sum(0, dtype=a.dtype, keepdims=True)
        return jnp.where(of_rows(batch.valid), a, row)

    return replace(batch, x=filled(batch.x), cond=jax.tree.map(filled, batch.cond))
