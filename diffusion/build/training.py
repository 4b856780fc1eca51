"""How it is trained: optimiser, averages, reduction."""

from collections.abc import Sequence
from dataclasses import replace

from ml_collections import ConfigDict

from diffusion import posthoc
from diffusion.build.choices import choose, known
from diffusion.build.parts import part_rules
from diffusion.ema import EMAS, WIDEST, Averages, exponent, width_name
from diffusion.errors import ConfigError
from diffusion.lr_schedules import LR_SCHEDULES, Schedule
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.steps import Optimiser


def make_optimiser(c: ConfigDict, strict: int, training: bool, parts: Sequence[str]) -> tuple[Schedule, Optimiser]:
    """The schedule of the rate, and the optimiser.

    Args:
      parts: of the net, where a field of ``optim`` speaks of one.
    """
    if c.optim.micro_batches < 1:
        raise ConfigError("optim.micro_batches", f"is {c.optim.micro_batches}; at least 1 is needed")
    if not c.optim.lr > 0:
        raise ConfigError("optim.lr", f"is {c.optim.lr}; it must be positive")
    if c.optim.clip == "adaptive" and dict(c.net[c.net.name]).get("scan"):
        raise ConfigError(
            "optim.clip",
            f"adaptive looks at columns of kernels, not of stacks of them: take net.{c.net.name}.scan=false",
        )
    schedule = choose(LR_SCHEDULES, "optim", c.optim, "schedule", c.optim.lr, c.train.steps)
    optimizer, clip = choose(OPTIMIZERS, "optim", c.optim, "name"), choose(CLIPS, "optim", c.optim, "clip")
    tx = make_optimizer(optimizer, clip, part_rules(c.optim, parts))
    averages = _averages(c.ema, training)
    return schedule, Optimiser(tx, schedule, averages, c.ema.every, c.optim.micro_batches, strict, c.train.max_loss)


def _averages(c: ConfigDict, training: bool) -> Averages:
    """The averages that are kept; modes of a run may use one that `posthoc` made as well."""
    if c.every < 1:
        raise ConfigError("ema.every", f"is {c.every}; at least 1 is needed")
    averages = choose(EMAS, "ema", c, "name")
    use, width = c.use or averages.use, c.use.removeprefix(posthoc.PREFIX)
    if width == c.use or training:
        known(averages.decays, "ema.use", use)
        return replace(averages, use=use)
    try:
        exponent(float(width), "ema.use")
    except ValueError as error:
        raise ConfigError("ema.use", f"{c.use!r} names no width in (0, {WIDEST:.4f}): {error}") from error
    return replace(averages, use=posthoc.PREFIX + width_name(float(width)))


def snapshot_every(c: ConfigDict, averages: Averages) -> int:
    if c.snapshot_every < 0:
        raise ConfigError("ema.snapshot_every", f"is {c.snapshot_every}; at least 0 is needed")
    if c.snapshot_every and not averages.sigma_rels:
        raise ConfigError("ema.snapshot_every", f"is for ema.name=power; with {c.name}, take 0")
    return c.snapshot_every


def strict_slices(c: ConfigDict, devices: int) -> int:
    """``mesh.strict``, which must be able to give every device the same number of slices."""
    slices = c.mesh.strict
    if slices < 0 or slices & (slices - 1):
        raise ConfigError("mesh.strict", f"is {slices}; it must be a power of two, or 0 for off")
    if slices and slices % devices:
        raise ConfigError(
            "mesh.strict", f"is {slices} slices for {devices} devices; their number must be a power of two"
        )
    if slices and slices < 2 * devices:
        raise ConfigError("mesh.strict", f"is {slices} slices for {devices} devices; at least {2 * devices} are needed")
    if slices and c.mesh.fsdp > 1:
        raise ConfigError("mesh.strict", "adds whole gradients: take mesh.fsdp=1, or mesh.strict=0")
    if slices and c.optim.micro_batches > 1:
        raise ConfigError("mesh.strict", "takes the batch slice by slice already: take optim.micro_batches=1")
    return slices
