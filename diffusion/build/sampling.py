"""How images are drawn: rule, grid, guidance, threshold."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs.default import get_config
from diffusion.build.choices import choose
from diffusion.build.model import make_process, other_net
from diffusion.checkpoint import Checkpoints
from diffusion.config import from_json
from diffusion.data.records import Dataset
from diffusion.errors import ConfigError
from diffusion.guidance import THRESHOLDS
from diffusion.nets.codec import CODECS
from diffusion.sample_step import Guidance, Sampling, Weaker
from diffusion.samplers import GRIDS, SAMPLERS, Rule, sample
from diffusion.schedules import SCHEDULES
from diffusion.steps import Diffusion
from diffusion.tables import rows


def make_sampling(config: ConfigDict, diffusion: Diffusion, dataset: Dataset) -> Sampling:
    c, process = config.sampler, diffusion.process
    if c.steps < 1:
        raise ConfigError("sampler.steps", f"is {c.steps}; at least 1 is needed")
    if c.threshold != "none" and not diffusion.codec.bounded:
        raise ConfigError("sampler.threshold", f"{c.threshold} is for pixels; latents are unbounded: take none")
    times = functools.partial(choose, GRIDS, "sampler", c, "grid", process, c.steps)
    jax.eval_shape(times)  # a bad grid is refused here, and its times are made where they are used
    rule = choose(SAMPLERS, "sampler", c, "name")
    _check_rule(c.name, rule, diffusion)
    return Sampling(
        rule=rule,
        times=times,
        guidance=_guidance(c, diffusion, _weaker(config, diffusion, dataset)),
        threshold=choose(THRESHOLDS, "sampler", c, "threshold", process),
    )


def _guidance(c: ConfigDict, diffusion: Diffusion, weaker: Weaker | None) -> Guidance:
    conditions, scales = diffusion.net.conditions, {}
    for text in c.guidance_scales:
        name, _, number = text.partition(":")
        try:
            scales[name] = float(number)
        except ValueError:
            raise ConfigError("sampler.guidance_scales", f"{text!r} is not NAME:NUMBER") from None
        if name not in conditions:
            raise ConfigError("sampler.guidance_scales", f"{name!r} is not one of: {', '.join(conditions) or 'none'}")
    if len(scales) < len(c.guidance_scales):
        raise ConfigError("sampler.guidance_scales", f"{c.guidance_scales} names a condition twice")
    if scales and weaker:
        raise ConfigError("sampler.guidance_scales", "leads away from nulls, autoguidance from a net; take one of them")
    if len(c.guidance_interval) != 2:
        raise ConfigError("sampler.guidance_interval", f"is {c.guidance_interval}; it must be two numbers")
    found = Guidance(c.guidance_scale, tuple(scales.items()), c.guidance_interval, c.guidance_rescale, weaker)
    try:
        found.corrections(diffusion.process)
    except ValueError as error:
        field, _, problem = str(error).partition(" ")
        raise ConfigError(f"sampler.guidance_{field}", problem) from error
    return found


def _weaker(config: ConfigDict, diffusion: Diffusion, dataset: Dataset) -> Weaker | None:
    """The net of the run that ``sampler.autoguidance`` names, from that run's own config."""
    field, named = "sampler.autoguidance", config.sampler.autoguidance
    if not named:
        return None
    folder, colon, step = named.partition(":")
    if colon and step not in ("latest", "best") and not step.isdigit():
        raise ConfigError(field, f"{step!r}, after the colon, must be latest, best or a number")
    other = from_json(Path(folder) / "config.json", get_config(), field)
    ours, theirs = _space(config), _space(other)
    if ours != theirs:
        raise ConfigError(field, f"{folder} was trained on {theirs}, this run on {ours}; they must be the same")
    net, process = other_net(other, dataset, diffusion)
    if set(net.conditions) != set(diffusion.net.conditions):
        raise ConfigError(
            field, f"{folder} has other conditions: {net.conditions}, and this run {diffusion.net.conditions}"
        )
    there = Checkpoints(Path(folder) / "checkpoints", read_only=True).all_steps()
    if not there or (step.isdigit() and int(step) not in there):
        found = ", ".join(map(str, there)) or "none"
        raise ConfigError(field, f"{folder} has no checkpoint {step}; there are: {found}")
    return Weaker(net, process, Path(folder), step or "latest")


def _space(c: ConfigDict) -> dict[str, Any]:
    """What two nets must share to answer about the same noisy images."""
    codec, schedule = c.codec.name, c.process.schedule
    of_codec = dict(c.codec[codec]) if rows({codec: CODECS[codec]}) else {}
    of_schedule = dict(c.process[schedule]) if rows({schedule: SCHEDULES[schedule]}) else {}
    third = make_process(c.process).target.third is not None
    return {"codec": codec} | of_codec | {"schedule": schedule} | of_schedule | {"third_variable": third}


def _check_rule(name: str, rule: Rule, diffusion: Diffusion) -> None:
    """A step of the rule on the process, abstractly, with a net that answers zeros."""
    process, shape = diffusion.process, diffusion.net.shape
    if process.target.third and not rule.third:
        raise ConfigError("sampler.name", f"{name} leaves out K, the third variable of this target: take decoupled")

    def one_step() -> jax.Array:
        keys = jax.random.split(jax.random.key(0), 1)
        denoise = process.denoiser(lambda x, c_noise: jnp.tile(jnp.zeros_like(x), process.target.heads))
        return sample(process, denoise, rule, jnp.asarray([process.schedule.t_max, 0.0]), keys, shape=shape)

    try:
        jax.eval_shape(one_step)
    except ValueError as error:
        raise ConfigError("sampler.name", f"{name}: {error}") from error
