"""From a config to a ``Program``: the one place where a config is read.

``TABLE[name](**section[name])``: a name chooses a row, the sub-dict of that name holds the row's keywords. Nothing here
reads a pixel or compiles anything.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.default import get_config
from diffusion import settings
from diffusion.best import resolve_metric
from diffusion.checkpoint import Checkpoints
from diffusion.config import from_json
from diffusion.data.records import Dataset
from diffusion.data.sources import SOURCES
from diffusion.data.transforms import Transform, make_transform
from diffusion.ema import EMAS
from diffusion.errors import ConfigError, DataError
from diffusion.extractors import EXTRACTORS
from diffusion.guidance import THRESHOLDS
from diffusion.lr_schedules import LR_SCHEDULES, Schedule
from diffusion.mesh import make_mesh
from diffusion.metrics import METRICS
from diffusion.nets.backbones import NETS
from diffusion.nets.codec import CODECS
from diffusion.nets.conditions import CONDITIONS
from diffusion.nets.model import Net, make_net
from diffusion.objective import DENSITIES, WEIGHTINGS
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.process import TARGETS, Process
from diffusion.program import CLASS_CONDITION, Loading, Program
from diffusion.sample_step import Guidance, Sampling, Weaker
from diffusion.samplers import GRIDS, SAMPLERS, Rule, sample
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
    mesh = make_mesh(c.mesh.data)
    schedule, optimiser = _optimiser(c, _strict(c, mesh.size))
    evaluate = _section("eval", settings.Evaluate, {k: c.eval[k] for k in _fields(settings.Evaluate)})
    _check_evaluation(c.eval, evaluate, dataset)
    val = _section("val", settings.Validate, c.val)
    checkpoint = _section("checkpoint", settings.Checkpoint, c.checkpoint)
    best = (checkpoint.best_metric, checkpoint.best_mode)
    if training:
        best = resolve_metric(*best, _measured(val, evaluate, dataset))
    return Program(
        config=_resolved(config, best),
        workdir=Path(workdir or f"runs/{c.name}"),
        seed=c.seed,
        init_from=c.init_from,
        mesh=mesh,
        dataset=dataset,
        transform=transform,
        loading=_loading(c.data),
        diffusion=diffusion,
        optimiser=optimiser,
        schedule=schedule,
        sampling=_sampling(c, diffusion, dataset),
        make_extractor=functools.partial(_choose, EXTRACTORS, "eval", c.eval, "extractor"),
        train=train,
        val=val,
        checkpoint=checkpoint,
        best=best,
        resume_allow=tuple(c.resume.allow),
        eval=evaluate,
        sample=_section("sample", settings.Sample, c.sample),
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


def _resolved(config: ConfigDict, best: tuple[str, str]) -> dict[str, Any]:
    values = config.to_dict()
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
    return dataset, make_transform(c.size, c.channels, c.flip, dataset.image_shape)


def _diffusion(c: ConfigDict, dataset: Dataset, transform: Transform) -> Diffusion:
    process = _process(c.process)
    codec = _choose(CODECS, "codec", c.codec, "name")
    for name in ("drop", "drop_all"):
        if not 0 <= c.cond[name] <= 1:
            raise ConfigError(f"cond.{name}", f"is {c.cond[name]}; it must lie in [0, 1]")
    return Diffusion(
        net=_net(c.net, c.cond, dataset, codec.shape(transform.shape)),
        process=process,
        density=_choose(DENSITIES, "objective", c.objective, "density", process),
        weighting=_choose(WEIGHTINGS, "objective", c.objective, "weighting"),
        codec=codec,
        cond_drop=c.cond.drop,
        cond_drop_all=c.cond.drop_all,
    )


def _process(c: ConfigDict) -> Process:
    schedule, target = _choose(SCHEDULES, "process", c, "schedule"), _choose(TARGETS, "process", c, "target")
    try:
        return Process(schedule, target, c.sigma_data)
    except ValueError as error:
        raise ConfigError("process", f"schedule={c.schedule} with target={c.target}: {error}") from error


def _net(c: ConfigDict, cond: ConfigDict, dataset: Dataset, shape: tuple[int, int, int]) -> Net:
    height, width, channels = shape
    if height != width:
        raise ConfigError("data.size", f"images are {height}x{width}; give a side, to crop them square")
    if c.dtype not in DTYPES:
        raise ConfigError("net.dtype", f"{c.dtype!r} is not one of: {', '.join(DTYPES)}")
    backbone = _choose(NETS, "net", c, "name", height, channels, DTYPES[c.dtype])
    conditioners = {}
    for name in cond.names:
        if name not in CONDITIONS:
            raise ConfigError("cond.names", f"{name!r} is not one of: {', '.join(CONDITIONS)}")
        if name == CLASS_CONDITION and not dataset.classes:
            raise ConfigError(
                "cond.names", f"{dataset.name} has no labels; take cond.names=() for an unconditional model"
            )
        conditioners[name] = _row(CONDITIONS, "cond", cond, name, len(dataset.classes))
    return make_net(backbone, conditioners, shape, {CLASS_CONDITION: np.zeros(1, np.int32)})


def _optimiser(c: ConfigDict, strict: int) -> tuple[Schedule, Optimiser]:
    if c.optim.micro_batches < 1:
        raise ConfigError("optim.micro_batches", f"is {c.optim.micro_batches}; at least 1 is needed")
    if c.ema.every < 1:
        raise ConfigError("ema.every", f"is {c.ema.every}; at least 1 is needed")
    if not c.optim.lr > 0:
        raise ConfigError("optim.lr", f"is {c.optim.lr}; it must be positive")
    schedule = _choose(LR_SCHEDULES, "optim", c.optim, "schedule", c.optim.lr, c.train.steps)
    tx = make_optimizer(_choose(OPTIMIZERS, "optim", c.optim, "name"), _choose(CLIPS, "optim", c.optim, "clip"))
    decay = _choose(EMAS, "ema", c.ema, "name")
    return schedule, Optimiser(tx, schedule, decay, c.ema.every, c.optim.micro_batches, strict, c.train.max_loss)


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
    if slices and c.optim.micro_batches > 1:
        raise ConfigError("mesh.strict", "takes the batch slice by slice already: take optim.micro_batches=1")
    return slices


def _sampling(config: ConfigDict, diffusion: Diffusion, dataset: Dataset) -> Sampling:
    c, process = config.sampler, diffusion.process
    if c.steps < 1:
        raise ConfigError("sampler.steps", f"is {c.steps}; at least 1 is needed")
    if c.threshold != "none" and not diffusion.codec.bounded:
        raise ConfigError("sampler.threshold", f"{c.threshold} is for pixels; latents are unbounded: take none")
    times = functools.partial(_choose, GRIDS, "sampler", c, "grid", process, c.steps)
    jax.eval_shape(times)  # a bad grid is refused here, and its times are made where they are used
    rule = _choose(SAMPLERS, "sampler", c, "name")
    _check_rule(c.name, rule, diffusion)
    return Sampling(
        rule=rule,
        times=times,
        guidance=_guidance(c, diffusion, _weaker(config, diffusion, dataset)),
        threshold=_choose(THRESHOLDS, "sampler", c, "threshold", process),
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
    folder, _, step = named.partition(":")
    other = from_json(Path(folder) / "config.json", get_config(), field)
    ours, theirs = _space(config), _space(other)
    if ours != theirs:
        raise ConfigError(field, f"{folder} was trained on {theirs}, this run on {ours}; they must be the same")
    net = _net(other.net, other.cond, dataset, diffusion.net.shape)
    if set(net.conditions) != set(diffusion.net.conditions):
        raise ConfigError(
            field, f"{folder} has other conditions: {net.conditions}, and this run {diffusion.net.conditions}"
        )
    there = Checkpoints(Path(folder) / "checkpoints", read_only=True).all_steps()
    if not there or (step.isdigit() and int(step) not in there):
        found = ", ".join(map(str, there)) or "none"
        raise ConfigError(field, f"{folder} has no checkpoint {step}; there are: {found}")
    return Weaker(net, _process(other.process), Path(folder), step or "latest")


def _space(c: ConfigDict) -> dict[str, Any]:
    """What two nets must share to answer about the same noisy images."""
    schedule = c.process.schedule
    fields = dict(c.process[schedule]) if rows({schedule: SCHEDULES[schedule]}) else {}
    return {"codec": c.codec.name, "schedule": schedule} | fields


def _check_rule(name: str, rule: Rule, diffusion: Diffusion) -> None:
    """A step of the rule on the process, abstractly, with a net that answers zeros."""
    process, shape = diffusion.process, diffusion.net.shape

    def one_step() -> jax.Array:
        keys = jax.random.split(jax.random.key(0), 1)
        denoise = process.denoiser(lambda x, c_noise: jnp.tile(jnp.zeros_like(x), process.target.heads))
        return sample(process, denoise, rule, jnp.asarray([process.schedule.t_max, 0.0]), keys, shape=shape)

    try:
        jax.eval_shape(one_step)
    except ValueError as error:
        raise ConfigError("sampler.name", f"{name}: {error}") from error


def _check_evaluation(c: ConfigDict, e: settings.Evaluate, dataset: Dataset) -> None:
    _known(EXTRACTORS, "eval.extractor", c.extractor)
    for metric in e.metrics:
        _known(METRICS, "eval.metrics", metric)
    if e.reference_split not in dataset.sizes:
        raise ConfigError("eval.reference_split", f"{e.reference_split!r} is not one of: {', '.join(dataset.sizes)}")
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
