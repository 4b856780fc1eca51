"""Samplers: rules (init, step) along a grid of decreasing times, shaped like an optax transform.

A rule reads the (alpha, sigma) of the two times that it steps between, so strided grids are right by construction.
Every grid holds ``steps + 1`` times and ends at 0, the clean end, where alpha = 1 and sigma = 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusion.process import Process, expand
from diffusion.types import Array, Denoiser, Prediction

Memory = Any  # what a rule carries from step to step, a pytree of arrays


def _one_a_step(steps: int) -> int:
    return steps


class Rule(NamedTuple):
    """A way to step from x_t to x_s, s < t.

    Attributes:
      init: (process, x [b h w c]) -> memory.
      step: (process, denoise, x, t, s, memory, keys [b]) -> (x_s, memory).
      order: the declared order: the global error falls like steps ** -order.
      stochastic: True where steps add noise; then the order is that of mean and deviation.
      calls: steps of a grid that ends clean -> how often the denoiser is called.
    """

    init: Callable[[Process, Array], Memory]
    step: Callable[..., tuple[Array, Memory]]
    order: int
    stochastic: bool = False
    calls: Callable[[int], int] = _one_a_step


def sample(
    process: Process,
    denoise: Denoiser,
    rule: Rule,
    ts: Array,
    keys: Array,
    shape: tuple[int, ...] | None = None,
    x: Array | None = None,
) -> Array:
    """Draw b images in one compiled loop.

    Args:
      process: the process that ``denoise`` was trained on.
      denoise: (x_t, t) -> Prediction, condition and params closed over.
      rule: from ``SAMPLERS``.
      ts: f32[n + 1], decreasing, ending at the clean end (from ``GRIDS``).
      keys: one typed key per image, [b]; an image depends on its own key only.
      shape: (h, w, c) of one image; needed where ``x`` is not given.
      x: [b h w c], a state at ts[0] in place of the initial draw.

    Returns:
      x0, [b h w c].

    Raises:
      ValueError: neither or both of shape and x, or fewer than two times.
    """
    if (shape is None) == (x is None):
        raise ValueError("give either shape=(h, w, c), for an initial draw, or x, a state at ts[0]")
    if ts.ndim != 1 or ts.shape[0] < 2:
        raise ValueError(f"ts has shape {ts.shape}; at least two times are needed")
    if x is None:
        x = process.schedule.alpha_sigma(ts[0])[1] * per_image_normal(keys, 0, shape)

    def body(carry: tuple[Array, Memory], at: tuple[Array, Array, Array]):
        x, memory = carry
        i, t, s = at
        return rule.step(process, denoise, x, t, s, memory, _fold(keys, i + 1)), None

    steps = jnp.arange(ts.shape[0] - 1)
    (x, _), _ = jax.lax.scan(body, (x, rule.init(process, x)), (steps, ts[:-1], ts[1:]))
    return x


def per_image_normal(keys: Array, stream: int | Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise [b *shape], image i from fold_in(keys[i], stream)."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(_fold(keys, stream))


def _fold(keys: Array, data: int | Array) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def ddim(*, eta: float = 0.0) -> Rule:
    """DDIM (Song 2021, eq. 12) between any two times; eta = 1 is ancestral, 0 deterministic."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in [0, 1]")

    def step(process, denoise, x, t, s, memory, keys):
        p = denoise(x, t)
        (_, _, alpha_s, sigma_s), variance = _between(process, t, s)
        deviation = eta * jnp.sqrt(variance)
        mean = alpha_s * p.x0 + jnp.sqrt(jnp.maximum(sigma_s**2 - deviation**2, 0.0)) * p.eps
        return (mean + deviation * _noise(keys, x) if eta else mean), memory

    return Rule(_no_memory, step, order=1, stochastic=eta > 0)


def ddpm(*, variance: str = "small") -> Rule:
    """Ancestral sampling (Ho 2020, alg. 2) over the times visited, with the posterior variance or beta ("large")."""
    if variance not in ("small", "large"):
        raise ValueError(f"variance is {variance!r}; it must be 'small' (posterior) or 'large' (beta)")

    def step(process, denoise, x, t, s, memory, keys):
        p = denoise(x, t)
        (alpha_t, sigma_t, alpha_s, sigma_s), small = _between(process, t, s)
        mean = alpha_s * p.x0 + jnp.sqrt(jnp.maximum(sigma_s**2 - small, 0.0)) * p.eps
        beta = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
        chosen = small if variance == "small" else jnp.where(sigma_s > 0, beta, 0.0)
        return mean + jnp.sqrt(jnp.maximum(chosen, 0.0)) * _noise(keys, x), memory

    return Rule(_no_memory, step, order=1, stochastic=True)


