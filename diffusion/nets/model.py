"""A backbone with its conditioners, and the way out of Linen: a pure ``init`` and ``apply``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.conditions import merge
from diffusion.types import Array, Cond, Params


class Model(nn.Module):
    backbone: nn.Module
    conditioners: Mapping[str, nn.Module]

    def __call__(self, x: Array, c_noise: Array, cond: Cond, null: Mapping[str, Array], keys: Array | None) -> Array:
        ports = merge([self.conditioners[name](cond[name], null[name]) for name in sorted(self.conditioners)])
        return self.backbone(x, c_noise, ports, keys)


@dataclass(frozen=True)
class Net:
    """Pure functions of plain dicts of arrays.

    Attributes:
      init: typed key -> params.
      apply: (params, x [b h w c], c_noise f32[b], cond, null {name: bool[b]}, keys [b] or None) -> f32[b h w c'].
      shape: (h, w, c) of one input.
      conditions: names of the conditions it reads from a batch, in order.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Array]
    shape: tuple[int, int, int]
    conditions: tuple[str, ...]


def make_net(
    backbone: nn.Module, conditioners: Mapping[str, nn.Module], shape: tuple[int, int, int], cond: Cond
) -> Net:
    """Close over a module.

    Args:
      shape: (h, w, c) of one input.
      cond: one example row per condition, [1 ...], for shapes and dtypes.
    """
    model = Model(backbone, dict(conditioners))
    names = tuple(sorted(conditioners))

    def init(key: Array) -> Params:
        null = {name: jnp.zeros(1, bool) for name in names}
        x = jnp.zeros((1, *shape))
        declared = model.init(key, x, jnp.zeros(1), {name: cond[name] for name in names}, null, None)["params"]
        return _draw(declared, key)

    def apply(params, x, c_noise, cond, null, keys=None):
        return model.apply({"params": params}, x, c_noise, cond, null, keys)

    return Net(jax.jit(init), apply, shape, names)


def _draw(declared: Params, key: Array) -> Params:
    """Kernels and embeddings declare their deviation; one normal draw, cut into pieces, fills them all."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(declared)
    random = [path[-1].key in ("kernel", "embedding") for path, _ in leaves]
    sizes = [leaf.size if drawn else 0 for (_, leaf), drawn in zip(leaves, random, strict=True)]
    normal = jax.random.normal(key, (sum(sizes),))
    filled, start = [], 0
    for (_, leaf), size in zip(leaves, sizes, strict=True):
        filled.append(leaf * normal[start : start + size].reshape(leaf.shape) if size else leaf)
        start += size
    return treedef.unflatten(filled)
