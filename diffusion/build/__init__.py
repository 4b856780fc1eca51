"""From a config to a ``Program``: the one folder where a config is read.

``TABLE[name](**section[name])``: a name chooses a row, the sub-dict of that name holds the row's keywords. Nothing here
reads a pixel or compiles anything.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs.default import get_config
from diffusion import settings
from diffusion.best import resolve_metric
from diffusion.build.balancing import balancing
from diffusion.build.choices import check_seed, choose, known, row, section
from diffusion.build.encodings import encodings_folder
from diffusion.build.evaluation import make_evaluation, measured
from diffusion.build.model import make_diffusion, sets
from diffusion.build.parts import initial_parts, part_names
from diffusion.build.sampling import make_sampling
from diffusion.build.training import make_optimiser, snapshot_every, strict_slices
from diffusion.build.usefulness import make_usefulness
from diffusion.data.class_split import class_split, restricted
from diffusion.data.derived import DERIVED, taken
from diffusion.data.records import Dataset
from diffusion.data.sources import SOURCES
from diffusion.data.transforms import Transform, make_transform
from diffusion.errors import ConfigError, DataError
from diffusion.extractors import EXTRACTORS
from diffusion.mesh import make_mesh
from diffusion.nets.backbones import NETS
from diffusion.nets.conditions import SET
from diffusion.nets.dit import dit
from diffusion.program import CLASS_CONDITION, Loading, Program
from diffusion.tables import rows

ON_ERROR = ("raise", "skip")


def build(config: ConfigDict, workdir: str | Path | None = None, *, training: bool = True) -> Program:
    """A program from a config.

    Args:
      workdir: the run's folder; ``runs/NAME`` by default. Nothing is written there yet.
      training: whether checkpoints may come to be ranked, so that ``checkpoint.best_metric`` must be measured.

    Raises:
      ConfigError: a value that cannot be, or a combination that cannot run; the message names the field.
      DataError: data that cannot be, as far as metadata tells.
    """
    c, workdir = config, Path(workdir or f"runs/{config.name}")
    check_seed("seed", c.seed)
    cluster(c)
    compiling(c)
    train = section("train", settings.Train, c.train)
    dataset, transform, derived = _data(c.data, workdir)
    shape = _derived_fields(c.data, dataset, transform)
    draws, class_weights = balancing(c, dataset, training)
    diffusion = replace(make_diffusion(c, dataset, transform), class_weights=class_weights)
    sampling = make_sampling(c, diffusion, dataset)
    if c.eval.data:
        dataset, transform = _other_data(c, transform, training)
    mesh = make_mesh(c.mesh.data, c.mesh.fsdp)
    parts = part_names(c, diffusion.net)
    schedule, optimiser = make_optimiser(c, strict_slices(c, mesh.size), training, parts)
    evaluate, extractors = make_evaluation(c, dataset, optimiser.averages, training=training)
    val = section("val", settings.Validate, c.val)
    checkpoint = section("checkpoint", settings.Checkpoint, c.checkpoint)
    best = (checkpoint.best_metric, checkpoint.best_mode)
    if training:
        best = resolve_metric(
            *best, {"train/loss": "min"} | ({"val/loss": "min"} if val.every else {}) | measured(evaluate, dataset)
        )
        if train.patience and best[0].startswith("train/"):
            raise ConfigError(
                "train.patience",
                f"counts validations or evaluations, and checkpoints rank by {best[0]}: give val.every, and "
                "checkpoint.best_metric=val/loss or one of eval/…",
            )
    return Program(
        config=_resolved(config, shape, best, optimiser.averages.use),
        defaults=get_config().to_dict(),
        workdir=workdir,
        seed=c.seed,
        init_from=c.init_from,
        init_parts=initial_parts(c.init_parts, parts, begins=training and not _holds_run(workdir)),
        mesh=mesh,
        dataset=dataset,
        transform=transform,
        loading=replace(_loading(c, draws), encodings=encodings_folder(c, workdir, diffusion.codec)),
        diffusion=diffusion,
        optimiser=optimiser,
        snapshot_every=snapshot_every(c.ema, optimiser.averages),
        schedule=schedule,
        sampling=sampling,
        derived=derived,
        transfer=re.sub("[^A-Za-z0-9_.-]+", "-", dataset.name) if c.eval.data else "",
        extractors=extractors,
        classifier=functools.partial(row, EXTRACTORS, "eval", c.eval, "classifier"),
        train=train,
        val=val,
        checkpoint=checkpoint,
        best=best,
        resume_allow=tuple(c.resume.allow),
        eval=evaluate,
        sample=section("sample", settings.Sample, c.sample),
        encode=section("encode", settings.Encode, c.encode),
        posthoc=section("posthoc", settings.Posthoc, c.posthoc),
        usefulness=make_usefulness(c.usefulness, dataset),
        log=section("log", settings.Log, c.log),
        bench=section("bench", settings.Bench, c.bench),
    )


def cluster(config: ConfigDict) -> settings.Cluster:
    """How this process finds the others; `diffusion.cluster.join` takes it before any device is used."""
    return section("cluster", settings.Cluster, config.cluster)


def compiling(config: ConfigDict) -> settings.Compile:
    """Where compiled programs are kept; for `diffusion.compile_cache`, before anything is compiled."""
    return section("compile", settings.Compile, config.compile)


def halves_on_cpu(config: ConfigDict) -> bool:
    """Whether a CPU run had better be on two devices (`diffusion.mesh.two_cpu_devices`), before any device is used.

    Convolutions had, as few channels keep one thread busy alone. XLA shares a transformer's products out among threads
    by itself, and one device updates the weights once: a step of the DiT of docs/performance.md took 0.85 of the time.
    """
    net = NETS.get(config.net.name)
    return getattr(net, "func", net) is not dit or max(config.mesh.data, config.mesh.fsdp) > 1


def _holds_run(workdir: Path) -> bool:
    """Whether there are checkpoints to go on from."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(folder.iterdir())


