"""Noise schedules: a time t to (alpha, sigma), and a log-SNR back to its time.

x_t = alpha(t) * x0 + sigma(t) * eps. Every schedule is clean at t = 0 and noisiest at ``t_max``. Those born discrete
(DDPM's T betas) are functions of a continuous t in [0, 1] that pass through the T published values at t = (i + 1) / T.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion import betas
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
      steps: T of a schedule that was born discrete, None of a continuous one.
      decoupled: True of the path alpha = 1 - t, sigma = sqrt(t), which the decoupled targets are made for.
    """

    alpha_sigma: Callable[[Array], tuple[Array, Array]]
    t_of_logsnr: Scalars
    c_noise: Scalars
    progress: Scalars
    t_min: float
    t_max: float
    alpha_reaches_zero: bool = False
    steps: int | None = None
    decoupled: bool = False


def linear(*, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, zero_snr: bool = False) -> Schedule:
    """DDPM's linear betas (Ho 2020, section 4); ``zero_snr`` ends them in pure noise (Lin 2023, alg. 1)."""
    return _discrete(betas.spaced(steps, beta_start, beta_end), zero_snr)


def scaled_linear(
    *, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, zero_snr: bool = False
) -> Schedule:
    """sqrt(beta) linear in t, with the ends of latent diffusion (Rombach 2022, its public configs)."""
    return _discrete(betas.spaced(steps, beta_start, beta_end, power=2), zero_snr)


def quadratic(
    *, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, zero_snr: bool = False
) -> Schedule:
    """sqrt(beta) linear in t, with DDPM's ends: ``scaled_linear``'s form, by the name in Ho's code."""
    return _discrete(betas.spaced(steps, beta_start, beta_end, power=2), zero_snr)


def _discrete(table: Sequence[float], zero_snr: bool) -> Schedule:
    path, steps = betas.through(table, zero_snr), len(table)
    return Schedule(*path, _thousands, _itself, t_min=1 / steps, t_max=1.0, alpha_reaches_zero=zero_snr, steps=steps)


def cosine(*, s: float = 0.008, steps: int = 1000, zero_snr: bool = False) -> Schedule:
    """abar = cos^2((t + s) / (1 + s) * pi / 2), relative to t = 0 (Nichol 2021, eq. 17).

    The paper's clip of beta at .999 ends abar at 2.4288e-9 for T = 1000; the continuous form stops at that value too,
    so alpha never reaches 0 and an eps target stays legal. With ``zero_snr`` that value is taken to 0 (Lin 2023).
    """
    if not s > 0:
        raise ValueError(f"s is {s}; it must be positive")
    if steps < 2:
        raise ValueError(f"steps is {steps}; at least 2 are needed")
    start = 0.5 * math.pi * s / (1 + s)
    cos_start, sin_start = math.cos(start), math.sin(start)

    def at_step(i: int) -> float:
        return math.cos((i / steps + s) / (1 + s) * math.pi / 2) / cos_start

    alpha_end = 1e-3**0.5 * at_step(steps - 1)
    t_max = 1 - 2 / math.pi * (1 + s) * math.asin(alpha_end * cos_start)

    def alpha_variance(t: Array) -> tuple[Array, Array]:
        turned = 0.5 * math.pi / (1 + s) * t
        # 1 - alpha^2 as a product of sines: exact where t is small, and 0 at 0
        return jnp.cos(start + turned) / cos_start, jnp.sin(turned) * jnp.sin(2 * start + turned) / cos_start**2

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        alpha, variance = alpha_variance(t)
        return jnp.maximum(alpha, alpha_end), jnp.sqrt(jnp.minimum(variance, 1.0 - alpha_end**2))

    def t_of(alpha: Array, variance: Array) -> Array:
        # the sine keeps its digits where t is small
        sine = jnp.sqrt(variance * cos_start**2 + sin_start**2)
        return jnp.clip(jnp.arctan2(sine, alpha * cos_start) * 2 * (1 + s) / math.pi - s, 0.0, 1.0)

    def t_of_logsnr(logsnr: Array) -> Array:
        return t_of(jnp.maximum(jnp.sqrt(jax.nn.sigmoid(logsnr)), alpha_end), jax.nn.sigmoid(-logsnr))

    path = (alpha_sigma, t_of_logsnr)
    if zero_snr:
        path = _cosine_to_zero(alpha_variance, t_of, at_step(1), alpha_end)
    return Schedule(*path, _thousands, _itself, t_min=1e-4, t_max=t_max, alpha_reaches_zero=zero_snr, steps=steps)


