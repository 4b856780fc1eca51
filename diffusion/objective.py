"""What training minimises: a density of t, a weighting, and the denoising loss of each example.

A density is ``(key, slot [b], n_valid []) -> t [b]``: a draw belongs to a slot of the global batch, so padding, devices
and micro-batches cannot change it. A weighting is ``(process, t) -> lambda [b]`` on the squared error of the target.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion.process import Process, expand
from diffusion.types import Array

Density = Callable[[Array, Array, Array], Array]
Weighting = Callable[[Process, Array], Array]
Net = Callable[[Array, Array], Array]  # (scaled x_t [b h w c], c_noise [b]) -> y [b h w c]


class Losses(NamedTuple):
    """Per example: the weighted loss and the time it was taken at, both f32[b]."""

    loss: Array
    t: Array


def uniform(process: Process) -> Density:
    """t uniform in (t_min, t_max)."""
    low, high = process.schedule.t_min, process.schedule.t_max
    return lambda key, slot, n_valid: low + (high - low) * _per_slot(jax.random.uniform, key, slot)


def stratified(process: Process) -> Density:
    """One draw and equally spaced offsets over the valid rows of the global batch, uniform in (t_min, t_max)."""
    low, high = process.schedule.t_min, process.schedule.t_max

    def draw(key: Array, slot: Array, n_valid: Array) -> Array:
        offset = slot.astype(jnp.float32) / jnp.maximum(n_valid, 1).astype(jnp.float32)
        return low + (high - low) * jnp.mod(jax.random.uniform(key) + offset, 1.0)

    return draw


def lognormal(process: Process, *, mean: float = -1.2, std: float = 1.2) -> Density:
    """ln(sigma / alpha) ~ N(mean, std^2) (Karras 2022, table 1), clipped to the schedule's times."""
    _positive("std", std)

    def draw(key: Array, slot: Array, n_valid: Array) -> Array:
        log_sigma = mean + std * _per_slot(jax.random.normal, key, slot)
        return _clip_t(process, process.schedule.t_of_logsnr(-2.0 * log_sigma))

    return draw


def logit_normal(process: Process, *, mean: float = 0.0, std: float = 1.0) -> Density:
    """logit(t) ~ N(mean, std^2) with the noise at t = 1 (Esser 2024, section 3.1), clipped to the schedule's times."""
    _positive("std", std)
    if process.schedule.t_max > 1:
        raise ValueError("logit_normal draws t in (0, 1); the edm schedule has its times in sigma: take lognormal")
    return lambda key, slot, n_valid: _clip_t(
        process, jax.nn.sigmoid(mean + std * _per_slot(jax.random.normal, key, slot))
    )


def unit() -> Weighting:
    """lambda = 1 on the target: the plain mean squared error."""
    return lambda process, t: jnp.ones_like(t)


def min_snr(*, gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on x0 (Hang 2023): min/SNR on eps, min/(SNR+1) on v."""
    _positive("gamma", gamma)
    return lambda process, t: jnp.minimum(jnp.exp(process.logsnr(t)), gamma) * process.x0_gain(t) ** 2


def edm() -> Weighting:
    """(s^2 + sd^2) / (s sd)^2 on x0, with s = sigma / alpha (Karras 2022, table 1): 1 on the edm target."""

    def weight(process: Process, t: Array) -> Array:
        alpha, sigma = process.schedule.alpha_sigma(t)
        scale = jnp.sqrt(sigma**2 + (alpha * process.sigma_data) ** 2) / (sigma * process.sigma_data)
        return (scale * process.x0_gain(t)) ** 2

    return weight


def denoising_losses(process: Process, weighting: Weighting, net: Net, x0: Array, eps: Array, t: Array) -> Losses:
    """lambda(t) * mean over h w c of (net - y)^2, per example.

    Args:
      net: answers y from the scaled x_t and its noise level.
      x0, eps: [b h w c], clean data and unit noise.
      t: f32[b].
    """
    x_t = process.perturb(x0, eps, t)
    answer = net(expand(process.c_in(t), x_t) * x_t, process.c_noise(t)).astype(jnp.float32)
    error = jnp.square(answer - process.regression_target(x0, eps, t))
    return Losses(weighting(process, t) * error.mean(axis=tuple(range(1, error.ndim))), t)


def _per_slot(draw: Callable[[Array], Array], key: Array, slot: Array) -> Array:
    return jax.vmap(lambda s: draw(jax.random.fold_in(key, s)))(slot)


def _clip_t(process: Process, t: Array) -> Array:
    return jnp.clip(t, process.schedule.t_min, process.schedule.t_max)


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; it must be positive")


DENSITIES = {
    "uniform": uniform,
    "stratified": stratified,
    "lognormal": lognormal,
    "logit_normal": logit_normal,
}
WEIGHTINGS = {"unit": unit, "min_snr": min_snr, "edm": edm}
