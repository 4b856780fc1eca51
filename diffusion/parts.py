"""The parts of a net: its backbone, and what each condition, an augmentation or a weighting learns.

A part is all that stands under one first key of the params tree. Its name is that key without "conditioners_", so
``{"backbone": …, "conditioners_label": …}`` has the parts backbone and label.
"""

from collections.abc import Mapping
from typing import Any

PREFIX = "conditioners_"


def part_of(key: str) -> str:
    """The part that a first key of the params tree holds."""
    return key.removeprefix(PREFIX)


def by_part(params: Mapping[str, Any]) -> dict[str, Any]:
    """``{part: its tree}`` of params, of their shapes, or of anything that is built like them."""
    return {part_of(key): tree for key, tree in params.items()}


def labels(params: Mapping[str, Any]) -> dict[str, str]:
    """``{first key: part}``, a prefix of the params tree, as `optax.multi_transform` takes it."""
    return {key: part_of(key) for key in params}