def euler() -> Rule:
    """Euler on the probability-flow ODE dx/dt = alpha' x0 + sigma' eps (Karras 2022, eq. 4; Lipman 2023)."""

    def step(process, denoise, x, t, s, memory, keys):
        return x + (s - t) * _slope(process, denoise(x, t), t), memory

    return Rule(_no_memory, step, order=1)


def heun() -> Rule:
    """Heun's second-order rule in t (Karras 2022, alg. 1); the correction is left out on the last step only."""

    def step(process, denoise, x, t, s, memory, keys):
        first = _slope(process, denoise(x, t), t)
        guess = x + (s - t) * first

        def corrected(guess):
            return x + (s - t) * 0.5 * (first + _slope(process, denoise(guess, s), s))

        clean = process.schedule.alpha_sigma(s)[1] == 0
        return jax.lax.cond(clean, lambda guess: guess, corrected, guess), memory

    return Rule(_no_memory, step, order=2, calls=lambda steps: 2 * steps - 1)


def dpmpp_2m() -> Rule:
    """DPM-Solver++ (2M) in lambda = ln(alpha / sigma) (Lu 2022b, alg. 2); first and last step are first order."""

    def init(process, x):
        return {"x0": jnp.zeros_like(x), "lambda": jnp.asarray(jnp.inf, x.dtype), "first": jnp.asarray(True)}

    def step(process, denoise, x, t, s, memory, keys):
        x0 = denoise(x, t).x0
        alpha_t, sigma_t = process.schedule.alpha_sigma(t)
        alpha_s, sigma_s = process.schedule.alpha_sigma(s)
        lambda_t, lambda_s = jnp.log(alpha_t / sigma_t), jnp.log(alpha_s / sigma_s)
        first_order = memory["first"] | (sigma_s == 0)
        half_inverse_r = jnp.where(first_order, 0.0, (lambda_s - lambda_t) / (2.0 * (lambda_t - memory["lambda"])))
        d = x0 + half_inverse_r * (x0 - memory["x0"])
        shrink = sigma_s / sigma_t  # -alpha_s (e^-h - 1) = alpha_s - shrink * alpha_t
        x_s = shrink * x + (alpha_s - shrink * alpha_t) * d
        return x_s, {"x0": x0, "lambda": lambda_t, "first": jnp.asarray(False)}

    return Rule(init, step, order=2)


def _no_memory(process: Process, x: Array) -> Memory:
    return ()


def _noise(keys: Array, x: Array) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)


def _between(process: Process, t: Array, s: Array) -> tuple[tuple[Array, Array, Array, Array], Array]:
    """(alpha_t, sigma_t, alpha_s, sigma_s) and the variance of x_s given x_t and x0 (Ho 2020, eq. 7, any two times)."""
    alpha_t, sigma_t = process.schedule.alpha_sigma(t)
    alpha_s, sigma_s = process.schedule.alpha_sigma(s)
    ratio = sigma_s / sigma_t
    variance = ratio**2 * (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2)
    return (alpha_t, sigma_t, alpha_s, sigma_s), jnp.maximum(variance, 0.0)


def _slope(process: Process, p: Prediction, t: Array) -> Array:
    at = process.coefficients(t)
    return expand(at.d_alpha, p.x0) * p.x0 + expand(at.d_sigma, p.x0) * p.eps


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


def _reachable_logsnr(process: Process) -> tuple[Array, Array]:
    # a schedule that ends in pure noise starts where float32 still tells alpha from 0
    ends = jnp.asarray([process.schedule.t_max, process.schedule.t_min])
    noisy, clean = process.logsnr(ends)
    return jnp.maximum(noisy, 2.0 * jnp.log(1.0 / 1000.0)), clean


def _then_clean(ts: Array, process: Process) -> Array:
    return jnp.concatenate([jnp.minimum(ts, process.schedule.t_max), jnp.zeros(1)])


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
GRIDS = {"uniform": uniform, "logsnr": logsnr, "karras": karras}