def _cosine_to_zero(alpha_variance: Callable, t_of: Callable, first: float, last: float) -> betas.Path:
    """The path whose alpha is rescaled so that it ends in 0, by way of 1 - alpha."""
    lifted, scale = betas.to_zero_snr(first, last), first / (first - last)

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        alpha, variance = alpha_variance(t)
        below = jnp.clip(lifted(variance / (1.0 + alpha)), 0.0, 1.0)
        alpha = jnp.minimum(scale * (alpha - last), 1.0)
        # 0 and no less, with the slope that it comes with
        alpha = alpha - jax.lax.stop_gradient(jnp.minimum(alpha, 0.0))
        return alpha, jnp.sqrt(below * (1.0 + alpha))

    def t_of_logsnr(logsnr: Array) -> Array:
        alpha = jnp.sqrt(jax.nn.sigmoid(logsnr))
        below = (jax.nn.sigmoid(-logsnr) / (1.0 + alpha) - lifted(0.0)) / scale
        alpha = alpha / scale + last
        return t_of(alpha, below * (1.0 + alpha))

    return alpha_sigma, t_of_logsnr


def sigmoid(*, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """abar = (S(end/tau) - S(z)) / (S(end/tau) - S(start/tau)), z = (start + (end - start) t) / tau, S the sigmoid.

    Jabri 2022, in the form of Chen 2023, alg. 1, with its floor of 1e-9 on abar. Differences of sigmoids are written
    as S(a) - S(b) = sinh((a - b) / 2) / (2 cosh(a / 2) cosh(b / 2)), which keeps its digits at both ends.
    """
    if not (tau > 0 and start < end):
        raise ValueError(f"start {start}, end {end}, tau {tau}: start < end and tau > 0 are needed")
    half_start, half_end, half_span = 0.5 * start / tau, 0.5 * end / tau, 0.5 * (end - start) / tau
    # the full difference over 1 / (2 cosh(z / 2))
    to_noise, to_clean = (math.sinh(half_span) / math.cosh(end) for end in (half_end, half_start))

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        shape = jnp.cosh(half_start + half_span * t)
        abar = jnp.sinh(half_span * (1.0 - t)) / (shape * to_clean)
        variance = jnp.sinh(half_span * t) / (shape * to_noise)
        return jnp.sqrt(jnp.maximum(abar, 1e-9)), jnp.sqrt(jnp.minimum(variance, 1.0))

    def t_of_logsnr(logsnr: Array) -> Array:
        # variance * to_noise = sinh(u) / cosh(half_start + u) is solved for tanh(u); from the nearer of the two ends
        up, down = jax.nn.sigmoid(-logsnr) * to_noise, jax.nn.sigmoid(logsnr) * to_clean
        from_clean = jnp.arctanh(up * math.cosh(half_start) / (1.0 - up * math.sinh(half_start))) / half_span
        from_noise = jnp.arctanh(down * math.cosh(half_end) / (1.0 + down * math.sinh(half_end))) / half_span
        return jnp.where(logsnr > 0, from_clean, 1.0 - from_noise)

    # up to where abar is 3e-5: beyond, alpha falls like sqrt(1 - t), with an infinite slope
    return Schedule(alpha_sigma, t_of_logsnr, _thousands, _itself, t_min=1e-4, t_max=1 - 1e-4)


def vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The variance-preserving SDE (Song 2021, eq. 33): log abar = -beta_min t - (beta_max - beta_min) t^2 / 2."""
    minus_log_abar, t_of = _integrated_beta(beta_min, beta_max)

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        fallen = minus_log_abar(t)
        return jnp.exp(-0.5 * fallen), jnp.sqrt(-jnp.expm1(-fallen))

    def t_of_logsnr(logsnr: Array) -> Array:
        return t_of(-jax.nn.log_sigmoid(logsnr))

    return Schedule(alpha_sigma, t_of_logsnr, _thousands, _itself, t_min=1e-3, t_max=1.0)


def sub_vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The sub-variance-preserving SDE (Song 2021, eq. 29 and appendix B): alpha of ``vp``, sigma = 1 - alpha^2."""
    minus_log_abar, t_of = _integrated_beta(beta_min, beta_max)

    def alpha_sigma(t: Array) -> tuple[Array, Array]:
        fallen = minus_log_abar(t)
        return jnp.exp(-0.5 * fallen), -jnp.expm1(-fallen)

    def t_of_logsnr(logsnr: Array) -> Array:
        # sigma / alpha = 1 / alpha - alpha = 2 sinh(-ln alpha)
        return t_of(2.0 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * logsnr)))

    return Schedule(alpha_sigma, t_of_logsnr, _thousands, _itself, t_min=1e-3, t_max=1.0)


