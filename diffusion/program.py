"""A ``Program``: everything that a config stands for, as objects and functions, nothing of it started."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion import settings
from diffusion.batch_losses import Diffusion
from diffusion.data.episodes import Sets
from diffusion.data.records import Dataset
from diffusion.data.transforms import Transform
from diffusion.extractors import Extractor, Given
from diffusion.lr_schedules import Schedule
from diffusion.mesh import padded_rows
from diffusion.sample_step import Sampling
from diffusion.steps import Optimiser

CLASS_CONDITION = "label"  # the name of the class in Batch.cond


@dataclass(frozen=True)
class Loading:
    """How batches are read: see ``data`` in configs/default.py.

    Attributes:
      sets: where the net is conditioned on them.
      draws: of each class in an epoch of training; () for every record once.
      encodings: folder that --mode=encode writes, and that training and validation read in place of images.
    """

    batch_size: int
    threads: int
    prefetch: int
    on_error: str
    max_skipped: int
    sets: Sets | None = None
    draws: tuple[int, ...] = ()
    encodings: Path | None = None


@dataclass(frozen=True, eq=False)
class Program:
    """Everything a mode needs, nothing of it started. ``config`` is for records only: nobody reads settings from it.
    ``defaults`` is the config that sets nothing, with which the record of an older version is completed.

    Attributes:
      init_parts: part of the net -> the safetensors file, or WORKDIR or WORKDIR:STEP, that it begins with.
      extractors: makes or loads each network that the evaluation's metrics need, by row of EXTRACTORS.
      classifier: makes or loads the data set's own.
      schedule: the learning rate, with its plateau if it has one.
      best: (name, mode) of the metric that ranks checkpoints.
      snapshot_every: steps between snapshots of the averages; 0 never.
      derived: what was derived from the images' headers, in words; "" where the config says all.
      transfer: name, fit for a file, of a set that takes the place of the run's own in evaluation; "" where none does.
    """

    config: Mapping[str, Any]
    defaults: Mapping[str, Any]
    workdir: Path
    seed: int
    init_from: str
    init_parts: Mapping[str, str]
    mesh: Mesh
    dataset: Dataset
    transform: Transform
    loading: Loading
    diffusion: Diffusion
    optimiser: Optimiser
    snapshot_every: int
    schedule: Schedule
    sampling: Sampling
    extractors: Mapping[str, Callable[[Given], Extractor]]
    classifier: Callable[[Given], Extractor]
    train: settings.Train
    val: settings.Validate
    checkpoint: settings.Checkpoint
    best: tuple[str, str]
    resume_allow: tuple[str, ...]
    eval: settings.Evaluate
    sample: settings.Sample
    encode: settings.Encode
    posthoc: settings.Posthoc
    usefulness: settings.Usefulness
    log: settings.Log
    bench: settings.Bench
    derived: str = ""
    transfer: str = ""

    @property
    def name(self) -> str:
        return self.config["name"]

    @property
    def parts(self) -> int:
        """Equal parts of a training batch: what one device computes at a time."""
        return self.optimiser.strict or self.mesh.size * self.optimiser.micro_batches

    @property
    def rows(self) -> int:
        """Rows of a compiled training batch over all devices; those beyond the batch size only fill it."""
        return padded_rows(self.loading.batch_size, self.parts)

    @property
    def steps_per_epoch(self) -> int:
        split, sets = self.dataset.train_split, self.loading.sets
        examples = sum(self.loading.draws) or self.dataset.sizes[split]
        if sets and sets.targets:
            examples = sets.targets_of(np.unique(self.dataset.open(split).labels, return_counts=True)[1])
        return -(-examples // self.loading.batch_size)


def abstract_params(program: Program) -> Any:
    """Shapes and types of the weights, without making them."""
    return jax.eval_shape(lambda: program.diffusion.net.init(jax.random.key(0)))
