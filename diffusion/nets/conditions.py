"""Conditioners: one condition of the batch to the ports of a backbone, with a learned null."""

from dataclasses import replace

import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.layers import Dense
from diffusion.types import Array, Ports

AUGMENT = "augment"  # the name of the numbers of `diffusion.augment` in a Cond
SET = "set"  # the name of an ImageSet in a Cond


class Label(nn.Module):
    """Class labels to the ``vec`` port; row k of the table is the null."""

    classes: int
    d: int
    timed = False

    def encode(self, label: Array, c_noise: Array | None) -> Array:
        return label

    @nn.compact
    def __call__(self, label: Array, null: Array, c_noise: Array | None = None) -> Ports:
        """label i32[b] in [0, k), null bool[b] -> Ports(vec=[b d])."""
        table = nn.Embed(self.classes + 1, self.d, embedding_init=nn.initializers.ones_init(), name="table")
        return Ports(vec=table(jnp.where(null, self.classes, label)))


def label(classes: int, *, d: int = 128) -> Label:
    """A learned vector of width d per class, and one for the null."""
    if d < 1:
        raise ValueError(f"d is {d}; it must be positive")
    return Label(classes, d)


class AugmentLabel(nn.Module):
    """The numbers of an augmentation to the ``vec`` port, without a bias: zeros change nothing (Karras 2022, F.2).

    It has no null and is never dropped: nothing was done to the images that a net draws, with guidance or without.
    """

    numbers: int
    d: int = 128

    @nn.compact
    def __call__(self, label: Array, ports: Ports) -> Ports:
        """label f32[b numbers], ports of the other conditions -> ports; a vec that is there keeps its width."""
        d = self.d if ports.vec is None else ports.vec.shape[-1]
        vec = Dense(d, use_bias=False, name="map")(label)
        return replace(ports, vec=vec if ports.vec is None else ports.vec + vec)


def merge(ports: list[Ports]) -> Ports:
    """Several conditions at the same ports: vectors are added, tokens and channels appended."""
    vec = [p.vec for p in ports if p.vec is not None]
    seq = [p for p in ports if p.seq is not None]
    grid = [p.grid for p in ports if p.grid is not None]
    valid = [jnp.ones(p.seq.shape[:2], bool) if p.seq_valid is None else p.seq_valid for p in seq]
    return Ports(
        vec=sum(vec[1:], vec[0]) if vec else None,
        seq=jnp.concatenate([p.seq for p in seq], axis=1) if seq else None,
        seq_valid=jnp.concatenate(valid, axis=1) if seq else None,
        grid=jnp.concatenate(grid, axis=-1) if grid else None,
    )


CONDITIONS = {"label": label}
