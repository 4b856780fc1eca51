"""Plain settings of the loop and its events, one class per section of the config."""

from dataclasses import dataclass
from typing import Any

from diffusion.ema import exponent
from diffusion.metrics import METRICS


def _check(section: Any, **least: float) -> None:
    for name, low in least.items():
        if getattr(section, name) < low:
            raise ValueError(f"{name} is {getattr(section, name)}; at least {low} is needed")


@dataclass(frozen=True)
class Train:
    steps: int
    max_minutes: float
    max_bad_steps: int
    max_loss: float
    patience: int
    debug: bool

    def __post_init__(self):
        _check(self, steps=1, max_minutes=0, max_bad_steps=1, max_loss=0, patience=0)


@dataclass(frozen=True)
class Validate:
    every: int

    def __post_init__(self):
        _check(self, every=0)


@dataclass(frozen=True)
class Checkpoint:
    every: int
    keep: int
    keep_best: int
    keep_every: int
    best_metric: str
    best_mode: str
    resume: str

    def __post_init__(self):
        _check(self, every=1, keep=1, keep_best=0, keep_every=0)
        if self.resume not in ("auto", "never"):
            raise ValueError(f"resume is {self.resume!r}; it must be auto or never")


@dataclass(frozen=True)
class Evaluate:
    every: int
    metrics: tuple[str, ...]
    extractor: str
    perceptual: str
    num_samples: int
    num_samples_per_class: int
    equal_n: bool
    classes: str
    num_classes: int
    groups: str
    reference_split: str
    support_split: str
    support_size: int
    reference: str
    prompt: str
    pairs: int
    images: str
    emas: tuple[str, ...]
    guidance_scales: tuple[float, ...]
    batch_size: int
    seed: int
    step: str
    cache: str

    def __post_init__(self):
        _check(self, every=0, num_samples=0, num_samples_per_class=1, num_classes=0, pairs=1, batch_size=1, seed=0)
        _check(self, support_size=0)
        _check_step(self.step, ("latest", "best", "all"))
        if self.prompt and "{}" not in self.prompt:
            raise ValueError(f"prompt is {self.prompt!r}; it needs a {{}} where the class's name goes")

    @property
    def streamed(self) -> tuple[str, ...]:
        """The rows of EXTRACTORS that see every image; the first one's features are the evaluation's own."""
        found = [self.network(m) for m in self.metrics if not {"diversity", "pairs"} & set(METRICS[m].needs)]
        return tuple(dict.fromkeys(found or [self.extractor]))

    def network(self, metric: str) -> str:
        """The row of EXTRACTORS whose answers a metric is taken on; "perceptual" is ``eval.perceptual``'s."""
        return METRICS[metric].network or self.extractor


@dataclass(frozen=True)
class Sample:
    every: int
    per_class: int
    num: int
    classes: str
    seed: int
    step: str
    out: str
    start: str
    t0: float
    mask: str
    interpolate: int
    trajectory: bool
    pngs: bool
    support: str

    def __post_init__(self):
        _check(self, every=0, per_class=1, num=1, seed=0, interpolate=0)
        _check_step(self.step)
        if not 0 < self.t0 <= 1:
            raise ValueError(f"t0 is {self.t0}; it must lie in (0, 1]")
        for name, given in (("t0", self.t0 != 1), ("mask", self.mask)):
            if given and not self.start:
                raise ValueError(f"{name} is for images that sampling starts from; give sample.start")
        if self.interpolate and self.start:
            raise ValueError("interpolate goes from one image's first noise to the next one's; take it without start")
        if self.support and self.start.startswith("data:"):
            raise ValueError("start takes real images of each image's class, and a support is of none: name a file")
        if self.support and self.classes:
            raise ValueError("support shows the net images of its own choice; take it without classes")


@dataclass(frozen=True)
class Encode:
    dtype: str
    shard_mb: int

    def __post_init__(self):
        _check(self, shard_mb=1)
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}; it must be float32 or float16")


@dataclass(frozen=True)
class Posthoc:
    sigma_rel: float
    step: str

    def __post_init__(self):
        exponent(self.sigma_rel)
        if self.step != "latest" and not self.step.isdigit():
            raise ValueError(f"step is {self.step!r}; it must be latest or a number")


@dataclass(frozen=True)
class Usefulness:
    seeds: int
    counts: str
    images: str
    oversample: float
    drop_copies: bool
    small: str
    step: str
    seed: int
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    shift: int

    def __post_init__(self):
        _check(self, seeds=1, oversample=1, seed=0, steps=1, batch_size=1, weight_decay=0, shift=0)
        _check_step(self.step)
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")


@dataclass(frozen=True)
class Bench:
    largest_batch: bool


@dataclass(frozen=True)
class Log:
    every: int
    tensorboard: bool
    wandb: bool
    project: str

    def __post_init__(self):
        _check(self, every=1)


@dataclass(frozen=True)
class Compile:
    cache: str


@dataclass(frozen=True)
class Cluster:
    coordinator: str
    processes: int
    process: int
    detect: bool
    timeout: int
    heartbeat: int

    def __post_init__(self):
        _check(self, processes=0, process=-1, timeout=1, heartbeat=1)
        given = {"coordinator": self.coordinator != "", "processes": self.processes > 0, "process": self.process >= 0}
        if any(given.values()):
            lacks = [name for name, there in given.items() if not there]
            if lacks:
                raise ValueError(f"{lacks[0]} is not given; coordinator, processes and process go together")
            if self.process >= self.processes:
                raise ValueError(
                    f"process is {self.process}; of {self.processes} processes the last is number {self.processes - 1}"
                )
            if not self.coordinator.rpartition(":")[2].isdecimal() or ":" not in self.coordinator:
                raise ValueError(f"coordinator is {self.coordinator!r}; it must be host:port of process 0")


def _check_step(step: str, words: tuple[str, ...] = ("latest", "best")) -> None:
    if step not in words and not step.isdigit():
        raise ValueError(f"step is {step!r}; it must be {', '.join(words)} or a number")
