"""A learning rate and a freeze for each part of a net, as one optax transformation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffusion.parts import labels, part_of

Array = jax.Array
Tx = optax.GradientTransformation

ALWAYS = -1


@dataclass(frozen=True)
class Rule:
    """How one part is trained.

    Attributes:
      factor: on the learning rate, at least 0. It scales the direction, which holds decoupled weight decay as well;
        on gradients it would do nothing, for Adam divides by their size.
      frozen: updates during which the part stands still, from the first on; 0 for none, or ALWAYS.
    """

    factor: float = 1.0
    frozen: int = 0


class Frozen(NamedTuple):
    """i32[]: updates so far, counted no further than to the last freeze's end."""

    count: Array


class Held(NamedTuple):
    """The state of a part's optimiser, which stands still as long as the part does, and the updates so far, i32[]."""

    count: Array
    inner: Any


def per_part(optimizer: Tx, clip: Tx, rules: Mapping[str, Rule]) -> Tx:
    """Gradients -> direction at rate 1, part by part; frozen parts are left out of the clip's norm.

    Args:
      rules: of every part that the params have; optax raises ValueError at a part without one.
    """
    frozen = {part: rule.frozen for part, rule in rules.items() if rule.frozen}
    of_parts = optax.multi_transform({part: _of_part(optimizer, rule) for part, rule in rules.items()}, labels)
    return optax.chain(*([without_frozen(frozen)] if frozen else []), clip, of_parts)


def _of_part(optimizer: Tx, rule: Rule) -> Tx:
    if rule.frozen == ALWAYS:
        return optax.set_to_zero()
    scaled = optimizer if rule.factor == 1 else optax.chain(optimizer, optax.scale(rule.factor))
    return held(scaled, rule.frozen) if rule.frozen else scaled


def without_frozen(frozen: Mapping[str, int]) -> Tx:
    """Gradients with zeros in the parts that stand still at this update.

    Args:
      frozen: part -> updates, or ALWAYS.
    """
    end = max(0, *frozen.values())

    def init(params: Any) -> Frozen:
        return Frozen(jnp.zeros((), jnp.int32))

    def update(grads: Mapping[str, Any], state: Frozen, params: Any = None) -> tuple[dict[str, Any], Frozen]:
        def kept(key: str, tree: Any) -> Any:
            updates = frozen.get(part_of(key), 0)
            still = True if updates == ALWAYS else state.count < updates
            return jax.tree.map(lambda g: jnp.where(still, jnp.zeros_like(g), g), tree) if updates else tree

        return {key: kept(key, tree) for key, tree in grads.items()}, Frozen(jnp.minimum(state.count + 1, end))

    return optax.GradientTransformation(init, update)


def held(optimizer: Tx, updates: int) -> Tx:
    """The optimiser from the given update on, as if it were fresh then; zeros before.

    Its own count and moments stand still too: zero moments under a high count, which no bias correction lifts any
    more, would make Adam's first steps (1 - b1) / sqrt(1 - b2), about 3, times too large.
    """

    def init(params: Any) -> Held:
        return Held(jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(grads: Any, state: Held, params: Any = None) -> tuple[Any, Held]:
        thawed = state.count >= updates
        direction, moved = optimizer.update(grads, state.inner, params)
        direction = jax.tree.map(lambda d: jnp.where(thawed, d, jnp.zeros_like(d)), direction)
        inner = jax.tree.map(lambda new, old: jnp.where(thawed, new, old), moved, state.inner)
        return direction, Held(jnp.minimum(state.count + 1, updates), inner)

    return optax.GradientTransformation(init, update)
