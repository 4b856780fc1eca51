"""Samplers, guidance and weights against Hugging Face's diffusers, on torch: `make test-second-opinion`.

Both sides step through the same times with the same denoiser, which is not linear, and the same noise.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.guidance import THRESHOLDS, cfg, rescale
from diffusion.objective import WEIGHTINGS
from diffusion.process import TARGETS, Process
from diffusion.samplers import GRIDS, SAMPLERS, sample
from diffusion.schedules import SCHEDULES
from diffusion.types import Prediction

pytestmark = pytest.mark.second_opinion

LINEAR, EDM, FLOW = (Process(SCHEDULES[name](), TARGETS["x0"]()) for name in ("linear", "edm", "flow"))
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 4, 4, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 2)


def bent(x, alpha, sigma, tanh):
    """x0 of x_t; for NumPy, JAX and torch alike."""
    return tanh(1.5 * x / (alpha + sigma)) - 0.1 * x / (1 + sigma)


def ours(process: Process, name: str, ts, x, share: float | None = None, **keywords) -> np.ndarray:
    def denoise(x_t, t):
        alpha, sigma = process.schedule.alpha_sigma(t)
        x0 = bent(x_t, alpha, sigma, jnp.tanh)
        extra = {} if share is None else {"variance_share": jnp.full_like(x_t, share)}
        return Prediction(x0, (x_t - alpha * x0) / sigma, extra)

    go = jax.jit(lambda ts, x: sample(process, denoise, SAMPLERS[name](**keywords), ts, KEYS, x=x))
    return np.asarray(go(jnp.asarray(ts), jnp.asarray(x)))


def their_noise(monkeypatch, module) -> None:
    """Our noise, step after step, where diffusers draws its own."""
    import torch

    drawn = iter(range(1, 1000))

    def randn(shape, **about):
        i = next(drawn)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(KEYS)
        z = jax.vmap(lambda key: jax.random.normal(key, X.shape[1:]))(keys)
        return torch.from_numpy(np.asarray(z, np.float64).copy())

    monkeypatch.setattr(module, "randn_tensor", randn)


def theirs(scheduler, answer, x) -> np.ndarray:
    """The end of the scheduler's path; ``answer`` is (x, index) -> what its model would say."""
    import torch

    x = torch.from_numpy(x.astype(np.float64))
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(answer(x, i), t, x).prev_sample
    return x.numpy()


def eps_of(scheduler):
    """The eps of `bent` on a discrete schedule."""
    import torch

    def answer(x, i):
        abar = scheduler.alphas_cumprod[scheduler.timesteps[i]].double()
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        return (x - alpha * bent(x, alpha, sigma, torch.tanh)) / sigma

    return answer


def close(found, wanted) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


# Not trailing with large: diffusers then adds noise to the last image too, whose t is above 0, and we never do.
@pytest.mark.parametrize(
    "grid, variance",
    [
        ("leading", "small"),
        ("leading", "large"),
        ("leading", "learned"),
        ("trailing", "small"),
        ("trailing", "learned"),
    ],
)
def test_ddpm(grid, variance, monkeypatch):
    import torch
    from diffusers.schedulers import scheduling_ddpm

    their_noise(monkeypatch, scheduling_ddpm)
    kind = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}[variance]
    scheduler = scheduling_ddpm.DDPMScheduler(timestep_spacing=grid, clip_sample=False, variance_type=kind)
    scheduler.set_timesteps(10)
    eps, share = eps_of(scheduler), 0.3
    # diffusers has channels second; where the variance is learned it expects them doubled there
    answer = {"learned": lambda x, i: torch.cat([eps(x, i), torch.full_like(x, 2 * share - 1)], dim=1)}.get(
        variance, eps
    )
    found = ours(LINEAR, "ddpm", GRIDS[grid](LINEAR, 10), X, share, variance=variance)
    close(found, theirs(scheduler, answer, X))


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("grid", ["leading", "trailing"])
def test_ddim(grid, eta, monkeypatch):
    from diffusers.schedulers import scheduling_ddim

    their_noise(monkeypatch, scheduling_ddim)
    scheduler = scheduling_ddim.DDIMScheduler(beta_start=1e-4, beta_end=0.02, timestep_spacing=grid, clip_sample=False)
    scheduler.set_timesteps(20)
    step = scheduler.step
    monkeypatch.setattr(scheduler, "step", lambda *given: step(*given, eta=eta))
    close(ours(LINEAR, "ddim", GRIDS[grid](LINEAR, 20), X, eta=eta), theirs(scheduler, eps_of(scheduler), X))


