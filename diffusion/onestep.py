"""Rules that remember nothing: each step sees x_t alone."""

import math

import jax
import jax.numpy as jnp

from diffusion.process import Process
from diffusion.rule import Memory, Rule, between, no_memory, noise, slope
from diffusion.types import Array


def ddim(*, eta: float = 0.0) -> Rule:
    """DDIM (Song 2021, eq. 12) between any two times; eta = 1 is ancestral, 0 deterministic."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in [0, 1]")

    def step(process, denoise, x, t, s, memory, keys):
        p = denoise(x, t)
        (_, _, alpha_s, sigma_s), variance = between(process, t, s)
        deviation = eta * jnp.sqrt(variance)
        mean = alpha_s * p.x0 + jnp.sqrt(jnp.maximum(sigma_s**2 - deviation**2, 0.0)) * p.eps
        return (mean + deviation * noise(keys, x) if eta else mean), memory

    return Rule(no_memory, step, order=1, stochastic=eta > 0)


def euler_ancestral(*, eta: float = 1.0) -> Rule:
    """Euler in sigma / alpha past the next time, then noise back up to it (k-diffusion's ancestral step).

    x / alpha is a state of the schedule alpha = 1, so this is right for any alpha. Up to eta = 1 it is DDIM of that
    eta; a larger eta adds more noise, at most all that the next time has.
    """
    if not eta >= 0:
        raise ValueError(f"eta is {eta}; it must not be negative")

    def step(process, denoise, x, t, s, memory, keys):
        p = denoise(x, t)
        (_, _, alpha_s, sigma_s), variance = between(process, t, s)
        up = jnp.minimum(sigma_s, eta * jnp.sqrt(variance))  # both times alpha_s
        down = jnp.sqrt((sigma_s - up) * (sigma_s + up))  # to the bit 0 where all is noise
        x_s = alpha_s * p.x0 + down * p.eps
        return (x_s + up * noise(keys, x) if eta else x_s), memory

    return Rule(no_memory, step, order=1, stochastic=eta > 0)


def ddpm(*, variance: str = "small") -> Rule:
    """Ancestral sampling (Ho 2020, alg. 2) over the times visited.

    The variance is the posterior's ("small"), beta ("large"), or what the net answers between the two ("learned":
    Nichol 2021, eq. 15; ValueError where the target learns none).
    """
    if variance not in ("small", "large", "learned"):
        raise ValueError(
            f"variance is {variance!r}; it must be 'small' (posterior), 'large' (beta) or 'learned' (the net's)"
        )

    def step(process, denoise, x, t, s, memory, keys):
        p = denoise(x, t)
        (alpha_t, sigma_t, alpha_s, sigma_s), small = between(process, t, s)
        mean = alpha_s * p.x0 + jnp.sqrt(jnp.maximum(sigma_s**2 - small, 0.0)) * p.eps
        large = jnp.where(sigma_s > 0, sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2, 0.0)
        chosen = {"small": small, "large": large}.get(variance)
        if chosen is None:
            chosen = _learned_variance(p.extra, small, large)
        return mean + jnp.sqrt(jnp.maximum(chosen, 0.0)) * noise(keys, x), memory

    return Rule(no_memory, step, order=1, stochastic=True)


def _learned_variance(extra: dict[str, Array], small: Array, large: Array) -> Array:
    """exp(share log beta + (1 - share) log small) [b h w c]; nothing where the next time is clean."""
    if "variance_share" not in extra:
        raise ValueError("variance is 'learned', but the target learns no variance; take 'small' or 'large'")
    share, noisy = extra["variance_share"], small > 0
    log_small, log_large = (jnp.log(jnp.where(noisy, v, 1.0)) for v in (small, large))
    return jnp.where(noisy, jnp.exp(share * log_large + (1.0 - share) * log_small), 0.0)


def euler() -> Rule:
    """Euler on the probability-flow ODE dx/dt = alpha' x0 + sigma' eps (Karras 2022, eq. 4; Lipman 2023)."""

    def step(process, denoise, x, t, s, memory, keys):
        return x + (s - t) * slope(process, denoise(x, t), t), memory

    return Rule(no_memory, step, order=1)


def heun(*, s_churn: float = 0.0, s_min: float = 0.0, s_max: float = 1e9, s_noise: float = 1.0) -> Rule:
    """Heun's second-order rule in t (Karras 2022, alg. 1); the correction is left out on the last step only.

    With ``s_churn`` above 0 it is alg. 2: where sigma / alpha lies in [s_min, s_max], noise of deviation ``s_noise``
    first raises it by the factor 1 + min(s_churn / steps, sqrt 2 - 1). On a schedule whose alpha moves, the state goes
    to the time of that sigma / alpha, by the schedule's own (alpha, sigma); where the schedule ends, so does the raise.
    """
    if not (s_churn >= 0 and 0 <= s_min <= s_max and s_noise >= 0):
        raise ValueError(
            f"s_churn {s_churn}, s_min {s_min}, s_max {s_max}, s_noise {s_noise}: none may be negative, "
            "and s_min must not exceed s_max"
        )

    def init(process: Process, x: Array, steps: int | Array) -> Memory:
        return {"gamma": jnp.minimum(s_churn / steps, math.sqrt(2) - 1)} if s_churn else ()

    def step(process, denoise, x, t, s, memory, keys):
        if s_churn:
            alpha, sigma = process.schedule.alpha_sigma(t)
            inside = (sigma >= s_min * alpha) & (sigma <= s_max * alpha)
            gamma = jnp.where(inside, memory["gamma"], 0.0)
            x, t = _raised(process, x, t, gamma, s_noise * noise(keys, x))
        first = slope(process, denoise(x, t), t)
        guess = x + (s - t) * first

        def corrected(guess):
            return x + (s - t) * 0.5 * (first + slope(process, denoise(guess, s), s))

        clean = process.schedule.alpha_sigma(s)[1] == 0
        return jax.lax.cond(clean, lambda guess: guess, corrected, guess), memory

    return Rule(init, step, order=2, stochastic=s_churn > 0, calls=lambda steps: 2 * steps - 1)


def _raised(process: Process, x: Array, t: Array, gamma: Array, z: Array) -> tuple[Array, Array]:
    """x and t at a sigma / alpha that is 1 + gamma times as large (Karras 2022, alg. 2, lines 4 to 6)."""
    alpha, sigma = process.schedule.alpha_sigma(t)
    higher = process.schedule.t_of_logsnr(process.logsnr(t) - 2.0 * jnp.log1p(gamma))
    higher = jnp.where(gamma > 0, jnp.maximum(higher, t), t)
    alpha_higher, sigma_higher = process.schedule.alpha_sigma(higher)
    shrink = jnp.where(alpha > 0, alpha_higher / jnp.where(alpha > 0, alpha, 1.0), 1.0)
    # where nothing is raised, rounding in the difference of squares would still add noise of 2e-4
    added = jnp.where(higher > t, jnp.maximum(sigma_higher**2 - (shrink * sigma) ** 2, 0.0), 0.0)
    return shrink * x + jnp.sqrt(added) * z, higher


def decoupled(*, stochastic: bool = True) -> Rule:
    """Decoupled diffusion's step (Huang 2023): x_s = x_t - C d - d / sqrt(t) eps + sqrt(d s / t) z, d = t - s, C = -x0.

    Not stochastic, it is (1 - s) x0 + sqrt(s) eps. eps is as the denoiser hands it over: a two-headed target without a
    threshold gives its own answer, a threshold puts eps back on (1 - t) x0 + sqrt(t) eps = x_t. Where the net answers K
    too, x_t = x0 + K t^2 / 2 + C t + sqrt(t) eps with C = -x0 - K / 2 (the linear variant).

    Raises:
      ValueError: in ``init``, where the schedule is not alpha = 1 - t, sigma = sqrt(t).
    """

    def init(process: Process, x: Array, steps: int | Array) -> Memory:
        with jax.ensure_compile_time_eval():
            t = jnp.linspace(0.0, 1.0, 9)
            alpha, sigma = process.schedule.alpha_sigma(t)
            ours = jnp.max(jnp.abs(alpha - (1.0 - t))) + jnp.max(jnp.abs(sigma - jnp.sqrt(t))) < 1e-4
            if not bool(ours):
                raise ValueError("this rule needs alpha = 1 - t, sigma = sqrt(t): take process.schedule=decoupled")
        return ()

    def step(process, denoise, x, t, s, memory, keys):
        p, d = denoise(x, t), t - s
        k = p.extra.get("K", 0.0)
        if not stochastic:
            return (1.0 - s) * p.x0 + 0.5 * k * (s**2 - s) + jnp.sqrt(s) * p.eps, memory
        c = -p.x0 - 0.5 * k
        mean = x + 0.5 * k * d**2 - k * t * d - c * d - d / jnp.sqrt(t) * p.eps
        return mean + jnp.sqrt(d * s / t) * noise(keys, x), memory

    return Rule(init, step, order=1, stochastic=stochastic, third=True)


ONE_STEP = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "euler_ancestral": euler_ancestral,
    "decoupled": decoupled,
}
