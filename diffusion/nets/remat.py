"""What the forward pass keeps of a block for the backward one; the rest is computed again (Chen 2016)."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from diffusion.nets.seen import report, seen_inside


def _products(primitive: Any, *given: Any, **params: Any) -> bool:
    """What dense layers and convolutions answer, the dear part; not attention, whose logits are large."""
    dense = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *given, **params)
    return dense or primitive.name == "conv_general_dilated"


REMATS = {
    "none": jax.checkpoint_policies.everything_saveable,
    "blocks": jax.checkpoint_policies.nothing_saveable,  # the input of every block alone
    "dots": _products,
}


def remembering(body: Callable[..., Any], remat: str, *, looped: bool = False) -> Callable[..., Any]:
    """``body(module, ...)`` whose gradient keeps what the row of ``REMATS`` says.

    Args:
      looped: it runs inside a scan, where nothing can be shared between the two passes, so that XLA needs no barrier
        against it.
    """
    return body if remat == "none" else nn.remat(body, policy=REMATS[remat], prevent_cse=not looped)


def run(block: nn.Module, remat: str, *given: Any) -> Any:
    """``block(*given)`` so; its layers are seen (`seen`) as without remat."""
    if remat == "none":
        return block(*given)
    answer, found = remembering(seen_inside(lambda block, *given: block(*given)), remat)(block, *given)
    report(found)
    return answer
