"""What training minimises: a density of t, a weighting, and the denoising loss of each example.

A weighting is lambda(t) on the squared error of the target; the densities are those of ``densities``.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from diffusion import densities
from diffusion.process import Process, expand
from diffusion.types import Array, Params

Net = Callable[[Array, Array], Array]  # (scaled x_t [b h w c], c_noise [b]) -> y [b h w heads * c]


class Weighting(NamedTuple):
    """A weighting of the loss at t.

    Attributes:
      weigh: (process, t [b]) -> lambda, [b] or one per regressed head [b lines]. Raises ValueError, while tracing,
        where it makes no sense for the process; the message says why.
      init: () -> weights that it learns, to stand in the params tree beside the net's.
      log_variance: (params, process, t) -> u [b] of the loss e^-u l + u; None where nothing is learned.
    """

    weigh: Callable[[Process, Array], Array]
    init: Callable[[], Mapping[str, Any]] | None = None
    log_variance: Callable[[Params, Process, Array], Array] | None = None


class Losses(NamedTuple):
    """Per example, each f32[b]: the weighted loss, its time, and the part of the loss that teaches the net, before the
    density's weight: without a learned log-variance, which may make the sum 0 or less.
    """

    loss: Array
    t: Array
    plain: Array


def unit() -> Weighting:
    """lambda = 1 on the target: the plain mean squared error, of each head."""
    return Weighting(lambda process, t: jnp.ones_like(t))


def min_snr(*, gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on x0 (Hang 2023): min/SNR on eps, min/(SNR+1) on v."""
    _positive("gamma", gamma)
    return _on_x0(lambda process, t: jnp.minimum(jnp.exp(process.logsnr(t)), gamma))


def soft_min_snr() -> Weighting:
    """1 / (s^2 + sd^2) on x0 with s = sigma / alpha: (s sd)^2 / (s^2 + sd^2)^2 on the edm target (k-diffusion)."""

    def weight(process: Process, t: Array) -> Array:
        alpha, sigma = process.schedule.alpha_sigma(t)
        return alpha**2 / (sigma**2 + (alpha * process.sigma_data) ** 2)

    return _on_x0(weight)


