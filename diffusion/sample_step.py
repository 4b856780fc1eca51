"""The jitted step that turns keys and conditions into images, and the settings that it is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion.batch_losses import Diffusion, in_net_units
from diffusion.guidance import Correction, cfg, compose, interval, known_pixels, rescale, spherical
from diffusion.mesh import as_given, gathered, over_rows, replicated
from diffusion.nets.model import Net
from diffusion.process import Process
from diffusion.samplers import Rule, per_image_normal, sample
from diffusion.types import Array, Cond, Denoiser, Frozen, Params

# Of an image's key: 0 is its first noise, and the steps count up from 1.
THIRD_STREAM, CONTEXT_STREAM = 2**31, 2**31 + 1


@dataclass(frozen=True)
class Weaker:
    """Another run's net on the same schedule and conditions: what autoguidance leads away from (Karras 2024).

    Attributes:
      folder, step: of the run and its checkpoint, whose EMA weights are an argument of the sample step.
    """

    net: Net
    process: Process
    folder: Path
    step: str


@dataclass(frozen=True)
class Guidance:
    """How the condition is exaggerated.

    Attributes:
      scale: w of u + w (c - u), u being the null's answer or the weaker net's.
      scales: (name, w_i) of the conditions that have one of their own: u + sum of w_i (c_i - u).
      interval: (low, high] of sigma / alpha in which there is guidance; a high of 0 is no upper end.
      rescale: phi, from 0 (off) to 1: how much of the condition's deviation is given back.
    """

    scale: float
    scales: tuple[tuple[str, float], ...] = ()
    interval: tuple[float, float] = (0.0, 0.0)
    rescale: float = 0.0
    weaker: Weaker | None = None

    def nets(self, conditions: tuple[str, ...]) -> int:
        """How many nets answer one call of the guided denoiser."""
        if self.scales:
            return len(self.scales) + 1 + bool(len(self.scales) > 1 and self.corrected)
        if self.scale == 1 or not (conditions or self.weaker):
            return 1
        return 1 if self.scale == 0 and not self.corrected else 2

    @property
    def corrected(self) -> bool:
        return self.rescale > 0 or self.interval != (0.0, 0.0)

    def corrections(self, process: Process) -> list[Correction]:
        found = [rescale(process, phi=self.rescale)] if self.rescale else []
        return found + ([interval(process, *self.interval)] if self.interval != (0.0, 0.0) else [])


@dataclass(frozen=True)
class Sampling:
    """How images are drawn: a rule along ``times()``, with guidance and a threshold of x0."""

    rule: Rule
    times: Callable[[], Array]
    guidance: Guidance
    threshold: Callable[[Denoiser], Denoiser]


class Held(NamedTuple):
    """Weights that a sample step uses beside the net's: the codec's, and the weaker net's where there is one."""

    codec: Frozen = None
    weaker: Params = None


Given = Mapping[str, Any]
"""What images start from beside their keys, each by image: ``image`` u8[b h w c], and ``known`` bool[b h w 1] where its
pixels are to stay; ``toward`` keys [b] and ``share`` f32[b] of the way there from the image's own noise."""


def make_sample_step(
    diffusion: Diffusion, sampling: Sampling, mesh: Mesh, *, first: int = 0, trajectory: bool = False
) -> Callable[[Params, Held, Array, Cond, Given], Array]:
    """(params, held, keys [b], cond, given) -> u8[b h w c], replicated; one key per image.

    Args:
      first: of the times to start from, for a start from images.
      trajectory: return u8[b n + 1 h w c] instead: the x0 predicted at each of n steps, then the image.
    """
    process, codec, shape = diffusion.process, diffusion.codec, diffusion.net.shape

    def sample_step(params: Params, held: Held, image_keys: Array, cond: Cond, given: Given) -> Array:
        ts, params = sampling.times()[first:], gathered(mesh, params)
        held = held._replace(weaker=gathered(mesh, held.weaker))
        context_keys = jax.vmap(lambda key: jax.random.fold_in(key, CONTEXT_STREAM))(image_keys)
        cond = in_net_units(codec, held.codec, cond, context_keys, random=True)
        denoise = _guided(diffusion, sampling.guidance, params, held, cond, image_keys.shape[0])
        denoise = sampling.threshold(denoise)
        noise = _initial_noise(image_keys, given, shape)
        x = process.schedule.alpha_sigma(ts[0])[1] * noise
        if "image" in given:
            image, third = codec.net_units(held.codec, given["image"]), process.target.third
            k = third.draw(per_image_normal(image_keys, THIRD_STREAM, shape)) if third else None
            x = process.perturb(image, noise, ts[0], k)
            if "known" in given:
                denoise = known_pixels(process, image, given["known"])(denoise)
        if not trajectory:
            return codec.decode(held.codec, sample(process, denoise, sampling.rule, ts, image_keys, x=x))
        x0, seen = sample(process, denoise, sampling.rule, ts, image_keys, x=x, trajectory=True)
        path = [codec.decode(held.codec, answer) for answer in (*seen, x0)]
        return jnp.stack(path, axis=1)

    rows, whole = over_rows(mesh), replicated(mesh)
    return jax.jit(sample_step, in_shardings=(as_given(mesh), as_given(mesh), rows, rows, rows), out_shardings=whole)


def _guided(d: Diffusion, g: Guidance, params: Params, held: Held, cond: Cond, b: int) -> Denoiser:
    encoded, _ = d.net.encode(params, cond, None)  # once for all steps

    def own(*dropped: str) -> Denoiser:
        nulls = {name: jnp.full(b, name in dropped) for name in d.net.conditions}
        return d.process.denoiser(lambda x, c_noise: d.net.apply(params, x, c_noise, encoded, nulls))

    def weaker() -> Denoiser:
        net, nulls = g.weaker.net, {name: jnp.zeros(b, bool) for name in g.weaker.net.conditions}
        theirs, _ = net.encode(held.weaker, cond, None)
        return g.weaker.process.denoiser(lambda x, c_noise: net.apply(held.weaker, x, c_noise, theirs, nulls))

    corrections = g.corrections(d.process)
    if g.scales:
        names = [name for name, _ in g.scales]
        # a condition that is not named stays given in every term
        terms = [(own(*(other for other in names if other != name)), w) for name, w in g.scales]
        if len(terms) == 1:
            return cfg(terms[0][0], own(*names), terms[0][1], *corrections)
        return compose(own(), own(*names), terms, *corrections)
    if g.nets(d.net.conditions) == 2:
        return cfg(own(), weaker() if g.weaker else own(*d.net.conditions), g.scale, *corrections)
    if g.scale == 0:
        return weaker() if g.weaker else own(*d.net.conditions)
    return own()


def _initial_noise(image_keys: Array, given: Given, shape: tuple[int, ...]) -> Array:
    noise = per_image_normal(image_keys, 0, shape)
    if "toward" not in given:
        return noise
    return spherical(noise, per_image_normal(given["toward"], 0, shape), given["share"])
