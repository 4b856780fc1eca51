"""Scores of the same images through several networks, as one."""

import dataclasses
from collections.abc import Sequence

from diffusion.metrics.per_class import ClassRow


def merged_rows(rows: Sequence[ClassRow], others: Sequence[ClassRow]) -> tuple[ClassRow, ...]:
    """Rows of the same classes: the first one's numbers, and the other's where it has none.

    Raises:
      ValueError: other classes, or other counts of a class.
    """
    found = [[(row.name, row.n_real, row.n_gen) for row in side] for side in (rows, others)]
    if found[0] != found[1]:
        wrong = next((pair for pair in zip(*found, strict=False) if pair[0] != pair[1]), [len(side) for side in found])
        raise ValueError(f"scores of different images cannot be merged: {wrong[0]} and {wrong[1]}")
    return tuple(
        dataclasses.replace(row, **{name: value for name, value in vars(other).items() if getattr(row, name) is None})
        for row, other in zip(rows, others, strict=True)
    )
