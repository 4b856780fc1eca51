"""Plain settings of the loop and its events, one class per section of the config."""

from dataclasses import dataclass
from typing import Any


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
    debug: bool

    def __post_init__(self):
        _check(self, steps=1, max_minutes=0, max_bad_steps=1, max_loss=0)


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
    best_metric: str
    best_mode: str
    resume: str

    def __post_init__(self):
        _check(self, every=1, keep=1, keep_best=0)
        if self.resume not in ("auto", "never"):
            raise ValueError(f"resume is {self.resume!r}; it must be auto or never")


@dataclass(frozen=True)
class Evaluate:
    every: int
    metrics: tuple[str, ...]
    num_samples: int
    num_samples_per_class: int
    reference_split: str
    batch_size: int
    seed: int
    step: str

    def __post_init__(self):
        _check(self, every=0, num_samples=0, num_samples_per_class=1, batch_size=1, seed=0)
        _check_step(self.step)


@dataclass(frozen=True)
class Sample:
    every: int
    per_class: int
    num: int
    classes: str
    seed: int
    step: str
    out: str

    def __post_init__(self):
        _check(self, every=0, per_class=1, num=1, seed=0)
        _check_step(self.step)


@dataclass(frozen=True)
class Log:
    every: int
    tensorboard: bool
    wandb: bool
    project: str

    def __post_init__(self):
        _check(self, every=1)


def _check_step(step: str) -> None:
    if step not in ("latest", "best") and not step.isdigit():
        raise ValueError(f"step is {step!r}; it must be latest, best or a number")
