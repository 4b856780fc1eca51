"""``--mode=encode``: what a frozen encoder makes of the data, once, for runs that read it in place of images."""

import functools

from diffusion.disk import readable
from diffusion.encode import encode as encode_all
from diffusion.errors import ConfigError
from diffusion.program import Program
from diffusion.progress import say
from diffusion.signals import StopRequest


def encode(program: Program, stop: StopRequest) -> None:
    """Write the folder that ``data.encodings`` names, and say what is in it.

    Raises:
      ConfigError: no folder is named, or it holds something else; nothing is written.
      Stopped: asked to; the same command goes on with the file that was broken off.
    """
    if program.loading.encodings is None:
        raise ConfigError("data.encodings", "is empty; give the folder that the encodings are written to")
    found = encode_all(program, functools.partial(stop.check, "the same command goes on with the file in hand"))
    for name, split in found.splits.items():
        size = readable(sum(file.bytes for file in split.files))
        say(f"{name}: {sum(file.records for file in split.files)} records in {len(split.files)} files, {size}")
    say(f"Use them: --config.data.encodings={found.folder}")
