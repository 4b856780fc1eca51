"""The sample step: which nets answer, what images start from, and the way that is returned."""

import functools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.guidance import THRESHOLDS
from diffusion.mesh import make_mesh, sharded
from diffusion.nets.model import Net
from diffusion.process import TARGETS, Process
from diffusion.sample_step import Guidance, Held, Sampling, Weaker, make_sample_step
from diffusion.samplers import GRIDS, SAMPLERS, sample
from diffusion.schedules import SCHEDULES
from tests.test_steps import PROCESS, SHAPE, diffusion

KEYS = jax.random.split(jax.random.key(7), 4)
COND = {"a": jnp.arange(4.0), "b": jnp.arange(4.0)[::-1]}
PARAMS, WEAK = {"x": jnp.float32(0.3)}, {"x": jnp.float32(0.1)}
TIMES = functools.partial(GRIDS["uniform"], PROCESS, 4)


def answer(params, x, c_noise, cond, null, keys=None):
    """x times a weight, and a ramp for every condition that is given."""
    shift = sum(jnp.where(null[name], 0.0, (i + 1) * (value - 1.5)) for i, (name, value) in enumerate(cond.items()))
    return (
        params["x"][None, None, None, None] * x
        + 0.2 * shift[:, None, None, None] * jnp.linspace(-1, 1, SHAPE[1])[None, None, :, None]
    )


NET = Net(lambda key: (PARAMS, None), answer, SHAPE, ("a", "b"))
WEAKER = Weaker(NET, Process(SCHEDULES["cosine"](), TARGETS["x0"]()), Path("runs/weak"), "latest")


def denoiser(*dropped: str, params=PARAMS, process=PROCESS):
    null = {name: jnp.full(4, name in dropped) for name in "ab"}
    return process.denoiser(lambda x, c_noise: answer(params, x, c_noise, COND, null))


def drawn(guidance: Guidance, given=None, name="ddim", **options) -> np.ndarray:
    sampling = Sampling(SAMPLERS[name](), TIMES, guidance, THRESHOLDS["none"](PROCESS))
    step = make_sample_step(diffusion(NET), sampling, make_mesh(1), **options)
    return np.asarray(step(PARAMS, Held(None, WEAK if guidance.weaker else None), KEYS, COND, given or {})).astype(int)


def by_hand(denoise, **start) -> np.ndarray:
    """u8[b h w c] of a denoiser, by `sample`."""
    start = start or {"shape": SHAPE}
    x0 = jax.jit(lambda: sample(PROCESS, denoise, SAMPLERS["ddim"](), start.pop("ts", TIMES()), KEYS, **start))()
    return np.floor(np.clip(np.asarray(x0) * 127.5 + 127.5, 0, 255) + 0.5).astype(int)


def mixed(u, *terms):
    """u + sum of w (c - u), in x0 and eps."""

    def denoise(x, t):
        base = u(x, t)
        parts = [jax.tree.map(lambda a, b, w=w: w * (a - b), c(x, t), base) for c, w in terms]
        return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts, base)

    return denoise


