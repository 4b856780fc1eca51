"""What the layers of a net answered, seen from outside: also from inside a scan or a checkpoint."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion.types import Array

Found = OrderedDict[str, Array]
_found: ContextVar[Found | None] = ContextVar("found", default=None)


def with_layers(apply: Callable[..., Any], *given: Any) -> tuple[Any, Found]:
    """``apply(*given)``, and for every layer whether what it answered is finite, bool[].

    Layers stand in the order in which they finished, by their path (``backbone/down0_0/conv1``; the whole is ""), so
    the first that is False is the innermost that spoiled the rest. One that is called again ends in ``#2``; one of a
    scanned stack stands by its place, ``backbone/blocks[3]/mlp``. To be called while tracing. Linen's own lifted
    transforms trace inside: what they run must be wrapped in ``seen_inside``.
    """
    with _into(OrderedDict()) as found, nn.intercept_methods(_note):
        return apply(*given), found


def seen_inside(body: Callable[..., Any]) -> Callable[..., tuple[Any, Found]]:
    """``body`` for a lifted transform: it answers (answer, what was found in it), nothing where nobody looks.

    Values made in there may leave as outputs alone; hand the second to ``report`` outside.
    """

    def seen(*given: Any) -> tuple[Any, Found]:
        if _found.get() is None:
            return body(*given), OrderedDict()
        with _into(OrderedDict()) as found:
            answer = body(*given)
        return answer, found

    return seen


def report(found: Found) -> None:
    """Add what a ``seen_inside`` found to what ``with_layers`` answers."""
    outer = _found.get()
    if outer is not None:
        outer |= found


def all_finite(tree: Any) -> Array:
    """bool[]: no number of any kind in it is NaN or infinite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.array(True)


@contextmanager
def _into(found: Found) -> Iterator[Found]:
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)


def _note(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    answer, found = call(*args, **kwargs), _found.get()
    if context.method_name == "__call__":
        path, times = "/".join(context.module.path), 1
        while (name := path if times == 1 else f"{path}#{times}") in found:
            times += 1
        found[name] = all_finite(answer)
    return answer
