"""The process: x_t = alpha * x0 + sigma * eps, and every regression target as y = p * x0 + q * eps.

A target is a pair (p, q), or a pair for each of several heads; turning a net's answer back into (x0, eps) is a 2x2
solve. The process also owns what the net is fed with: its input scale and its noise embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.decoupled import decoupled, decoupled_linear
from diffusion.learned_variance import learned_variance
from diffusion.schedules import Schedule
from diffusion.target import Coefficients, Target, expand, solve_line
from diffusion.types import Array, Prediction


@dataclass(frozen=True)
class Process:
    """A schedule and a target; pure functions of arrays.

    Attributes:
      schedule: t -> (alpha, sigma).
      target: what the net regresses on.
      sigma_data: standard deviation of the clean data, for the input scale and the EDM target.

    Raises:
      ValueError: an illegal pair (eps where alpha reaches exactly 0, a target that is made for another schedule), or
        sigma_data <= 0.
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
        if reason := self.target.refuses(self.schedule):
            raise ValueError(reason)

    def coefficients(self, t: Array) -> Coefficients:
        """alpha, sigma and their derivatives in t, each shaped like t."""
        t = jnp.asarray(t, jnp.float32)
        (alpha, sigma), (d_alpha, d_sigma) = jax.jvp(self.schedule.alpha_sigma, (t,), (jnp.ones_like(t),))
        return Coefficients(t, alpha, sigma, d_alpha, d_sigma, self.sigma_data)

    def perturb(self, x0: Array, eps: Array, t: Array, third: Array | None = None) -> Array:
        """x_t [b h w c] from x0, eps [b h w c] and t [b]; ``third`` is the target's third variable, 0 if not given."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        x_t = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
        if third is None:
            return x_t
        return x_t + expand(self.target.third.kappa(self.coefficients(t)), x0) * third

    def noise(self, x0: Array, x_t: Array, t: Array, third: Array | None = None) -> Array:
        """eps [b h w c] that ``perturb`` makes x_t from x0 with; t is [] or [b]."""
        alpha, sigma = self.schedule.alpha_sigma(jnp.asarray(t, jnp.float32))
        rest = x_t - expand(alpha, x_t) * x0
        if third is not None:
            rest = rest - expand(self.target.third.kappa(self.coefficients(t)), x_t) * third
        return rest / expand(sigma, x_t)

    def regression_target(self, x0: Array, eps: Array, t: Array, third: Array | None = None) -> Array:
        """y [b h w lines * c], what the regressed heads of the net are to answer, each c channels."""
        at = self.coefficients(t)
        lines = []
        for line in self.target.lines:
            p, q, *k = line(at)
            y = expand(p, x0) * x0 + expand(q, x0) * eps
            lines.append(y if third is None else y + expand(k[0], x0) * third)
        return lines[0] if len(lines) == 1 else jnp.concatenate(lines, axis=-1)

    def predict(self, y: Array, x_t: Array, t: Array) -> Prediction:
        """(x0, eps) from the net's answer y [b h w heads * c] at x_t [b h w c]; t is [] or [b]."""
        target, at = self.target, self.coefficients(t)
        if target.solve is None:
            return solve_line(target.lines[0], at, y, x_t)
        return target.solve(at, self.answers(y), x_t)

    def answers(self, y: Array) -> list[Array]:
        """The heads of y [b h w heads * c], [b h w c] each."""
        return jnp.split(y, self.target.heads, axis=-1)

    def x0_gain(self, t: Array) -> Array:
        """|d x0 / d y| at fixed x_t: an error of e in y is an error of x0_gain * e in x0.

        Raises:
          ValueError: several regressed heads, of which each has its own part in x0.
        """
        if len(self.target.lines) > 1:
            raise ValueError("weighs the error of x0, which several heads share: take unit, bounded_exp or ddm")
        at = self.coefficients(t)
        p, q = self.target.lines[0](at)
        return jnp.abs(at.sigma / (at.alpha * q - at.sigma * p))

    def head_gains(self, t: Array) -> Array:
        """[b lines]: an error of e in a head's y is one of gain * e in its part of a decoupled path: C, eps, K.

        Raises:
          ValueError: a target without such heads.
        """
        if self.target.gains is None:
            raise ValueError("weighs the heads C and eps: take it with the decoupled targets")
        return jnp.stack(self.target.gains(self.coefficients(t)), axis=-1)

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
    "x0": lambda: Target((_x0,)),
    "eps": lambda: Target((_eps,), divides_by_alpha=True),
    "v": lambda: Target((_v,)),
    "velocity": lambda: Target((_velocity,)),
    "edm": lambda: Target((_edm,)),
    "learned_variance": learned_variance,
    "decoupled": decoupled,
    "decoupled_linear": decoupled_linear,
}
