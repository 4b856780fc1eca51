"""Conditioners: one condition of the batch to the ports of a backbone, with a learned null."""

import jax.numpy as jnp
from flax import linen as nn

from diffusion.types import Array, Ports


class Label(nn.Module):
    """Class labels to the ``vec`` port; row k of the table is the null."""

    classes: int
    d: int

    @nn.compact
    def __call__(self, label: Array, null: Array) -> Ports:
        """label i32[b] in [0, k), null bool[b] -> Ports(vec=[b d])."""
        table = nn.Embed(self.classes + 1, self.d, embedding_init=nn.initializers.ones_init(), name="table")
        return Ports(vec=table(jnp.where(null, self.classes, label)))


def label(classes: int, *, d: int = 128) -> Label:
    """A learned vector of width d per class, and one for the null."""
    if d < 1:
        raise ValueError(f"d is {d}; it must be positive")
    return Label(classes, d)


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