def p2(*, k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """1 / (k + SNR)^gamma on eps (Choi 2022, eq. 8)."""
    _positive("k", k)
    if not gamma >= 0:
        raise ValueError(f"gamma is {gamma}; it must not be negative")

    def weight(process: Process, t: Array) -> Array:
        snr = jnp.exp(process.logsnr(t))
        return snr / (k + snr) ** gamma

    return _on_x0(weight)


def edm() -> Weighting:
    """(s^2 + sd^2) / (s sd)^2 on x0, with s = sigma / alpha (Karras 2022, table 1): 1 on the edm target."""
    return Weighting(_edm)


def velocity(*, t_floor: float = 0.05) -> Weighting:
    """The error of dx_t/dt, whatever the net answers; with the x0 target this is JiT's loss (Li & He 2025).

    An error of x0 is turned into one of the velocity at max(t, t_floor): on the flow path 1 / max(t, t_floor)^2.
    """
    if not 0 < t_floor < 1:
        raise ValueError(f"t_floor is {t_floor}; it must lie in (0, 1)")

    def weight(process: Process, t: Array) -> Array:
        if process.schedule.t_max > 1:
            raise ValueError("needs times in [0, 1]; the edm schedule has its times in sigma: take edm")
        at = process.coefficients(jnp.maximum(t, t_floor))
        return jnp.square(at.d_alpha - at.d_sigma * at.alpha / at.sigma)  # of x0 in the velocity, at fixed x_t

    return _on_x0(weight)


def bounded_exp() -> Weighting:
    """2 e^(1 - t) on C (and K), e^sqrt(t) on eps, of a decoupled target (RadioDiff, Wang 2024)."""
    return _on_heads(lambda t: (2.0 * jnp.exp(1.0 - t), jnp.exp(jnp.sqrt(t))))


def ddm(*, limit: float = 100.0) -> Weighting:
    """1 / t on C (and K), 1 / (1 - t + 1e-4) on eps, of a decoupled target, each at most ``limit`` (Huang 2023)."""
    _positive("limit", limit)
    return _on_heads(lambda t: (jnp.minimum(1.0 / t, limit), jnp.minimum(1.0 / (1.0 - t + 1e-4), limit)))


def uncertainty(*, channels: int = 128) -> Weighting:
    """The edm weighting with a learned log-variance u of the loss: e^-u l + u (Karras 2024, EDM2, section 2.3 and B.4).

    u is linear in ``channels`` cosines of the noise level, 0 at first, trained with the net and not used by sampling.
    """
    if channels < 1:
        raise ValueError(f"channels is {channels}; at least 1 is needed")

    def init() -> Mapping[str, Any]:
        return {"uncertainty": {"weights": jnp.zeros(channels)}}

    def log_variance(params: Params, process: Process, t: Array) -> Array:
        level = process.schedule.progress(t)  # c_noise, brought to [0, 1]
        waves = jnp.cos(math.pi * level[:, None] * jnp.arange(channels)[None])
        return waves @ params["uncertainty"]["weights"]

    return Weighting(_edm, init, log_variance)


def denoising_losses(
    process: Process,
    weighting: Weighting,
    net: Net,
    x0: Array,
    eps: Array,
    t: Array,
    *,
    third: Array | None = None,
    density_weight: Array | None = None,
    params: Params = None,
) -> Losses:
    """lambda(t) * mean over h w c of (net - y)^2, per example, added over heads.

    Args:
      net: answers y from the scaled x_t and its noise level.
      x0, eps: [b h w c], clean data and unit noise.
      t: f32[b].
      third: [b h w c], the path's third variable, of a target that has one.
      density_weight: f32[b], the density's weight of each t; 1 where it is not given.
      params: of what the weighting learns.
    """
    x_t = process.perturb(x0, eps, t, third)
    answer = net(expand(process.c_in(t), x_t) * x_t, process.c_noise(t)).astype(jnp.float32)
    wanted = process.regression_target(x0, eps, t, third)
    loss = _squared_errors(answer[..., : wanted.shape[-1]] - wanted, weighting.weigh(process, t), x0.shape[-1])
    if beside := process.target.beside:
        p = process.predict(answer, x_t, t)
        loss = loss + beside(process.schedule, p, process.answers(answer), x0, t)
    plain = loss
    if weighting.log_variance:
        u = weighting.log_variance(params, process, t)
        plain = jnp.exp(-u) * loss
        loss = plain + u
    return Losses(loss if density_weight is None else density_weight * loss, t, plain)


def _squared_errors(error: Array, weight: Array, channels: int) -> Array:
    """Weighted means over h w c, added over the heads of ``channels`` channels, [b]."""
    heads = jnp.split(jnp.square(error), error.shape[-1] // channels, axis=-1)
    means = [head.mean(axis=tuple(range(1, head.ndim))) for head in heads]
    return sum((weight if weight.ndim == 1 else weight[:, i]) * mean for i, mean in enumerate(means))


def _on_x0(weight: Callable[[Process, Array], Array]) -> Weighting:
    """A weight on the squared error of x0, as one on that of the target."""
    return Weighting(lambda process, t: weight(process, t) * process.x0_gain(t) ** 2)


def _on_heads(weights: Callable[[Array], tuple[Array, Array]]) -> Weighting:
    """Weights on the squared errors of C and eps; what follows them is weighted as C is."""

    def weigh(process: Process, t: Array) -> Array:
        gains = process.head_gains(t)
        of_c, of_eps = weights(t)
        each = [of_c, of_eps, *[of_c] * (gains.shape[-1] - 2)]
        return jnp.stack(each, axis=-1) * gains**2

    return Weighting(weigh)


def _edm(process: Process, t: Array) -> Array:
    alpha, sigma = process.schedule.alpha_sigma(t)
    scale = jnp.sqrt(sigma**2 + (alpha * process.sigma_data) ** 2) / (sigma * process.sigma_data)
    return (scale * process.x0_gain(t)) ** 2


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; it must be positive")


DENSITIES = {
    "uniform": densities.uniform,
    "stratified": densities.stratified,
    "lognormal": densities.lognormal,
    "logit_normal": densities.logit_normal,
    "importance": densities.importance,
}
WEIGHTINGS = {
    "unit": unit,
    "min_snr": min_snr,
    "soft_min_snr": soft_min_snr,
    "p2": p2,
    "edm": edm,
    "velocity": velocity,
    "uncertainty": uncertainty,
    "bounded_exp": bounded_exp,
    "ddm": ddm,
}
