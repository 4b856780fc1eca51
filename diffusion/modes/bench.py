"""``--mode=bench``."""

from diffusion.build import Program


def bench(program: Program, as_json: bool = False) -> None:
    raise NotImplementedError
