"""What is trained: process, codec, augmentation, net, loss."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion.augment import AUGMENTS, Augment
from diffusion.build.choices import choose, known, row, section
from diffusion.data.episodes import Sets
from diffusion.data.records import Dataset
from diffusion.data.transforms import Transform
from diffusion.errors import ConfigError
from diffusion.nets.backbones import NETS
from diffusion.nets.codec import CODECS, Codec
from diffusion.nets.conditions import CONDITIONS, INJECT, SET, AugmentLabel, SetCondition, set_condition
from diffusion.nets.contexts import CONTEXTS
from diffusion.nets.model import Net, make_net
from diffusion.nets.set_encoders import SET_ENCODERS
from diffusion.objective import DENSITIES, WEIGHTINGS, Weighting
from diffusion.process import TARGETS, Process
from diffusion.program import CLASS_CONDITION
from diffusion.schedules import SCHEDULES
from diffusion.steps import Diffusion
from diffusion.types import Array, Cond, ImageSet, Params

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_diffusion(c: ConfigDict, dataset: Dataset, transform: Transform) -> Diffusion:
    process, weighting = make_process(c.process), choose(WEIGHTINGS, "objective", c.objective, "weighting")
    _check_weighting(weighting, c.objective.weighting, process)
    codec = _codec(c.codec, dataset, transform.shape)
    for field, names in (("encoder", SET_ENCODERS), ("kind", CONTEXTS), ("inject", INJECT)):
        known(names, f"context.{field}", c.context[field])
    if c.context.channels < 1:
        raise ConfigError("context.channels", f"is {c.context.channels}; at least 1 is needed")
    for name in ("drop", "drop_all"):
        if not 0 <= c.cond[name] <= 1:
            raise ConfigError(f"cond.{name}", f"is {c.cond[name]}; it must lie in [0, 1]")
    augment = _augment(c, codec)
    return Diffusion(
        net=_net(c, dataset, codec.shape(transform.shape), process, weighting, augment),
        process=process,
        density=choose(DENSITIES, "objective", c.objective, "density", process),
        weighting=weighting,
        codec=codec,
        cond_drop=c.cond.drop,
        cond_drop_all=c.cond.drop_all,
        augment=augment,
    )


def _codec(c: ConfigDict, dataset: Dataset, image: tuple[int, int, int]) -> Codec:
    codec = choose(CODECS, "codec", c, "name", image)
    if dataset.latent and not codec.latent:
        raise ConfigError("codec.name", f"{c.name} takes images, and {dataset.name} holds latents: take latents")
    if codec.latent and not dataset.latent:
        raise ConfigError("codec.name", f"{c.name} takes latents, and {dataset.name} holds images: take pixels")
    return codec


def _augment(c: ConfigDict, codec: Codec) -> Augment:
    augment = choose(AUGMENTS, "augment", c.augment, "name")
    if augment.numbers and not codec.bounded:
        raise ConfigError(
            "augment.name", f"{c.augment.name} is for pixels, and {c.codec.name} makes latents: take none"
        )
    if augment.mirrors and c.data.flip:
        raise ConfigError(
            "data.flip", f"mirrors images as augment.name={c.augment.name} does, but the net is not told: take false"
        )
    return augment


def make_process(c: ConfigDict) -> Process:
    schedule, target = choose(SCHEDULES, "process", c, "schedule"), choose(TARGETS, "process", c, "target")
    try:
        return Process(schedule, target, c.sigma_data)
    except ValueError as error:
        raise ConfigError("process", f"schedule={c.schedule} with target={c.target}: {error}") from error


def _check_weighting(weighting: Weighting, name: str, process: Process) -> None:
    try:
        jax.eval_shape(lambda t: weighting.weigh(process, t), jax.ShapeDtypeStruct((1,), jnp.float32))
    except ValueError as error:
        raise ConfigError("objective.weighting", f"{name} {error}") from error


def other_net(config: ConfigDict, dataset: Dataset, ours: Diffusion) -> tuple[Net, Process]:
    """The net of another run's config on the same images, and the process that it was trained on."""
    process, weighting = make_process(config.process), choose(WEIGHTINGS, "objective", config.objective, "weighting")
    return _net(config, dataset, ours.net.shape, process, weighting, _augment(config, ours.codec)), process


def _net(
    config: ConfigDict,
    dataset: Dataset,
    shape: tuple[int, int, int],
    process: Process,
    weighting: Weighting,
    augment: Augment,
) -> Net:
    """The net, whose params hold what the weighting learns too."""
    c, cond = config.net, config.cond
    height, width, channels = shape
    if height != width:
        raise ConfigError("data.size", f"images are {height}x{width}; give a side, to crop them square")
    if c.dtype not in DTYPES:
        raise ConfigError("net.dtype", f"{c.dtype!r} is not one of: {', '.join(DTYPES)}")
    backbone = choose(NETS, "net", c, "name", height, process.target.heads * channels, DTYPES[c.dtype])
    conditioners = {}
    for name in cond.names:
        known((*CONDITIONS, SET), "cond.names", name)
        if not dataset.classes:
            raise ConfigError(
                "cond.names", f"{dataset.name} has no labels; take cond.names=() for an unconditional model"
            )
        if name == SET:
            conditioners[name] = _set_condition(config.context, height)
        else:
            conditioners[name] = row(CONDITIONS, "cond", cond, name, len(dataset.classes), dataset.seen or None)
    _check_widths(conditioners, config.context.inject)
    label = AugmentLabel(augment.numbers) if augment.numbers else None
    net = make_net(backbone, conditioners, shape, _example(config, shape), label)
    learns = weighting.init
    if learns is None:
        return net

    @jax.jit
    def init_with_output(key: Array) -> tuple[Params, Array]:
        params, answer = net.init_with_output(key)
        return {**params, **learns()}, answer

    return replace(net, init_with_output=init_with_output)


def _check_widths(conditioners: Mapping[str, Any], inject: str) -> None:
    """Vectors of several conditions are added."""
    if "vec" not in INJECT[inject] or not {CLASS_CONDITION, SET} <= set(conditioners):
        return
    found, wanted = (conditioners[name].d for name in (CLASS_CONDITION, SET))
    if found != wanted:
        raise ConfigError(
            "cond.label.d",
            f"is {found}, and the vectors of sets, to which it is added, have {wanted} features: take {wanted}, or "
            "context.inject=lag",
        )


def _set_condition(c: ConfigDict, size: int) -> SetCondition:
    """The condition on sets of images of ``size`` pixels, from the section ``context``."""
    encoder = choose(SET_ENCODERS, "context", c, "encoder", size)
    context = choose(CONTEXTS, "context", c, "kind", encoder.d)
    keywords = {"inject": c.inject, "channels": c.channels}
    return section("context", functools.partial(set_condition, encoder, context), keywords)


def _example(config: ConfigDict, shape: tuple[int, int, int]) -> Cond:
    """One row of every condition that there is."""
    places = sets(config).places
    whole = ImageSet(np.zeros((1, places, *shape), np.float32), np.ones((1, places), bool))
    return {CLASS_CONDITION: np.zeros(1, np.int32), SET: whole}


def sets(config: ConfigDict) -> Sets:
    """How sets are made."""
    return section("sets", Sets, config.sets)
