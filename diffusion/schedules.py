"""Noise schedules: a time t to (alpha, sigma), and a log-SNR back to its time.

x_t = alpha(t) * x0 + sigma(t) * eps. Every schedule is clean at t = 0 and noisiest at ``t_max``. Those born discrete
(DDPM's T betas) are functions of a continuous t in [0, 1] that pass through the T published values at t = (i + 1) / T.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.types import Array

Scalars = Callable[[Array], Array]


@dataclass(frozen=True)
class Schedule:
    """A path from data to noise.

    Attributes:
      alpha_sigma: t -> (alpha, sigma), elementwise.
      t_of_logsnr: log(alpha^2 / sigma^2) -> t, elementwise.
      c_noise: t -> the number that the net's noise embedding sees.
      progress: t -> [0, 1], the time on the scale on which quarters of t are logged.
      t_min: smallest time that training draws and that a sampler's last step may start from.
      t_max: the time of (nearly) pure noise.
      alpha_reaches_zero: True where alpha(t_max) is exactly 0, which no eps target can invert.
      steps: T where the schedule was born discrete, None where it is continuous.
    """

    alpha_sigma: Callable[[Array], tuple[Array, Array]]
    t_of_logsnr: Scalars
    c_noise: Scalars
    progress: Scalars
    t_min: float
    t_max: float
    alpha_reaches_zero: bool = False
    steps: int | None = None


def linear(*, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """DDPM's linear betas (Ho 2020), scaled by 1000 / T for another T (Nichol 2021); log abar is linear between steps.

    Raises:
      ValueError: betas outside (0, 1), or steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 is needed")
    scale = 1000 / steps
    if not 0 < scale * beta_start <= scale * beta_end < 1:
        raise ValueError(
            f"beta_start {beta_start} and beta_end {beta_end} give betas {scale * beta_start:g}…{scale * beta_end:g} "
            f"at {steps} steps; they must lie in (0, 1) and not fall"
        )

    def table() -> tuple[Array, Array]:
        betas = jnp.linspace(scale * beta_start, scale * beta_end, steps)
        log_abar = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.log1p(-betas))])
        return jnp.arange(steps + 1) / steps, log_abar

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        times, log_abar = table()
        log_abar_t = jnp.interp(t, times, log_abar)
        return jnp.exp(0.5 * log_abar_t), jnp.sqrt(jnp.abs(jnp.expm1(log_abar_t)))

    def t_of_logsnr(logsnr: Array) -> Array:
        times, log_abar = table()
        return jnp.interp(-jax.nn.log_sigmoid(logsnr), -log_abar, times)

    return Schedule(alpha_sigma, t_of_logsnr, _thousands, _itself, t_min=1 / steps, t_max=1.0, steps=steps)


def cosine(*, s: float = 0.008) -> Schedule:
    """abar = cos^2((t + s) / (1 + s) * pi / 2), relative to t = 0 (Nichol 2021, eq. 17).

    The paper's clip of beta at .999 ends abar at 2.4288e-9 for T = 1000; the continuous form stops at that value too,
    so alpha never reaches 0 and an eps target stays legal.
    """
    if not s > 0:
        raise ValueError(f"s is {s}; it must be positive")
    start = 0.5 * math.pi * s / (1 + s)
    cos_start, sin_start = math.cos(start), math.sin(start)
    alpha_end = (1e-3 * 2.4287669e-6) ** 0.5

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        turned = 0.5 * math.pi / (1 + s) * t
        alpha = jnp.maximum(jnp.cos(start + turned) / cos_start, alpha_end)
        # 1 - alpha^2 as a product of sines: exact where t is small, and 0 at 0
        variance = jnp.sin(turned) * jnp.sin(2 * start + turned) / cos_start**2
        return alpha, jnp.sqrt(jnp.minimum(variance, 1.0 - alpha_end**2))

    def t_of_logsnr(logsnr: Array) -> Array:
        cosine = jnp.maximum(jnp.sqrt(jax.nn.sigmoid(logsnr)), alpha_end) * cos_start
        # the sine keeps its digits where t is small
        sine = jnp.sqrt(jax.nn.sigmoid(-logsnr) * cos_start**2 + sin_start**2)
        return jnp.clip(jnp.arctan2(sine, cosine) * 2 * (1 + s) / math.pi - s, 0.0, 1.0)

    t_max = 1 - 2 / math.pi * (1 + s) * math.asin(alpha_end * cos_start)
    return Schedule(alpha_sigma, t_of_logsnr, _thousands, _itself, t_min=1e-4, t_max=t_max)


def flow() -> Schedule:
    """Rectified flow: alpha = 1 - t, sigma = t (Liu 2023, Lipman 2023), with the noise at t = 1."""
    return Schedule(
        alpha_sigma=lambda t: (1.0 - t, t),
        t_of_logsnr=lambda logsnr: jax.nn.sigmoid(-0.5 * logsnr),
        c_noise=_thousands,
        progress=_itself,
        t_min=1e-4,
        t_max=1.0,
        alpha_reaches_zero=True,
    )


def edm(*, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
    """alpha = 1, sigma = t in [sigma_min, sigma_max] (Karras 2022, table 1); the net sees ln(sigma) / 4."""
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min {sigma_min} and sigma_max {sigma_max}: 0 < sigma_min < sigma_max is needed")
    span = math.log(sigma_max / sigma_min)
    return Schedule(
        alpha_sigma=lambda t: (jnp.ones_like(t), t),
        t_of_logsnr=lambda logsnr: jnp.exp(-0.5 * logsnr),
        c_noise=lambda t: 0.25 * jnp.log(t),
        progress=lambda t: jnp.clip(jnp.log(t / sigma_min) / span, 0.0, 1.0),
        t_min=sigma_min,
        t_max=sigma_max,
    )


def _thousands(t: Array) -> Array:
    return 1000.0 * t


def _itself(t: Array) -> Array:
    return t


SCHEDULES = {"linear": linear, "cosine": cosine, "flow": flow, "edm": edm}
