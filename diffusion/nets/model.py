"""A backbone with its conditioners, and the way out of Linen: a pure ``init`` and ``apply``."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        ports = merge([self.conditioners[name](cond[name], null[name]) for name in sorted(self.conditioners)])
        if self.augment is not None:
            label = cond[AUGMENT] if AUGMENT in cond else jnp.zeros((x.shape[0], self.augment.numbers))
            ports = self.augment(label, ports)
        return self.backbone(x, c_noise, ports, keys)


@dataclass(frozen=True)
class Net:
    """Pure functions of plain dicts of arrays.

    Attributes:
      init: typed key -> params.
      apply: (params, x [b h w c], c_noise f32[b], cond, null {name: bool[b]}, keys [b] or None) -> f32[b h w c'].
      shape: (h, w, c) of one input.
      conditions: names of the conditions it reads from a batch, in order; the numbers of an augmentation are none of
        them: ``cond`` may hold them as "augment", and they are zeros where it does not.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Array]
    shape: tuple[int, int, int]
    conditions: tuple[str, ...]


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

    def init(key: Array) -> Params:
        null = {name: jnp.zeros(1, bool) for name in names}
        x = jnp.zeros((1, *shape))
        declared = model.init(key, x, jnp.zeros(1), {name: cond[name] for name in names}, null, None)["params"]
        return _draw(declared, key)

    def apply(params, x, c_noise, cond, null, keys=None):
        return model.apply({"params": params}, x, c_noise, cond, null, keys)

    return Net(jax.jit(init), apply, shape, names)


def with_layers(apply: Callable[..., Any], *given: Any) -> tuple[Any, OrderedDict[str, Array]]:
    """``apply(*given)``, and for every layer whether what it answered is finite, bool[].

    Layers stand in the order in which they finished, by their path (``backbone/down0_0/conv1``; the whole is ""), so
    the first that is False is the innermost that spoiled the rest. One that is called again ends in ``#2``. To be
    called while tracing; not for nets with Linen's lifted transforms (``nn.remat``, ``nn.scan``), which trace inside.
    """
    found: OrderedDict[str, Array] = OrderedDict()

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        answer = call(*args, **kwargs)
        if context.method_name == "__call__":
            path, times = "/".join(context.module.path), 1
            while (name := path if times == 1 else f"{path}#{times}") in found:
                times += 1
            found[name] = all_finite(answer)
        return answer

    with nn.intercept_methods(note):
        return apply(*given), found


def all_finite(tree: Any) -> Array:
    """bool[]: no number of any kind in it is NaN or infinite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.array(True)


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