def _loading(config: ConfigDict, draws: tuple[int, ...]) -> Loading:
    c, on_sets = config.data, SET in config.cond.names
    for field, least in (("batch_size", 1), ("threads", 0), ("prefetch", 1), ("max_skipped", 1)):
        if c[field] < least:
            raise ConfigError(f"data.{field}", f"is {c[field]}; at least {least} is needed")
    if c.on_error not in ON_ERROR:
        raise ConfigError("data.on_error", f"{c.on_error!r} is not one of: {', '.join(ON_ERROR)}")
    how = (c.batch_size, c.threads, c.prefetch, c.on_error, c.max_skipped)
    return Loading(*how, sets(config) if on_sets else None, draws)


def _derived_fields(c: ConfigDict, dataset: Dataset, transform: Transform) -> dict[str, int]:
    """What was left to the images, as it was found: a folder that changes later does not change a run's own shape."""
    size = {"size": transform.shape[0]} if c.size == DERIVED else {}
    return size | ({"channels": transform.shape[2]} if c.channels == 0 and dataset.image_shape is None else {})


def _resolved(config: ConfigDict, shape: dict[str, int], best: tuple[str, str], use: str) -> dict[str, Any]:
    values = config.to_dict()
    values["data"] |= shape
    values["ema"]["use"] = use
    values["checkpoint"] |= {"best_metric": best[0], "best_mode": best[1]}
    values.pop("cluster")  # it differs between processes, and between one start and the next
    return values


def _data(c: ConfigDict, workdir: Path) -> tuple[Dataset, Transform, str]:
    """The set, its images as the net takes them, and what was derived of them, in words."""
    check_seed("data.split_seed", c.split_seed)
    dataset = _opened("data", c, c.root.replace("{workdir}", str(workdir)), c.split_seed)
    if dataset.latent:
        for field in ("size", "channels", "flip", "rotate", "jitter"):
            if c[field]:
                raise ConfigError(f"data.{field}", f"is {c[field]}; it is for images, and {dataset.name} holds latents")
    with _before_step_0():
        size, channels, native, derived = taken(dataset, c.size, c.channels)
        transform = make_transform(size, channels, c.flip, native, rotate=c.rotate, jitter=c.jitter)
        return _split_by_class(dataset, c), transform, derived


def _opened(section: str, c: ConfigDict, root: str, split_seed: int) -> Dataset:
    """The set of ``c.source`` at ``root``."""
    with _before_step_0():
        return choose(SOURCES, section, c, "source", root, split_seed)


@contextlib.contextmanager
def _before_step_0() -> Iterator[None]:
    """Bad data found here is exit 2."""
    try:
        yield
    except DataError as error:
        error.status = 2
        raise


def _split_by_class(dataset: Dataset, c: ConfigDict) -> Dataset:
    asked = {name: c[name] for name in ("train_classes", "test_classes", "num_test_classes")}
    split = functools.partial(class_split, dataset, *asked.values(), c.split_seed)
    seen, unseen = section("data", lambda **asked: split(), asked)
    return restricted(dataset, seen, unseen)


def _other_data(config: ConfigDict, transform: Transform, training: bool) -> tuple[Dataset, Transform]:
    """The set that ``eval.data`` names, of which no class was trained on, and its images as the net takes them."""
    field, (source, _, root) = "eval.data", config.eval.data.partition(":")
    if training:
        raise ConfigError(field, "is what --mode=eval and sample take; training is evaluated on its own data")
    known(SOURCES, field, source)
    if CLASS_CONDITION in config.cond.names:
        raise ConfigError(field, "has other classes than the net was trained on, and label is one of its conditions")
    c = ConfigDict(dict(source=source, root=root, **rows({source: SOURCES[source]})))
    if source == "tfds":
        c.root, c.tfds.name = config.data.root if config.data.source == source else "", root
    try:
        dataset = _opened(field, c, c.root, config.data.split_seed)
    except ConfigError as error:  # which names the field of ``data`` that the same mistake is made in
        raise ConfigError(field, str(error).removeprefix(f"{error.field}: ")) from error
    if dataset.latent:
        raise ConfigError(field, f"{dataset.name} holds latents; give a set of images")
    if SET in config.cond.names and not dataset.classes:
        raise ConfigError(field, f"{dataset.name} has no classes, and the net is shown sets of images of one class")
    return dataset, replace(transform, resize=dataset.image_shape is None or dataset.image_shape != transform.shape)