u, weak = denoiser("a", "b"), denoiser(params=WEAK, process=WEAKER.process)
CASES = {  # case: (guidance, the denoiser that it stands for, net calls a step)
    "1 is the condition alone": (Guidance(1.0), denoiser(), 1),
    "0 is the null alone": (Guidance(0.0), u, 1),
    "cfg": (Guidance(2.0), mixed(u, (denoiser(), 2.0)), 2),
    "a weaker net takes the null's place": (Guidance(2.0, weaker=WEAKER), mixed(weak, (denoiser(), 2.0)), 2),
    "0 is the weaker net alone": (Guidance(0.0, weaker=WEAKER), weak, 1),
    "1 does not ask the weaker net": (Guidance(1.0, weaker=WEAKER), denoiser(), 1),
    "a scale each": (
        Guidance(9.0, scales=(("a", 2.0), ("b", 0.5))),
        mixed(u, (denoiser("b"), 2.0), (denoiser("a"), 0.5)),
        3,
    ),
    "one that is not named stays given": (
        Guidance(9.0, scales=(("a", 2.0),)),
        mixed(denoiser("a"), (denoiser(), 2.0)),
        2,
    ),
    "an interval that holds nothing": (Guidance(9.0, interval=(1e6, 1e7)), denoiser(), 2),
    "nor with a scale each": (Guidance(9.0, scales=(("a", 2.0), ("b", 0.5)), interval=(1e6, 1e7)), denoiser(), 4),
    "the null alone, inside": (Guidance(0.0, interval=(1e6, 1e7)), denoiser(), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_guidance_of_a_step(case, monkeypatch):
    guidance, denoise, nets = CASES[case]
    calls = []
    counted = replace(NET, apply=lambda *given: calls.append(1) or answer(*given))
    monkeypatch.setitem(globals(), "NET", counted)
    if guidance.weaker:
        guidance = replace(guidance, weaker=replace(guidance.weaker, net=counted))
    found = drawn(guidance)
    assert np.abs(found - by_hand(denoise)).max() <= 1 and found.std() > 10
    assert len(calls) == nets == guidance.nets(NET.conditions)


def test_shared_weights_of_both_nets_are_whole_where_they_are_used():
    """Used in parts, the weaker net's would give other bits in another layout, and talk where nothing must be said."""
    lying = []

    def apply(params, x, *given):
        jax.debug.inspect_array_sharding(params["w"], callback=lambda where: lying.append(where.is_fully_replicated))
        return x * params["w"].mean()

    net, mesh = Net(lambda key: (PARAMS, None), apply, SHAPE, ("a", "b")), make_mesh(1, 2)
    guidance = Guidance(2.0, weaker=Weaker(net, PROCESS, Path("runs/weak"), "latest"))
    sampling = Sampling(SAMPLERS["ddim"](), TIMES, guidance, THRESHOLDS["none"](PROCESS))
    large = {"w": jnp.ones((64, 32))}
    large = jax.device_put(large, sharded(mesh, large))
    make_sample_step(diffusion(net), sampling, mesh)(large, Held(None, large), KEYS, COND, {})
    assert len(lying) == 2 and all(lying)


def test_rescale_changes_what_is_drawn():
    plain, rescaled = drawn(Guidance(4.0)), drawn(Guidance(4.0, rescale=1.0))
    assert np.abs(plain - rescaled).max() > 5


IMAGES = np.random.default_rng(3).integers(0, 256, (4, *SHAPE), np.uint8)


def test_a_start_from_images():
    """alpha x + sigma eps at the third time, then the rest of the grid."""
    ts = TIMES()[2:]
    alpha, sigma = PROCESS.schedule.alpha_sigma(ts[0])
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), SHAPE))(KEYS)
    wanted = by_hand(denoiser(), ts=ts, x=alpha * (IMAGES / 127.5 - 1.0) + sigma * noise)
    assert np.abs(drawn(Guidance(1.0), {"image": IMAGES}, first=2) - wanted).max() <= 1


def test_a_start_from_images_holds_the_third_variable_too():
    """A net that answers zeros sees x_t itself: what is neither image nor noise there is kappa K, K in [-1, 1]."""
    linear = Process(SCHEDULES["decoupled"](), TARGETS["decoupled_linear"]())
    zeros = Net(lambda key: (PARAMS, None), lambda params, x, *given: jnp.tile(jnp.zeros_like(x), 3), SHAPE, ("a", "b"))
    times = functools.partial(GRIDS["uniform"], linear, 4)
    sampling = Sampling(SAMPLERS["decoupled"](), times, Guidance(1.0), THRESHOLDS["none"](linear))
    step = make_sample_step(replace(diffusion(zeros), process=linear), sampling, make_mesh(1), first=2, trajectory=True)
    seen = np.asarray(step(PARAMS, Held(), KEYS, COND, {"image": IMAGES}))[:, 0] / 127.5 - 1.0
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), SHAPE))(KEYS)
    k = (seen - 0.5 * (IMAGES / 127.5 - 1.0) - 0.5**0.5 * np.asarray(noise)) / (0.5 * 0.5 * -0.5)
    k = k[np.abs(seen) < 0.99]
    assert np.abs(k).max() < 1.05 and 0.6 < k.std() < 0.85  # N(0, 1) clipped has .72, and a byte is .03 wide


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m", "unipc"])
def test_known_pixels_are_those_of_the_start(name):
    known = np.random.default_rng(4).random((4, *SHAPE[:2], 1)) < 0.5
    found = drawn(Guidance(2.0), {"image": IMAGES, "known": known}, name=name)
    kept = np.broadcast_to(known, found.shape)
    np.testing.assert_array_equal(found[kept], IMAGES[kept])
    assert np.mean(found[~kept] == IMAGES[~kept]) < 0.2


def test_between_two_images():
    toward = KEYS[np.array([1, 2, 3, 0])]
    found = {
        share: drawn(Guidance(1.0), {"toward": toward, "share": np.full(4, share, np.float32)}) for share in (0, 0.5)
    }
    assert np.abs(found[0] - drawn(Guidance(1.0))).max() <= 1
    assert np.abs(found[0.5] - found[0]).max() > 10


def test_the_way_of_an_image():
    ways = drawn(Guidance(2.0), trajectory=True)
    assert ways.shape == (4, 5, *SHAPE)
    assert np.abs(ways[:, -1] - drawn(Guidance(2.0))).max() <= 1
    assert np.abs(ways[:, 0] - ways[:, -1]).max() > 5
