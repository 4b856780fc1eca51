"""How long a run takes, from its FLOPs and a rate: the one this workdir measured, or an assumed share of a peak."""

import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion.peaks import peak_of

SIDE = 1024  # of the matrices whose product gives a CPU's peak
PRODUCTS = 5

SHARE_OF_CPU = 0.35  # the digits recipe trains at 0.40 of two cores' peak (docs/decisions.md)
SHARE_OF_ACCELERATOR = 0.15  # published runs lie at 0.06 to 0.25 (LightningDiT, fast-DiT, DiT)


class Rate(NamedTuple):
    """FLOP/s over all devices, and in words where the figure comes from."""

    flops_per_second: float
    source: str


def rate(workdir: Path, flops_per_step: float, devices: int) -> Rate | None:
    """The best known rate; None on an accelerator whose peak is not known here."""
    measured = steps_per_second(workdir / "metrics.jsonl")
    if measured:
        return Rate(measured * flops_per_step, f"measured by this run: {measured:.3g} steps/s")
    kind = jax.devices()[0].device_kind
    if jax.default_backend() == "cpu":
        peak = _cpu_peak()
        said = f"{SHARE_OF_CPU:.0%} of these cores' matrix product, {peak / 1e9:,.0f} GFLOP/s"
        return Rate(SHARE_OF_CPU * peak, f"assumed: {said}")
    peak = peak_of(kind)
    if peak is None:
        return None
    said = f"{SHARE_OF_ACCELERATOR:.0%} of {devices} x {peak / 1e12:,.0f} TFLOP/s ({kind})"
    return Rate(SHARE_OF_ACCELERATOR * devices * peak, f"assumed: {said}")


def steps_per_second(log: Path) -> float | None:
    """Median of the logged ``perf/steps_per_sec``; None where nothing is logged yet."""
    if not log.is_file():
        return None
    rates = []
    for line in log.read_text().splitlines():
        try:
            rates.append(json.loads(line).get("perf/steps_per_sec"))
        except ValueError:
            continue  # the line that a killed run was writing
    found = [value for value in rates if value]
    return statistics.median(found) if found else None


def estimate(found: Rate | None, train_flops: float, drawn_flops: float) -> dict[str, Any]:
    """Seconds of training and of drawing images (grids and evaluations), compilation left out."""
    if found is None:
        unknown = "the peak of this device is not known; --mode=bench measures"
        return {"training": None, "drawing": None, "rate": unknown}
    training, drawing = (flops / found.flops_per_second for flops in (train_flops, drawn_flops))
    return {"training": round(training, 1), "drawing": round(drawing, 1), "rate": found.source}


def _cpu_peak() -> float:
    """FLOP/s of NumPy's float32 matrix product on all cores: no compilation, some 0.1 s."""
    a = np.ones((SIDE, SIDE), np.float32)
    times = []
    for _ in range(PRODUCTS):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * SIDE**3 / statistics.median(times)