@pytest.mark.parametrize("name, algorithm", [("dpmpp_2m", "dpmsolver++"), ("dpmpp_2m_sde", "sde-dpmsolver++")])
def test_dpm_solver_on_edm(name, algorithm, monkeypatch):
    import torch
    from diffusers.schedulers import scheduling_edm_dpmsolver_multistep as module

    their_noise(monkeypatch, module)
    scheduler = module.EDMDPMSolverMultistepScheduler(algorithm_type=algorithm, solver_order=2)
    scheduler.set_timesteps(12)
    sigmas, sd = scheduler.sigmas.double(), 0.5

    def answer(x, i):
        """What its model would say, so that its preconditioning makes `bent` of it."""
        sigma = sigmas[i]
        c_skip, c_out = sd**2 / (sigma**2 + sd**2), sigma * sd / (sigma**2 + sd**2) ** 0.5
        return (bent(x, 1.0, sigma, torch.tanh) - c_skip * x) / c_out

    np.testing.assert_allclose(GRIDS["karras"](EDM, 12), sigmas, rtol=2e-5)
    x = 80 * X
    close(ours(EDM, name, np.float32(sigmas), x), theirs(scheduler, answer, x))


def test_flow_euler():
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    ts = np.asarray(GRIDS["shifted"](FLOW, 8))
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=ts[:-1].tolist())

    def velocity(x, i):
        t = float(ts[i])
        x0 = bent(x, 1 - t, t, torch.tanh)
        return (x - x0) / t  # eps - x0

    close(ours(FLOW, "euler", ts, X), theirs(scheduler, velocity, X))


def test_rescaled_guidance():
    """Theirs acts on what the net answers, ours on x0: the same function of arrays."""
    import torch
    from diffusers.guiders.guider_utils import rescale_noise_cfg

    c, u = (RANDOM.standard_normal(X.shape).astype(np.float32) for _ in range(2))
    sides = [lambda x, t, x0=x0: Prediction(jnp.asarray(x0), jnp.zeros_like(x)) for x0 in (c, u)]
    found = cfg(*sides, 4.0, rescale(FLOW, phi=0.7))(jnp.asarray(X), jnp.float32(0.5)).x0
    wanted = rescale_noise_cfg(torch.from_numpy(u + 4.0 * (c - u)), torch.from_numpy(c), guidance_rescale=0.7)
    close(found, wanted.numpy())


def test_dynamic_threshold():
    import torch
    from diffusers import DDPMScheduler

    x0 = X * np.array([0.3, 2.0], np.float32).reshape(2, 1, 1, 1)
    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0)
    wanted = scheduler._threshold_sample(torch.from_numpy(x0)).numpy()
    denoise = lambda x, t: Prediction(jnp.asarray(x0), x)  # noqa: E731
    found = THRESHOLDS["dynamic"](FLOW, quantile=0.9, maximum=2.0)(denoise)(jnp.asarray(X), jnp.float32(0.5)).x0
    close(found, wanted)


@pytest.mark.parametrize("target", ["eps", "v", "x0"])
def test_min_snr(target):
    import torch
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    steps, scheduler = torch.arange(1000), DDPMScheduler()
    # 1 - abar in float32 has lost four digits at the first steps
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    snr = compute_snr(scheduler, steps)
    wanted = torch.clamp(snr, max=5.0) / {"eps": snr, "v": snr + 1, "x0": torch.ones_like(snr)}[target]
    process = Process(SCHEDULES["linear"](), TARGETS[target]())
    found = WEIGHTINGS["min_snr"](gamma=5.0).weigh(process, (jnp.arange(1000) + 1) / 1000)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)
