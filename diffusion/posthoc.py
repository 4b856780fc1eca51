"""Averages of any width after training, from snapshots of a few power-function averages (Karras 2024, section 3.2).

An average weighs the weights of all updates up to n by the profile p(t) = (gamma + 1) t**gamma / n**(gamma + 1). The
wanted profile is fitted by a sum of the stored ones, in least squares over t; the same sum of the snapshots is then
the wanted average. Where the paper solves the normal equations, whose condition is the square of the profiles', the
profiles are taken here at the nodes of a quadrature and fitted directly, in float64.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffusion import snapshots
from diffusion.ema import exponent, width_name
from diffusion.errors import ConfigError
from diffusion.snapshots import Origin

FOLDER = "posthoc"
PREFIX = "posthoc:"  # of ``ema.use``
WORST = 0.1  # share of its profile by which a width may be missed
NODES = 32  # of the quadrature between two snapshots: exact for t**63


class Fit(NamedTuple):
    """A wanted profile as a sum of stored ones.

    Attributes:
      coefficients: f64[s], of sum 1.
      error: the norm of what is missed, over that of the profile: for weights that are white noise in time, the
        deviation of the reconstruction's error over the wanted average's own.
    """

    coefficients: np.ndarray
    error: float


def fit(sigma_rels: Sequence[float], times: Sequence[float], sigma_rel: float, time: float) -> Fit:
    """The profile of ``sigma_rel`` at ``time`` out of those of ``sigma_rels`` [s] at ``times`` [s], none later.

    Times are counts of updates. Snapshots that are the same share their coefficient.
    """
    ends = np.asarray(times, np.float64) / time
    t, weight = _quadrature(np.unique([*ends, 1.0]))
    stored = np.stack([_profile(t, exponent(s), end) for s, end in zip(sigma_rels, ends, strict=True)], axis=1)
    root = np.sqrt(weight)
    columns, wanted = stored * root[:, None], _profile(t, exponent(sigma_rel), 1.0) * root
    norms = np.linalg.norm(columns, axis=0)
    # directions that differ by less than the snapshots' own digits are not told apart
    found = np.linalg.lstsq(columns / norms, wanted, rcond=np.finfo(np.float32).eps)[0] / norms
    coefficients = found / found.sum()
    return Fit(coefficients, float(np.linalg.norm(columns @ coefficients - wanted) / np.linalg.norm(wanted)))


def _quadrature(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights over (0, 1], Gauss-Legendre between any two ends, where profiles break off.

    The first interval is taken in the root of t, in which powers of t begin smoothly.
    """
    x, w = np.polynomial.legendre.leggauss(NODES)
    x, w = (x + 1) / 2, w / 2
    widths = np.diff(ends)[:, None]
    t = [ends[0] * x**2, (ends[:-1, None] + widths * x).ravel()]
    return np.concatenate(t), np.concatenate([ends[0] * 2 * x * w, (widths * w).ravel()])


def _profile(t: np.ndarray, gamma: float, end: float) -> np.ndarray:
    return np.where(t <= end, (gamma + 1) / end * (t / end) ** gamma, 0.0)


def reconstruct(workdir: Path, sigma_rel: float, step: str) -> tuple[Origin, dict[str, np.ndarray], Fit]:
    """The average of one width at one snapshot's step, from that snapshot and all before it.

    Args:
      step: ``latest`` or a number.

    Returns:
      (origin, {"0.07/params/…": f32}, how well the profile is met).

    Raises:
      ConfigError: no snapshots, none of that step, or a width that they do not give.
      DataError: a damaged snapshot.
    """
    origins = {path: snapshots.origin_of(path) for path in snapshots.in_workdir(workdir)}
    origins = {path: origin for path, origin in origins.items() if origin.updates > 0}
    if not origins:
        raise ConfigError("ema.snapshot_every", f"{workdir / snapshots.FOLDER} holds no snapshots to reconstruct from")
    last = _chosen(list(origins.values()), step)
    terms = [(path, name, o) for path, o in origins.items() if o.step <= last.step for name in o.sigma_rels]
    widths, times = [o.sigma_rels[name] for _, name, o in terms], [o.updates for _, _, o in terms]
    found = fit(widths, times, sigma_rel, last.updates)
    if found.error > WORST:
        stored = ", ".join(map(width_name, dict.fromkeys(widths)))
        raise ConfigError(
            "posthoc.sigma_rel",
            f"{sigma_rel} lies outside what {len(times)} averages of widths {stored} up to step {last.step} give: "
            f"{found.error:.0%} of its profile is missed, {WORST:.0%} may be; take a width nearer to these, or a run "
            "with more snapshots",
        )
    name = width_name(sigma_rel)
    by_term = {(path, average): c for (path, average, _), c in zip(terms, found.coefficients, strict=True)}
    return Origin(last.step, last.updates, {name: sigma_rel}), _sum(by_term, name), found


def _chosen(origins: Sequence[Origin], step: str) -> Origin:
    steps = {str(origin.step): origin for origin in origins}
    if step != "latest" and step not in steps:
        raise ConfigError("posthoc.step", f"there is no snapshot of step {step}; there are: {', '.join(steps)}")
    return origins[-1] if step == "latest" else steps[step]


def _sum(coefficients: dict[tuple[Path, str], float], name: str) -> dict[str, np.ndarray]:
    """Snapshots times their coefficients, added in float64, a file at a time."""
    total: dict[str, np.ndarray] = {}
    for path in dict.fromkeys(path for path, _ in coefficients):
        _, arrays = snapshots.read(path)
        for full, value in arrays.items():
            average, _, leaf = full.partition("/")
            term = coefficients[path, average] * value.astype(np.float64)
            total[leaf] = total[leaf] + term if leaf in total else term
    return {f"{name}/{leaf}": value.astype(np.float32) for leaf, value in total.items()}


def path_of(workdir: Path, sigma_rel: float, step: int) -> Path:
    """posthoc/sigma_rel_0.07_step_<8 digits>.npz."""
    return workdir / FOLDER / f"sigma_rel_{width_name(sigma_rel)}_step_{step:08d}.npz"


def made(workdir: Path, name: str) -> dict[int, Path]:
    """Step -> file of every reconstruction of a width, by `ema.width_name`, the oldest first."""
    found = sorted((workdir / FOLDER).glob(f"sigma_rel_{name}_step_*.npz"))
    return {int(path.stem.rpartition("_")[2]): path for path in found}
