"""From a config to a ``Program``: the one place where a config is read.

``TABLE[name](**section[name])``: a name chooses a row, the sub-dict of that name holds the row's keywords. Nothing here
reads a pixel or compiles anything.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffusion import posthoc, settings
from diffusion.augment import AUGMENTS, Augment
from diffusion.best import resolve_metric
from diffusion.data.records import Dataset
from diffusion.data.sources import SOURCES
from diffusion.data.transforms import Transform, make_transform
from diffusion.ema import EMAS, WIDEST, Averages, exponent, width_name
from diffusion.errors import ConfigError, DataError
from diffusion.extractors import EXTRACTORS
from diffusion.guidance import THRESHOLDS
from diffusion.lr_schedules import LR_SCHEDULES, Schedule
from diffusion.mesh import make_mesh
from diffusion.metrics import METRICS
from diffusion.nets.backbones import NETS
from diffusion.nets.codec import CODECS, Codec
from diffusion.nets.conditions import CONDITIONS, AugmentLabel
from diffusion.nets.model import Net, make_net
from diffusion.objective import DENSITIES, WEIGHTINGS, Weighting
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.process import TARGETS, Process
from diffusion.program import CLASS_CONDITION, Loading, Program, Sampling
from diffusion.samplers import GRIDS, SAMPLERS
from diffusion.schedules import SCHEDULES
from diffusion.steps import Diffusion, Optimiser
from diffusion.tables import rows

ON_ERROR = ("raise", "skip")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(config: ConfigDict, workdir: str | Path | None = None, *, training: bool = True) -> Program:
    """A program from a config.

    Args:
      workdir: the run's folder; ``runs/NAME`` by default. Nothing is written there yet.
      training: whether checkpoints may come to be ranked, so that ``checkpoint.best_metric`` must be measured.

    Raises:
      ConfigError: a value that cannot be, or a combination that cannot run; the message names the field.
      DataError: data that cannot be, as far as metadata tells.
    """
    c = config
    _check_seed("seed", c.seed)
    cluster(c)
    train = _section("train", settings.Train, c.train)
    dataset, transform = _data(c.data)
    diffusion = _diffusion(c, dataset, transform)
    mesh = make_mesh(c.mesh.data, c.mesh.fsdp)
    schedule, optimiser = _optimiser(c, _strict(c, mesh.size), training)
    evaluate = _section("eval", settings.Evaluate, {k: c.eval[k] for k in _fields(settings.Evaluate)})
    _check_evaluation(c.eval, evaluate, dataset)
    val = _section("val", settings.Validate, c.val)
    checkpoint = _section("checkpoint", settings.Checkpoint, c.checkpoint)
    best = (checkpoint.best_metric, checkpoint.best_mode)
    if training:
        best = resolve_metric(*best, _measured(val, evaluate, dataset))
    return Program(
        config=_resolved(config, best, optimiser.averages.use),
        workdir=Path(workdir or f"runs/{c.name}"),
        seed=c.seed,
        init_from=c.init_from,
        mesh=mesh,
        dataset=dataset,
        transform=transform,
        loading=_loading(c.data),
        diffusion=diffusion,
        optimiser=optimiser,
        snapshot_every=_snapshot_every(c.ema, optimiser.averages),
        schedule=schedule,
        sampling=_sampling(c.sampler, diffusion),
        make_extractor=functools.partial(_choose, EXTRACTORS, "eval", c.eval, "extractor"),
        train=train,
        val=val,
        checkpoint=checkpoint,
        best=best,
        resume_allow=tuple(c.resume.allow),
        eval=evaluate,
        sample=_section("sample", settings.Sample, c.sample),
        posthoc=_section("posthoc", settings.Posthoc, c.posthoc),
        log=_section("log", settings.Log, c.log),
    )


def cluster(config: ConfigDict) -> settings.Cluster:
    """How this process finds the others; `diffusion.cluster.join` takes it before any device is used."""
    return _section("cluster", settings.Cluster, config.cluster)


def _loading(c: ConfigDict) -> Loading:
    for field, least in (("batch_size", 1), ("threads", 0), ("prefetch", 1), ("max_skipped", 1)):
        if c[field] < least:
            raise ConfigError(f"data.{field}", f"is {c[field]}; at least {least} is needed")
    if c.on_error not in ON_ERROR:
        raise ConfigError("data.on_error", f"{c.on_error!r} is not one of: {', '.join(ON_ERROR)}")
    return Loading(c.batch_size, c.threads, c.prefetch, c.on_error, c.max_skipped)


def _resolved(config: ConfigDict, best: tuple[str, str], use: str) -> dict[str, Any]:
    values = config.to_dict()
    values["ema"]["use"] = use
    values["checkpoint"] |= {"best_metric": best[0], "best_mode": best[1]}
    values.pop("cluster")  # it differs between processes, and between one start and the next
    return values


def _data(c: ConfigDict) -> tuple[Dataset, Transform]:
    _check_seed("data.split_seed", c.split_seed)
    try:
        dataset = _choose(SOURCES, "data", c, "source", c.root, c.split_seed)
    except DataError as error:
        error.status = 2  # found before step 0
        raise
    if dataset.latent:
        for field in ("size", "channels", "flip"):
            if c[field]:
                raise ConfigError(f"data.{field}", f"is {c[field]}; it is for images, and {dataset.name} holds latents")
    return dataset, make_transform(c.size, c.channels, c.flip, dataset.image_shape)


def _diffusion(c: ConfigDict, dataset: Dataset, transform: Transform) -> Diffusion:
    process, weighting = _process(c.process), _choose(WEIGHTINGS, "objective", c.objective, "weighting")
    _check_weighting(weighting, c.objective.weighting, process)
    codec = _codec(c.codec, dataset)
    for name in ("drop", "drop_all"):
        if not 0 <= c.cond[name] <= 1:
            raise ConfigError(f"cond.{name}", f"is {c.cond[name]}; it must lie in [0, 1]")
    augment = _augment(c, codec)
    return Diffusion(
        net=_with_learned(weighting, _net(c, dataset, codec.shape(transform.shape), process.target.heads, augment)),
        process=process,
        density=_choose(DENSITIES, "objective", c.objective, "density", process),
        weighting=weighting,
        codec=codec,
        cond_drop=c.cond.drop,
        cond_drop_all=c.cond.drop_all,
        augment=augment,
    )


def _codec(c: ConfigDict, dataset: Dataset) -> Codec:
    codec = _choose(CODECS, "codec", c, "name")
    if dataset.latent and not codec.latent:
        raise ConfigError("codec.name", f"{c.name} takes images, and {dataset.name} holds latents: take latents")
    if codec.latent and not dataset.latent:
        raise ConfigError("codec.name", f"{c.name} takes latents, and {dataset.name} holds images: take pixels")
    return codec


def _augment(c: ConfigDict, codec: Codec) -> Augment:
    augment = _choose(AUGMENTS, "augment", c.augment, "name")
    if augment.numbers and not codec.bounded:
        raise ConfigError(
            "augment.name", f"{c.augment.name} is for pixels, and {c.codec.name} makes latents: take none"
        )
    if augment.mirrors and c.data.flip:
        raise ConfigError(
            "data.flip", f"mirrors images as augment.name={c.augment.name} does, but the net is not told: take false"
        )
    return augment


def _process(c: ConfigDict) -> Process:
    schedule, target = _choose(SCHEDULES, "process", c, "schedule"), _choose(TARGETS, "process", c, "target")
    try:
        return Process(schedule, target, c.sigma_data)
    except ValueError as error:
        raise ConfigError("process", f"schedule={c.schedule} with target={c.target}: {error}") from error


def _check_weighting(weighting: Weighting, name: str, process: Process) -> None:
    try:
        jax.eval_shape(lambda t: weighting.weigh(process, t), jax.ShapeDtypeStruct((1,), jnp.float32))
    except ValueError as error:
        raise ConfigError("objective.weighting", f"{name} {error}") from error


def _with_learned(weighting: Weighting, net: Net) -> Net:
    """The net, whose params hold what the weighting learns too."""
    learns = weighting.init
    return replace(net, init=jax.jit(lambda key: {**net.init(key), **learns()})) if learns else net


def _net(config: ConfigDict, dataset: Dataset, shape: tuple[int, int, int], heads: int, augment: Augment) -> Net:
    c, cond = config.net, config.cond
    height, width, channels = shape
    if height != width:
        raise ConfigError("data.size", f"images are {height}x{width}; give a side, to crop them square")
    if c.dtype not in DTYPES:
        raise ConfigError("net.dtype", f"{c.dtype!r} is not one of: {', '.join(DTYPES)}")
    backbone = _choose(NETS, "net", c, "name", height, heads * channels, DTYPES[c.dtype])
    conditioners = {}
    for name in cond.names:
        if name not in CONDITIONS:
            raise ConfigError("cond.names", f"{name!r} is not one of: {', '.join(CONDITIONS)}")
        if name == CLASS_CONDITION and not dataset.classes:
            raise ConfigError(
                "cond.names", f"{dataset.name} has no labels; take cond.names=() for an unconditional model"
            )
        conditioners[name] = _row(CONDITIONS, "cond", cond, name, len(dataset.classes))
    label = AugmentLabel(augment.numbers) if augment.numbers else None
    return make_net(backbone, conditioners, shape, {CLASS_CONDITION: np.zeros(1, np.int32)}, label)


def _optimiser(c: ConfigDict, strict: int, training: bool) -> tuple[Schedule, Optimiser]:
    if c.optim.micro_batches < 1:
        raise ConfigError("optim.micro_batches", f"is {c.optim.micro_batches}; at least 1 is needed")
    if not c.optim.lr > 0:
        raise ConfigError("optim.lr", f"is {c.optim.lr}; it must be positive")
    if c.optim.clip == "adaptive" and dict(c.net[c.net.name]).get("scan"):
        raise ConfigError(
            "optim.clip",
            f"adaptive looks at columns of kernels, not of stacks of them: take net.{c.net.name}.scan=false",
        )
    schedule = _choose(LR_SCHEDULES, "optim", c.optim, "schedule", c.optim.lr, c.train.steps)
    tx = make_optimizer(_choose(OPTIMIZERS, "optim", c.optim, "name"), _choose(CLIPS, "optim", c.optim, "clip"))
    averages = _averages(c.ema, training)
    return schedule, Optimiser(tx, schedule, averages, c.ema.every, c.optim.micro_batches, strict, c.train.max_loss)


def _averages(c: ConfigDict, training: bool) -> Averages:
    """The averages that are kept; modes of a run may use one that `posthoc` made as well."""
    if c.every < 1:
        raise ConfigError("ema.every", f"is {c.every}; at least 1 is needed")
    averages = _choose(EMAS, "ema", c, "name")
    use, width = c.use or averages.use, c.use.removeprefix(posthoc.PREFIX)
    if width == c.use or training:
        _known(averages.decays, "ema.use", use)
        return replace(averages, use=use)
    try:
        exponent(float(width), "ema.use")
    except ValueError as error:
        raise ConfigError("ema.use", f"{c.use!r} names no width in (0, {WIDEST:.4f}): {error}") from error
    return replace(averages, use=posthoc.PREFIX + width_name(float(width)))


def _snapshot_every(c: ConfigDict, averages: Averages) -> int:
    if c.snapshot_every < 0:
        raise ConfigError("ema.snapshot_every", f"is {c.snapshot_every}; at least 0 is needed")
    if c.snapshot_every and not averages.sigma_rels:
        raise ConfigError("ema.snapshot_every", f"is for ema.name=power; with {c.name}, take 0")
    return c.snapshot_every


def _strict(c: ConfigDict, devices: int) -> int:
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


def _sampling(c: ConfigDict, diffusion: Diffusion) -> Sampling:
    process = diffusion.process
    if c.steps < 1:
        raise ConfigError("sampler.steps", f"is {c.steps}; at least 1 is needed")
    if c.threshold != "none" and not diffusion.codec.bounded:
        raise ConfigError("sampler.threshold", f"{c.threshold} is for pixels; latents are unbounded: take none")
    times = functools.partial(_choose, GRIDS, "sampler", c, "grid", process, c.steps)
    jax.eval_shape(times)  # a bad grid is refused here, and its times are made where they are used
    return Sampling(
        rule=_choose(SAMPLERS, "sampler", c, "name"),
        times=times,
        guidance_scale=c.guidance_scale,
        threshold=_choose(THRESHOLDS, "sampler", c, "threshold", process),
    )


def _check_evaluation(c: ConfigDict, e: settings.Evaluate, dataset: Dataset) -> None:
    _known(EXTRACTORS, "eval.extractor", c.extractor)
    for metric in e.metrics:
        _known(METRICS, "eval.metrics", metric)
    if e.reference_split not in dataset.sizes:
        raise ConfigError("eval.reference_split", f"{e.reference_split!r} is not one of: {', '.join(dataset.sizes)}")
    if e.metrics and dataset.latent:
        raise ConfigError("eval.metrics", f"{dataset.name} holds latents, and nothing decodes them yet: take ()")
    if "fid" in e.metrics and c.extractor == "classifier":
        raise ConfigError("eval.metrics", "fid is a distance of Inception features; with the classifier's, take fd")
    if e.metrics and not dataset.classes:
        raise ConfigError(
            "eval.metrics",
            f"{dataset.name} has no labels, which the classifier needs; take eval.metrics=() to go without",
        )


def _measured(val: settings.Validate, e: settings.Evaluate, dataset: Dataset) -> list[str]:
    """Names of metrics that may rank checkpoints."""
    names = ["train/loss"] + (["val/loss"] if val.every else [])
    for metric in e.metrics:
        figure = {"kid": "kid_x1e3"}.get(metric, metric)
        per_class = [f"class/{name}" for name in dataset.classes] + ([] if metric == "accuracy" else ["mean", "median"])
        names += [f"eval/{figure}"] + [f"eval/{figure}/{name}" for name in per_class]
    return names


def _choose(table: Mapping[str, Callable], section: str, c: ConfigDict, field: str, *given: Any) -> Any:
    """The row that ``c[field]`` names, called with what the program hands over and the row's own fields."""
    _known(table, f"{section}.{field}", c[field])
    return _row(table, section, c, c[field], *given)


def _row(table: Mapping[str, Callable], section: str, c: ConfigDict, name: str, *given: Any) -> Any:
    # another table of the section may have a row of this name, with fields of its own
    keywords = dict(c[name]) if rows({name: table[name]}) else {}
    try:
        return table[name](*given, **keywords)
    except ValueError as error:
        raise _refused(f"{section}.{name}", keywords, error) from error


def _check_seed(field: str, seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ConfigError(field, f"is {seed}; it must lie in [0, 2**32)")


def _known(table: Mapping[str, Any], field: str, name: str) -> None:
    if name not in table:
        raise ConfigError(field, f"{name!r} is not one of: {', '.join(table)}")


def _section(name: str, kind: Callable, values: Mapping[str, Any]) -> Any:
    try:
        return kind(**dict(values))
    except ValueError as error:
        raise _refused(name, values, error) from error


def _refused(section: str, fields: Mapping[str, Any], error: ValueError) -> ConfigError:
    """The error with the whole name of the field that its message begins with."""
    first, _, rest = str(error).partition(" ")
    field = first.rstrip(":")
    return ConfigError(f"{section}.{field}", rest) if field in fields else ConfigError(section, str(error))


def _fields(kind: Any) -> list[str]:
    return list(kind.__dataclass_fields__)
