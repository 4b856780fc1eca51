"""Grids of times: ``steps + 1`` decreasing ones that end at 0, the clean end, where alpha = 1 and sigma = 0."""

import jax.numpy as jnp

from diffusion.process import Process
from diffusion.types import Array


def uniform(process: Process, steps: int) -> Array:
    """Equal steps in t from t_max to 0: on T discrete steps, the "trailing" spacing."""
    return jnp.linspace(process.schedule.t_max, 0.0, steps + 1)


def logsnr(process: Process, steps: int) -> Array:
    """Equal steps in log-SNR from t_max to t_min, then 0 (Lu 2022a)."""
    high, low = _reachable_logsnr(process)
    return _then_clean(process.schedule.t_of_logsnr(jnp.linspace(high, low, steps)), process)


def karras(
    process: Process, steps: int, *, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> Array:
    """sigma / alpha equally spaced in its rho-th root (Karras 2022, eq. 5), inside the schedule's range, then 0."""
    if not (rho > 0 and 0 < sigma_min < sigma_max):
        raise ValueError(
            f"rho {rho}, sigma_min {sigma_min}, sigma_max {sigma_max}: rho > 0 and 0 < sigma_min < sigma_max"
        )
    noisy, clean = _reachable_logsnr(process)
    high = jnp.minimum(sigma_max, jnp.exp(-0.5 * noisy)) ** (1 / rho)
    low = jnp.maximum(sigma_min, jnp.exp(-0.5 * clean)) ** (1 / rho)
    sigmas = jnp.linspace(high, low, steps) ** rho
    return _then_clean(process.schedule.t_of_logsnr(-2.0 * jnp.log(sigmas)), process)


def quadratic(process: Process, steps: int) -> Array:
    """sqrt(t) equally spaced from t_max to t_min, then 0 (Song 2021, appendix D.2, there from .8 of t_max)."""
    ends = process.schedule.t_max**0.5, process.schedule.t_min**0.5
    return _then_clean(jnp.linspace(*ends, steps) ** 2, process)


def shifted(process: Process, steps: int, *, shift: float = 3.0) -> Array:
    """Equal steps of u = t / t_max, moved to s u / (1 + (s - 1) u): more of them in the noise (Esser 2024, eq. 23)."""
    if not shift > 0:
        raise ValueError(f"shift is {shift}; it must be positive (1 is the uniform grid)")
    u = jnp.linspace(1.0, 0.0, steps + 1)
    return process.schedule.t_max * (shift * u / (1.0 + (shift - 1.0) * u))


def decoupled(process: Process, steps: int) -> Array:
    """n = steps - 1 equal steps, the last of them split at t_min: 1, …, 1/n, 1e-4, 0 (Huang 2023)."""
    t_max, t_min, n = process.schedule.t_max, process.schedule.t_min, steps - 1
    if n < 1 or t_max / n <= t_min:
        raise ValueError(f"steps is {steps}; this grid takes from 2 to as many as leave the last but one above {t_min}")
    return _then_clean(jnp.append(jnp.linspace(t_max, 0.0, n + 1)[:-1], t_min), process)


def leading(process: Process, steps: int) -> Array:
    """Every (T // steps)-th of T discrete steps, from the first on (diffusers' "leading"): t_max itself is not seen."""
    stride = _discrete(process, steps) // steps
    return _of_indices(process, [stride * i for i in range(steps)])


def linspace(process: Process, steps: int) -> Array:
    """Discrete steps equally spaced from the first to the last of T, rounded (diffusers' "linspace")."""
    last = _discrete(process, steps) - 1
    return _of_indices(process, [round(last * i / max(steps - 1, 1)) for i in range(steps)])


def trailing(process: Process, steps: int) -> Array:
    """Discrete steps T - 1, T - 1 - T / steps, …, rounded (diffusers' "trailing"; Lin 2023, table 2)."""
    total = _discrete(process, steps)
    return _of_indices(process, [round(total - total * i / steps) - 1 for i in reversed(range(steps))])


def _discrete(process: Process, steps: int) -> int:
    total = process.schedule.steps
    if total is None:
        raise ValueError(
            "this schedule is continuous, it has no T steps to choose from: take uniform, logsnr or karras"
        )
    if steps > total:
        raise ValueError(f"steps is {steps}, but the schedule has {total}")
    return total


def _of_indices(process: Process, rising: list[int]) -> Array:
    # index i of the discrete schedule is our time (i + 1) / T; the cosine has its last value a little earlier
    return _then_clean(jnp.asarray([(i + 1) / process.schedule.steps for i in reversed(rising)]), process)


def _reachable_logsnr(process: Process) -> tuple[Array, Array]:
    # a schedule that ends in pure noise starts where float32 still tells alpha from 0
    ends = jnp.asarray([process.schedule.t_max, process.schedule.t_min])
    noisy, clean = process.logsnr(ends)
    return jnp.maximum(noisy, 2.0 * jnp.log(1.0 / 1000.0)), clean


def _then_clean(ts: Array, process: Process) -> Array:
    return jnp.concatenate([jnp.minimum(ts, process.schedule.t_max), jnp.zeros(1)])


GRIDS = {
    "uniform": uniform,
    "logsnr": logsnr,
    "karras": karras,
    "leading": leading,
    "linspace": linspace,
    "trailing": trailing,
    "quadratic": quadratic,
    "shifted": shifted,
    "decoupled": decoupled,
}
