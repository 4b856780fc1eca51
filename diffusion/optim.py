"""Optimisers as unit-rate directions, and gradient clips.

A row of `OPTIMIZERS` maps gradients to a direction that holds no learning rate; the step applies
``params - rate * direction``, so the rate is a number inside the step and never hides in a state.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffusion.part_rules import Rule, per_part

Tx = optax.GradientTransformation


def make_optimizer(optimizer: Tx, clip: Tx, parts: Mapping[str, Rule] = MappingProxyType({})) -> Tx:
    """Clip the gradients, then turn them into a direction.

    Args:
      parts: the rule of every part of the net; without one that says anything, the state holds nothing of parts.
    """
    if all(rule == Rule() for rule in parts.values()):
        return optax.chain(clip, optimizer)
    return per_part(optimizer, clip, parts)


def apply(params: Any, direction: Any, rate: jax.Array) -> Any:
    """params - rate * direction, in the type of the params."""
    return jax.tree.map(lambda p, d: (p - rate * d).astype(p.dtype), params, direction)


def decay_mask(params: Any) -> Any:
    """True where weight decay acts: leaves whose own name is ``kernel`` and whose rank is at least 2.

    So dense and convolution kernels decay; biases, norm scales, embedding tables, learned null tokens and
    position tables do not, whatever their rank.
    """

    def decays(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return name == "kernel" and jnp.ndim(leaf) >= 2

    return jax.tree_util.tree_map_with_path(decays, params)


def adamw(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01) -> Tx:
    """Adam with decoupled weight decay on kernels. Loshchilov 2019."""
    _check(b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    return optax.chain(optax.scale_by_adam(b1, b2, eps), optax.add_decayed_weights(weight_decay, decay_mask))


def adam(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Tx:
    """Kingma 2015, algorithm 1."""
    _check(b1=b1, b2=b2, eps=eps)
    return optax.scale_by_adam(b1, b2, eps)


def radam(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Tx:
    """Rectified Adam: no warm-up needed. Liu 2020, algorithm 2."""
    _check(b1=b1, b2=b2, eps=eps)
    return optax.scale_by_radam(b1, b2, eps)


def lion(*, b1: float = 0.9, b2: float = 0.99, weight_decay: float = 0.1) -> Tx:
    """The sign of a momentum; wants a rate 3 to 10 times below adamw's. Chen 2023, algorithm 2."""
    _check(b1=b1, b2=b2, weight_decay=weight_decay)
    return optax.chain(optax.scale_by_lion(b1, b2), optax.add_decayed_weights(weight_decay, decay_mask))


def rmsprop(*, decay: float = 0.99, eps: float = 1e-8, momentum: float = 0.0) -> Tx:
    """Gradients over the root of their mean square. Hinton 2012, lecture 6e."""
    _check(decay=decay, eps=eps, momentum=momentum)
    return optax.chain(optax.scale_by_rms(decay, eps), _momentum(momentum))


def sgd(*, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0) -> Tx:
    """Gradient descent with momentum and decoupled weight decay on kernels."""
    _check(momentum=momentum, weight_decay=weight_decay)
    decay = optax.add_decayed_weights(weight_decay, decay_mask)
    return optax.chain(_momentum(momentum, nesterov), decay)


def no_clip() -> Tx:
    """Gradients as they are."""
    return optax.identity()


def global_norm(*, max_norm: float = 1.0) -> Tx:
    """Scale all gradients so that their joint norm is at most ``max_norm``. Pascanu 2013, algorithm 1."""
    _positive(max_norm=max_norm)

    def clip(grads: Any, params: Any = None) -> Any:
        del params
        norm = optax.tree.norm(grads)
        # one factor, which XLA fuses into what reads the gradients; optax divides every one of them, a pass of its own
        factor = jnp.where(norm > max_norm, max_norm / norm, 1.0)
        return jax.tree.map(lambda g: (g * factor).astype(g.dtype), grads)

    return optax.stateless(clip)


def adaptive(*, clipping: float = 0.01, eps: float = 1e-3) -> Tx:
    """Limit each unit's gradient norm to ``clipping`` times its weight norm. Brock 2021, eq. 3."""
    _positive(clipping=clipping, eps=eps)
    return optax.adaptive_grad_clip(clipping, eps)


def _momentum(momentum: float, nesterov: bool = False) -> Tx:
    return optax.trace(momentum, nesterov) if momentum else optax.identity()


_SHARES = ("b1", "b2", "decay", "momentum")


def _check(**keywords: float) -> None:
    """Raises ValueError that begins with the name of the number outside its range."""
    for name, value in keywords.items():
        if name in _SHARES and not 0 <= value < 1:
            raise ValueError(f"{name}: {value} is not in [0, 1)")
        if name == "weight_decay" and not 0 <= value < float("inf"):
            raise ValueError(f"{name}: {value} is not a finite number >= 0")
    _positive(**{name: value for name, value in keywords.items() if name == "eps"})


def _positive(**keywords: float) -> None:
    for name, value in keywords.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: {value} is not a finite number > 0")


OPTIMIZERS = {"adamw": adamw, "adam": adam, "radam": radam, "lion": lion, "rmsprop": rmsprop, "sgd": sgd}

CLIPS = {"none": no_clip, "global_norm": global_norm, "adaptive": adaptive}
