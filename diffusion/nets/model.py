"""A backbone with its conditioners, and the way out of Linen: a pure ``init_with_output`` and ``apply``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.conditions import AUGMENT, AugmentLabel, merge
from diffusion.types import Array, Cond, Params


class Model(nn.Module):
    backbone: nn.Module
    conditioners: Mapping[str, nn.Module]
    augment: AugmentLabel | None = None

    def __call__(self, x: Array, c_noise: Array, cond: Cond, null: Mapping[str, Array], keys: Array | None) -> Array:
        ports = merge([self.conditioners[name](cond[name], null[name], c_noise) for name in sorted(self.conditioners)])
        if self.augment is not None:
            label = cond[AUGMENT] if AUGMENT in cond else jnp.zeros((x.shape[0], self.augment.numbers))
            ports = self.augment(label, ports)
        return self.backbone(x, c_noise, ports, keys)

    def encode(self, cond: Cond, c_noise: Array | None) -> dict[str, Any]:
        """What of the conditions can be worked out before the backbone is called; with no ``c_noise``, at no time."""
        ready = [name for name, one in self.conditioners.items() if c_noise is not None or not one.timed]
        return {**cond, **{name: self.conditioners[name].encode(cond[name], c_noise) for name in ready}}


@dataclass(frozen=True)
class Net:
    """Pure functions of plain dicts of arrays.

    Attributes:
      init_with_output: typed key -> (params, f32[1 h w c'] as ``apply`` answers, of weights before they are drawn).
      apply: (params, x [b h w c], c_noise f32[b], cond, null {name: bool[b]}, keys [b] or None) -> f32[b h w c'].
      shape: (h, w, c) of one input.
      conditions: names of the conditions it reads from a batch, in order; the numbers of an augmentation are none of
        them: ``cond`` may hold them as "augment", and they are zeros where it does not.
      encode: (params, cond, c_noise f32[b] or None) -> (cond, penalties {name: f32[b]}). ``apply`` takes conditions
        encoded or not; encoded once they need not be read at every step of a sampler. Those that depend on the time
        are left as they are where there is none. Penalties are terms of the training loss.
      example: one row of every condition, [1 ...], for shapes and dtypes.
    """

    init_with_output: Callable[[Array], tuple[Params, Array]]
    apply: Callable[..., Array]
    shape: tuple[int, int, int]
    conditions: tuple[str, ...]
    encode: Callable[..., tuple[Cond, dict[str, Array]]] = lambda params, cond, c_noise: (cond, {})
    example: Cond = field(default_factory=dict, compare=False)  # so that a net can be the key of a cache

    @cached_property
    def init(self) -> Callable[[Array], Params]:
        """Typed key -> params; nothing else is computed."""
        return jax.jit(lambda key: self.init_with_output(key)[0])


def make_net(
    backbone: nn.Module,
    conditioners: Mapping[str, nn.Module],
    shape: tuple[int, int, int],
    cond: Cond,
    augment: AugmentLabel | None = None,
) -> Net:
    """Close over a module.

    Args:
      shape: (h, w, c) of one input.
      cond: one example row per condition, [1 ...], for shapes and dtypes.
      augment: what reads the numbers of an augmentation.
    """
    model = Model(backbone, dict(conditioners), augment)
    names = tuple(sorted(conditioners))
    example = {name: cond[name] for name in names}

    @jax.jit
    def init_with_output(key: Array) -> tuple[Params, Array]:
        null = {name: jnp.zeros(1, bool) for name in names}
        x = jnp.zeros((1, *shape))
        answer, declared = model.init_with_output(key, x, jnp.zeros(1), example, null, None)
        return _draw(declared["params"], key), answer

    def apply(params, x, c_noise, cond, null, keys=None):
        return model.apply({"params": params}, x, c_noise, cond, null, keys)

    def encode(params, cond, c_noise):
        cond, sown = model.apply({"params": params}, cond, c_noise, method="encode", mutable=["penalty"])
        return cond, {path[-1].key: value for path, value in jax.tree_util.tree_leaves_with_path(sown)}

    return Net(init_with_output, apply, shape, names, encode, example)


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
