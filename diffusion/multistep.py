"""Rules that remember earlier answers, in lambda = ln(alpha / sigma): DPM-Solver++ and UniPC."""

import jax.numpy as jnp

from diffusion.process import Process
from diffusion.rule import Memory, Rule, noise
from diffusion.types import Array


def dpmpp_2m() -> Rule:
    """DPM-Solver++ (2M) in lambda = ln(alpha / sigma) (Lu 2022b, alg. 2); first and last step are first order."""

    def step(process, denoise, x, t, s, memory, keys):
        x0 = denoise(x, t).x0
        (alpha_t, sigma_t, lambda_t), (alpha_s, sigma_s, lambda_s) = _at(process, t), _at(process, s)
        d, memory = _extrapolated(x0, lambda_t, lambda_s, memory, sigma_s == 0)
        shrink = sigma_s / sigma_t  # -alpha_s (e^-h - 1) = alpha_s - shrink * alpha_t
        return shrink * x + (alpha_s - shrink * alpha_t) * d, memory

    return Rule(_nothing_seen, step, order=2)


def dpmpp_2m_sde(*, eta: float = 1.0) -> Rule:
    """SDE-DPM-Solver++ (2M) (Lu 2022b, section 5): eta = 1 is the paper's, 0 is ``dpmpp_2m`` (k-diffusion's eta)."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in [0, 1]")
    if eta == 0:
        return dpmpp_2m()

    def step(process, denoise, x, t, s, memory, keys):
        x0 = denoise(x, t).x0
        (_, sigma_t, lambda_t), (alpha_s, sigma_s, lambda_s) = _at(process, t), _at(process, s)
        d, memory = _extrapolated(x0, lambda_t, lambda_s, memory, sigma_s == 0)
        h = lambda_s - lambda_t
        mean = sigma_s / sigma_t * jnp.exp(-eta * h) * x - alpha_s * jnp.expm1(-(1.0 + eta) * h) * d
        return mean + sigma_s * jnp.sqrt(-jnp.expm1(-2.0 * eta * h)) * noise(keys, x), memory

    return Rule(_nothing_seen, step, order=2, stochastic=True)


def _at(process: Process, t: Array) -> tuple[Array, Array, Array]:
    """(alpha, sigma, lambda) at t."""
    alpha, sigma = process.schedule.alpha_sigma(t)
    return alpha, sigma, jnp.log(alpha / sigma)


def _nothing_seen(process: Process, x: Array, steps: int | Array) -> Memory:
    return {"x0": jnp.zeros_like(x), "lambda": jnp.asarray(jnp.inf, x.dtype), "first": jnp.asarray(True)}


def _extrapolated(x0: Array, lambda_t: Array, lambda_s: Array, memory: Memory, last: Array) -> tuple[Array, Memory]:
    """x0 in the middle of the step, by the line through this answer and the last; x0 on the first and the last step."""
    first_order = memory["first"] | last
    half_inverse_r = jnp.where(first_order, 0.0, (lambda_s - lambda_t) / (2.0 * (lambda_t - memory["lambda"])))
    seen = {"x0": x0, "lambda": lambda_t, "first": jnp.asarray(False)}
    return x0 + half_inverse_r * (x0 - memory["x0"]), seen


def unipc() -> Rule:
    """UniPC-2 with B(h) = e^h - 1, "bh2" (Zhao 2023, in the form that predicts x0): one call a step, third order.

    The answer at t first corrects the step that led there (UniC-2; UniC-1 after the first step), then predicts x_s
    (UniP-2). The last step takes x0 itself. A step from alpha = 0, infinitely long in lambda, is not corrected.
    """

    def init(process: Process, x: Array, steps: int | Array) -> Memory:
        none, before = jnp.zeros_like(x), jnp.asarray(jnp.inf, x.dtype)
        # from where the last step went (x, its x0, alpha, sigma, lambda), and the answer before that
        origin = {"x": none, "x0": none, "sigma": before, "lambda": before}
        return {"origin": origin, "x0": none, "lambda": before, "done": jnp.asarray(0)}

    def step(process, denoise, x, t, s, memory, keys):
        x0 = denoise(x, t).x0
        (alpha_t, sigma_t, lambda_t), (alpha_s, sigma_s, lambda_s) = _at(process, t), _at(process, s)
        x = _corrected(x, x0, alpha_t, sigma_t, lambda_t, memory)
        now = {"x": x, "x0": x0, "sigma": sigma_t, "lambda": lambda_t}
        origin, done = memory["origin"], memory["done"]
        h = lambda_s - lambda_t
        half_inverse_r = jnp.where((done == 0) | (sigma_s == 0), 0.0, 0.5 * h / (lambda_t - origin["lambda"]))
        d = x0 + half_inverse_r * (x0 - origin["x0"])
        x_s = sigma_s / sigma_t * x - alpha_s * jnp.expm1(-h) * d
        return x_s, {"origin": now, "x0": origin["x0"], "lambda": origin["lambda"], "done": done + 1}

    return Rule(init, step, order=3)


def _corrected(x: Array, x0: Array, alpha: Array, sigma: Array, lambda_t: Array, memory: Memory) -> Array:
    """x_t again, now that the answer at t is known: UniC-2, or UniC-1 where only one answer came before."""
    origin, done = memory["origin"], memory["done"]
    h = lambda_t - origin["lambda"]
    usable = (done > 0) & jnp.isfinite(h)
    h = jnp.where(usable, h, 1.0)
    of_second_order = usable & (done > 1)
    r = jnp.where(of_second_order, (origin["lambda"] - memory["lambda"]) / h, 1.0)
    # rhos: the solution of rho_1 + rho_2 = b_1, -r rho_1 + rho_2 = b_2, with b_k = k! phi_{k+1}(-h) (-h) / B(h)
    b = jnp.expm1(-h)
    phi_1 = b / -h - 1.0
    phi_2 = phi_1 / -h - 0.5
    b_1, b_2 = phi_1 / b, 2.0 * phi_2 / b
    rho_1 = jnp.where(of_second_order, (b_1 - b_2) / (1.0 + r), 0.0)
    rho_2 = jnp.where(of_second_order, b_1 - rho_1, 0.5)
    slope_before = (origin["x0"] - memory["x0"]) / r
    mean = sigma / origin["sigma"] * origin["x"] - alpha * b * origin["x0"]
    again = mean - alpha * b * (rho_1 * slope_before + rho_2 * (x0 - origin["x0"]))
    return jnp.where(usable, again, x)


MULTISTEP = {"dpmpp_2m": dpmpp_2m, "dpmpp_2m_sde": dpmpp_2m_sde, "unipc": unipc}
