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
      on: name of another data set that they are compared on; "" for the run's own.
    """

    average: str
    scale: float
    own: bool
    on: str = ""

    @property
    def label(self) -> str:
        """For people."""
        return f"average {self.average}, guidance {self.scale:g}"

    @property
    def prefix(self) -> str:
        """Of its metrics' names."""
        of_set = f"eval/on={self.on}/" if self.on else "eval/"
        return of_set if self.own else f"{of_set}ema={self.average},guidance={self.scale:g}/"

    @property
    def suffix(self) -> str:
        """Of its files' names."""
        of_set = f"_on-{self.on}" if self.on else ""
        return of_set if self.own else f"{of_set}_ema-{self.average.replace(':', '_')}_guidance-{self.scale:g}"


def own(program: Program) -> Variant:
    """What the run draws its images with."""
    return Variant(program.optimiser.averages.use, program.sampling.guidance.scale, True, program.transfer)


def variants(program: Program) -> Iterator[Variant]:
    """The run's own first, then every average with every scale of the sweep."""
    e, use, scale = program.eval, program.optimiser.averages.use, program.sampling.guidance.scale
    yield own(program)
    for average in dict.fromkeys(e.emas or (use,)):
        for other in dict.fromkeys(e.guidance_scales or (scale,)):
            if (average, other) != (use, scale):
                yield Variant(average, other, own=False, on=program.transfer)


@functools.cache
def drawing(program: Program, scale: float) -> Program:
    """The program that draws with another guidance scale."""
    sampling = program.sampling
    if scale == sampling.guidance.scale:
        return program
    return replace(program, sampling=replace(sampling, guidance=replace(sampling.guidance, scale=scale)))
