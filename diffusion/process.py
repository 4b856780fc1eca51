"""The process: x_t = alpha * x0 + sigma * eps, and every regression target as y = p * x0 + q * eps.

A target is a pair (p, q); turning a net's answer back into (x0, eps) is a 2x2 solve. The process also owns what the net
is fed with: its input scale and its noise embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.schedules import Schedule
from diffusion.types import Array, Prediction


@dataclass(frozen=True)
class Coefficients:
    """What a target's (p, q) may depend on, all at one time t."""

    alpha: Array
    sigma: Array
    d_alpha: Array
    d_sigma: Array
    sigma_data: float


@dataclass(frozen=True)
class Target:
    """A regression target.

    Attributes:
      pq: the coefficients of (x0, eps) in y.
      divides_by_alpha: recovering x0 from y divides by alpha, so alpha must never be exactly 0.
      heads: the net answers heads * c channels.
    """

    pq: Callable[[Coefficients], tuple[Array, Array]]
    divides_by_alpha: bool = False
    heads: int = 1


@dataclass(frozen=True)
class Process:
    """A schedule and a target; pure functions of arrays.

    Attributes:
      schedule: t -> (alpha, sigma).
      target: what the net regresses on.
      sigma_data: standard deviation of the clean data, for the input scale and the EDM target.

    Raises:
      ValueError: an illegal pair (eps where alpha reaches exactly 0), or sigma_data <= 0.
    """

    schedule: Schedule
    target: Target
    sigma_data: float = 0.5

    def __post_init__(self):
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data is {self.sigma_data}; it must be positive")
        if self.target.divides_by_alpha and self.schedule.alpha_reaches_zero:
            raise ValueError(
                "the eps target cannot be inverted where alpha is exactly 0, as it is at this schedule's noisy end; "
                "take x0, v, velocity or edm, or another schedule"
            )

    def coefficients(self, t: Array) -> Coefficients:
        """alpha, sigma and their derivatives in t, each shaped like t."""
        t = jnp.asarray(t, jnp.float32)
        (alpha, sigma), (d_alpha, d_sigma) = jax.jvp(self.schedule.alpha_sigma, (t,), (jnp.ones_like(t),))
        return Coefficients(alpha, sigma, d_alpha, d_sigma, self.sigma_data)

    def perturb(self, x0: Array, eps: Array, t: Array) -> Array:
        """x_t [b h w c] from x0, eps [b h w c] and t [b]."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        return expand(alpha, x0) * x0 + expand(sigma, x0) * eps

    def regression_target(self, x0: Array, eps: Array, t: Array) -> Array:
        """y [b h w c], what the net is to answer."""
        p, q = self.target.pq(self.coefficients(t))
        return expand(p, x0) * x0 + expand(q, x0) * eps

    def predict(self, y: Array, x_t: Array, t: Array) -> Prediction:
        """Solve alpha x0 + sigma eps = x_t, p x0 + q eps = y for (x0, eps), all [b h w c]; t is [] or [b]."""
        at = self.coefficients(t)
        p, q = self.target.pq(at)
        det = at.alpha * q - at.sigma * p
        x0 = expand(q / det, x_t) * x_t - expand(at.sigma / det, x_t) * y
        eps = expand(at.alpha / det, x_t) * y - expand(p / det, x_t) * x_t
        return Prediction(x0, eps)

    def x0_gain(self, t: Array) -> Array:
        """|d x0 / d y| at fixed x_t: an error of e in y is an error of x0_gain * e in x0."""
        at = self.coefficients(t)
        p, q = self.target.pq(at)
        return jnp.abs(at.sigma / (at.alpha * q - at.sigma * p))

    def logsnr(self, t: Array) -> Array:
        """log(alpha^2 / sigma^2), +inf on clean data."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        return 2.0 * (jnp.log(alpha) - jnp.log(sigma))

    def c_in(self, t: Array) -> Array:
        """Scale that gives the net's input unit variance: 1 / sqrt(alpha^2 sd^2 + sigma^2) (Karras 2022, table 1)."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        return 1.0 / jnp.sqrt((alpha * self.sigma_data) ** 2 + sigma**2)

    def c_noise(self, t: Array) -> Array:
        """The number that the net's noise embedding sees."""
        return self.schedule.c_noise(t)

    def denoiser(self, net: Callable[[Array, Array], Array]):
        """A net ``(scaled x [b h w c], c_noise [b]) -> y`` as a ``Denoiser`` (x_t, t) -> Prediction."""

        def denoise(x_t: Array, t: Array) -> Prediction:
            times = jnp.broadcast_to(t, x_t.shape[:1])
            return self.predict(net(expand(self.c_in(times), x_t) * x_t, self.c_noise(times)), x_t, times)

        return denoise


def expand(a: Array, like: Array) -> Array:
    """Append axes of length 1 to [b] (or []) until it multiplies ``like`` [b ...]."""
    return jnp.reshape(a, jnp.shape(a) + (1,) * (like.ndim - jnp.ndim(a)))


def _edm(c: Coefficients) -> tuple[Array, Array]:
    # Karras 2022, table 1, for any alpha: F = (x0 - c_skip x_t) / c_out with s = sigma / alpha
    scale = c.sigma_data * jnp.sqrt(c.sigma**2 + (c.alpha * c.sigma_data) ** 2)
    return c.sigma / scale, -c.alpha * c.sigma_data**2 / scale


def _x0(c: Coefficients) -> tuple[Array, Array]:
    return jnp.ones_like(c.alpha), jnp.zeros_like(c.alpha)


def _eps(c: Coefficients) -> tuple[Array, Array]:
    return jnp.zeros_like(c.alpha), jnp.ones_like(c.alpha)


def _v(c: Coefficients) -> tuple[Array, Array]:
    return -c.sigma, c.alpha  # Salimans & Ho 2022, with the sign that makes v = dx/dangle


def _velocity(c: Coefficients) -> tuple[Array, Array]:
    return c.d_alpha, c.d_sigma  # Lipman 2023: dx_t/dt


TARGETS = {
    "x0": lambda: Target(_x0),
    "eps": lambda: Target(_eps, divides_by_alpha=True),
    "v": lambda: Target(_v),
    "velocity": lambda: Target(_velocity),
    "edm": lambda: Target(_edm),
}