def _integrated_beta(beta_min: float, beta_max: float) -> tuple[Scalars, Scalars]:
    """t -> the integral of beta up to t, and its inverse."""
    if not 0 < beta_min < beta_max:
        raise ValueError(f"beta_min {beta_min} and beta_max {beta_max}: 0 < beta_min < beta_max is needed")
    rise = beta_max - beta_min

    def inverse(integral: Array) -> Array:
        return 2.0 * integral / (beta_min + jnp.sqrt(beta_min**2 + 2.0 * rise * integral))

    return (lambda t: t * (beta_min + 0.5 * rise * t)), inverse


def ve(*, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
    """The variance-exploding SDE: alpha = 1, sigma^2 = s(t)^2 - s(0)^2, s = sigma_min (sigma_max / sigma_min)^t.

    Song 2021, eq. 29: geometric in t but for the subtraction, which leaves the data clean at t = 0.
    """
    span = _log_span(sigma_min, sigma_max)
    return Schedule(
        alpha_sigma=lambda t: (jnp.ones_like(t), sigma_min * jnp.sqrt(jnp.expm1(2.0 * span * t))),
        t_of_logsnr=lambda logsnr: jnp.log1p(jnp.exp(-logsnr) / sigma_min**2) / (2.0 * span),
        c_noise=_thousands,
        progress=_itself,
        t_min=1e-5,
        t_max=1.0,
    )


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


def gvp() -> Schedule:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): the GVP path of SiT (Ma 2024; Albergo 2023)."""
    quarter = 0.5 * math.pi
    return Schedule(
        # the cosine as a sine, which is exactly 0 at t = 1
        alpha_sigma=lambda t: (jnp.sin(quarter * (1.0 - t)), jnp.sin(quarter * t)),
        t_of_logsnr=lambda logsnr: jnp.arctan(jnp.exp(-0.5 * logsnr)) / quarter,
        c_noise=_thousands,
        progress=_itself,
        t_min=1e-4,
        t_max=1.0,
        alpha_reaches_zero=True,
    )


def decoupled() -> Schedule:
    """alpha = 1 - t, sigma = sqrt(t), t in [1e-4, 1] (Huang 2023, constant DDM); sigma's slope is infinite at 0."""
    return Schedule(
        alpha_sigma=lambda t: (1.0 - t, jnp.sqrt(t)),
        # alpha / sigma = 1 / sqrt(t) - sqrt(t) = 2 sinh(-ln sqrt(t))
        t_of_logsnr=lambda logsnr: jnp.exp(-2.0 * jnp.arcsinh(0.5 * jnp.exp(0.5 * logsnr))),
        c_noise=_thousands,
        progress=_itself,
        t_min=1e-4,
        t_max=1.0,
        alpha_reaches_zero=True,
        decoupled=True,
    )


def edm(*, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
    """alpha = 1, sigma = t in [sigma_min, sigma_max] (Karras 2022, table 1); the net sees ln(sigma) / 4."""
    span = _log_span(sigma_min, sigma_max)
    return Schedule(
        alpha_sigma=lambda t: (jnp.ones_like(t), t),
        t_of_logsnr=lambda logsnr: jnp.exp(-0.5 * logsnr),
        c_noise=lambda t: 0.25 * jnp.log(t),
        progress=lambda t: jnp.clip(jnp.log(t / sigma_min) / span, 0.0, 1.0),
        t_min=sigma_min,
        t_max=sigma_max,
    )


def _log_span(sigma_min: float, sigma_max: float) -> float:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min {sigma_min} and sigma_max {sigma_max}: 0 < sigma_min < sigma_max is needed")
    return math.log(sigma_max / sigma_min)


def _thousands(t: Array) -> Array:
    return 1000.0 * t


def _itself(t: Array) -> Array:
    return t


SCHEDULES = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "quadratic": quadratic,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "vp": vp,
    "sub_vp": sub_vp,
    "ve": ve,
    "edm": edm,
    "flow": flow,
    "gvp": gvp,
    "decoupled": decoupled,
}
