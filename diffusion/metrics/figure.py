"""One figure: a value, its standard error, and how many images entered it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What every metric returns.

    Attributes:
      value: the figure; None where it cannot be had.
      se: its standard error over draws of the images; None where none can be had, or none has a meaning.
      n_gen: generated images that entered; 0 for a figure of real images alone.
      n_real: real images that entered; None for a figure of generated images alone.
      reason: why ``value`` or ``se`` is None; empty otherwise.

    Raises:
      ValueError: a missing value without a reason.
    """

    value: float | None
    se: float | None
    n_gen: int
    n_real: int | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError("a figure without a value needs a reason")

    def scaled(self, factor: float) -> "Figure":
        """The same figure in another unit: value and error times a positive factor."""
        value, se = (None if number is None else factor * number for number in (self.value, self.se))
        return Figure(value, se, self.n_gen, self.n_real, self.reason)
