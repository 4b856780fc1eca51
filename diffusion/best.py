"""Which checkpoint is best: one named metric, one direction, finite values only."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from diffusion.errors import ConfigError
from diffusion.metrics import refused

MODES = ("auto", "min", "max")


@dataclass(frozen=True)
class BestRecord:
    """The best value so far; None before the first finite one. Kept inside every checkpoint.

    Attributes:
      metric: its name, ``val/loss``.
      mode: ``min`` or ``max``.
      value: the best value.
      step: the step at which it was measured.
      since: how often it was measured after that without being better.
    """

    metric: str
    mode: str
    value: float | None = None
    step: int | None = None
    since: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``BestRecord(**record.to_json())`` is the same record."""
        return asdict(self)


def better(record: BestRecord, value: float) -> bool:
    """Whether a value beats the record; a NaN or an infinity never does, and a tie does not."""
    if not math.isfinite(value):
        return False
    if record.value is None:
        return True
    return value < record.value if record.mode == "min" else value > record.value


def observed(record: BestRecord, step: int, value: float) -> BestRecord:
    """The record after one more measurement; one that is not finite is not better."""
    if better(record, value):
        return replace(record, value=value, step=step, since=0)
    return replace(record, since=record.since + 1)


def resolve_metric(name: str, mode: str, available: Mapping[str, str]) -> tuple[str, str]:
    """The metric's full name and its direction, decided before training.

    Args:
      name: a logged name, or ``loss``: ``val/loss`` where there is validation, else ``train/loss``.
      mode: ``min``, ``max`` or ``auto`` (the metric's own).
      available: {name that this run will log: ``min`` or ``max``}.

    Raises:
      ConfigError: the run will not measure it, or there is no such mode.
    """
    if mode not in MODES:
        raise ConfigError("checkpoint.best_mode", f"{mode!r} is not one of {', '.join(MODES)}")
    if name == "loss":
        name = "val/loss" if "val/loss" in available else "train/loss"
    if name not in available:
        why = refused(name.removeprefix("eval/"))
        allowed = ", ".join(["loss", *sorted(available)])
        no = f"is not measured: {why}" if why else "is not measured by this run"
        raise ConfigError("checkpoint.best_metric", f"{name!r} {no}; allowed: {allowed}")
    return name, available[name] if mode == "auto" else mode


def ranked(values: Mapping[int, float | None], mode: str) -> list[int]:
    """Steps from best to worst; of equal values the earlier first; those without a value are left out."""
    sign = 1.0 if mode == "min" else -1.0
    measured = {step: value for step, value in values.items() if value is not None and math.isfinite(value)}
    return sorted(measured, key=lambda step: (sign * measured[step], step))


def kept(values: Mapping[int, float | None], latest: int, best: int, mode: str, every: int = 0) -> set[int]:
    """The steps to keep: the newest ``latest``, the ``best`` best, and all multiples of ``every``."""
    periodic = {step for step in values if every and step % every == 0}
    return set(sorted(values)[-latest:]) | set(ranked(values, mode)[:best]) | periodic
