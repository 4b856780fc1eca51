"""The averages and guidance scales that one evaluation compares: the run's own, and those of a sweep."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from diffusion.program import Program


@dataclass(frozen=True)
class Variant:
    """One point of a sweep.

    Attributes:
      average: the name of the EMA.
      scale: of guidance.
      own: whether both are those that the run draws its images with.
    """

    average: str
    scale: float
    own: bool

    @property
    def label(self) -> str:
        """For people."""
        return f"average {self.average}, guidance {self.scale:g}"

    @property
    def prefix(self) -> str:
        """Of its metrics' names."""
        return "eval/" if self.own else f"eval/ema={self.average},guidance={self.scale:g}/"

    @property
    def suffix(self) -> str:
        """Of its files' names."""
        return "" if self.own else f"_ema-{self.average.replace(':', '_')}_guidance-{self.scale:g}"


def variants(program: Program) -> Iterator[Variant]:
    """The run's own first, then every average with every scale of the sweep."""
    e, use, scale = program.eval, program.optimiser.averages.use, program.sampling.guidance.scale
    yield Variant(use, scale, own=True)
    for average in dict.fromkeys(e.emas or (use,)):
        for other in dict.fromkeys(e.guidance_scales or (scale,)):
            if (average, other) != (use, scale):
                yield Variant(average, other, own=False)


@functools.cache
def drawing(program: Program, scale: float) -> Program:
    """The program that draws with another guidance scale."""
    sampling = program.sampling
    if scale == sampling.guidance.scale:
        return program
    return replace(program, sampling=replace(sampling, guidance=replace(sampling.guidance, scale=scale)))
