"""Every target through a sampler, with the net that knows the answer: data N(MU, SD^2), y exactly E[y | x_t].

Such a net is linear, and so is DDIM: the mean and the deviation of what comes out are read off two paths.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.process import TARGETS, Process, expand
from diffusion.samplers import GRIDS, SAMPLERS, sample
from diffusion.schedules import SCHEDULES

MU, SD = 0.3, 0.5
VARIANCE_OF_K = 0.5
MARGIN = 6  # on the error's constant, taken at 50 steps, as in test_samplers

CASES = {  # case: (target, its keywords)
    **{name: (name, {}) for name in TARGETS},
    "decoupled, free": ("decoupled", {"free": True}),
    "decoupled, not preconditioned": ("decoupled", {"precondition": False}),
    "decoupled, free and not preconditioned": ("decoupled", {"free": True, "precondition": False}),
    "decoupled_linear, free": ("decoupled_linear", {"free": True}),
}


def process(case: str) -> Process:
    target, keywords = CASES[case]
    return Process(SCHEDULES["decoupled" if "decoupled" in target else "cosine"](), TARGETS[target](**keywords), SD)


def exact_net(p: Process):
    """E[y | x_t] as a net that sees what nets see: scaled x_t and c_noise = 1000 t."""

    def net(scaled, c_noise):
        t = c_noise / 1000
        x = scaled / expand(p.c_in(t), scaled)
        at = p.coefficients(t)
        alpha, sigma = expand(at.alpha, x), expand(at.sigma, x)
        kappa = expand(p.target.third.kappa(at), x) if p.target.third else 0.0 * alpha
        excess = (x - alpha * MU) / ((alpha * SD) ** 2 + sigma**2 + kappa**2 * VARIANCE_OF_K)
        third = kappa * VARIANCE_OF_K * excess if p.target.third else None
        y = p.regression_target(MU + alpha * SD**2 * excess, sigma * excess, t, third)
        unlearned = [jnp.zeros_like(x)] * (p.target.heads - len(p.target.lines))
        return jnp.concatenate([y, *unlearned], axis=-1)

    return net


def with_k(p: Process, ts, x):
    """The deterministic step of the linear variant: x_s = alpha x0 + sigma eps + kappa K."""
    denoise = p.denoiser(exact_net(p))

    def step(x, times):
        t, s = times
        found, at = denoise(x, t), p.coefficients(s)
        kappa = p.target.third.kappa(at)
        return at.alpha * found.x0 + at.sigma * found.eps + kappa * found.extra["K"], None

    return jax.lax.scan(step, x, (ts[:-1], ts[1:]))[0]


@functools.cache
def error(case: str, steps: int) -> float:
    """Distance of (mean, deviation) from (MU, SD), starting from the exact distribution of x at ts[0]."""
    p = process(case)
    ts = GRIDS["logsnr"](p, steps)
    alpha, sigma = map(float, p.schedule.alpha_sigma(ts[0]))
    deviation = math.hypot(alpha * SD, sigma)
    x = jnp.float32([alpha * MU, alpha * MU + deviation]).reshape(2, 1, 1, 1)
    if p.target.third:
        out = jax.jit(lambda ts, x: with_k(p, ts, x))(ts, x)
    else:
        keys = jax.random.split(jax.random.key(0), 2)
        denoise = p.denoiser(exact_net(p))
        out = jax.jit(lambda ts, x: sample(p, denoise, SAMPLERS["ddim"](), ts, keys, x=x))(ts, x)
    mean, moved = np.asarray(out, np.float64).ravel()
    return math.hypot(mean - MU, abs(moved - mean) - SD)


@pytest.mark.parametrize("case", CASES)
def test_few_steps_are_as_right_as_the_order_promises(case):
    assert error(case, 50) < 0.08
    for steps in (5, 10):
        assert error(case, steps) < MARGIN * error(case, 50) * 50 / steps, steps
    assert error(case, 50) < 0.7 * error(case, 10) < error(case, 5), "it falls with the steps"


@pytest.mark.parametrize("case", [case for case in CASES if "linear" not in case])
def test_all_targets_of_a_path_give_the_same_sample(case):
    """The exact answer says the same of x0 and eps, whatever it is written in."""
    same = "decoupled, not preconditioned" if "decoupled" in case else "x0"
    # eps is divided by an alpha of 5e-5 in the first step
    assert abs(error(case, 10) - error(same, 10)) < (1e-3 if process(case).target.divides_by_alpha else 2e-5)


def legal(schedule: str, target: str) -> bool:
    try:
        p = Process(SCHEDULES[schedule](), TARGETS[target](), SD)
    except ValueError:
        return False
    return p.target.third is None


def answered(p: Process, x, t):
    """E[y | x_t] of a target, back as a prediction."""
    alpha, sigma = p.schedule.alpha_sigma(t)
    excess = (x - alpha * MU) / ((alpha * SD) ** 2 + sigma**2)
    y = p.regression_target(MU + alpha * SD**2 * excess, sigma * excess, t)
    unlearned = [jnp.zeros_like(x)] * (p.target.heads - len(p.target.lines))
    return p.predict(jnp.concatenate([y, *unlearned], axis=-1), x, t)


@functools.cache
def drawn(schedule: str, target: str, sampler: str, steps: int) -> np.ndarray:
    p = Process(SCHEDULES[schedule](), TARGETS[target](), SD)
    ts, keys = GRIDS["logsnr"](p, steps), jax.random.split(jax.random.key(0), 8)
    go = jax.jit(lambda ts, k: sample(p, lambda x, t: answered(p, x, t), SAMPLERS[sampler](), ts, k, shape=(1, 1, 1)))
    return np.asarray(go(ts, keys), np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_sampler_draws_the_same_through_every_target(schedule, sampler):
    if sampler == "decoupled" and schedule != "decoupled":
        with pytest.raises(ValueError, match="decoupled"):
            drawn(schedule, "x0", sampler, 5)
        return
    for steps in (5, 10, 50):
        wanted = drawn(schedule, "x0", sampler, steps)
        assert np.isfinite(wanted).all()
        for target in TARGETS:
            if target != "x0" and legal(schedule, target):
                # eps is divided by alpha, which is small in the first steps
                atol = 5e-3 if TARGETS[target]().divides_by_alpha else 5e-4
                found = drawn(schedule, target, sampler, steps)
                np.testing.assert_allclose(found, wanted, rtol=5e-5, atol=atol, err_msg=target)
