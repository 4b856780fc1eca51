"""Saves one part of a trained net for other runs: ``python -m scripts.save_part WORKDIR PART OUT.safetensors``.

The part's weights in the average that the run uses (``ema.use``), named by their paths within the part, joined by "/".
Another run begins with them by ``--config.init_parts=PART:OUT.safetensors``, and leaves them as they are with
``--config.optim.freeze=PART:always``. The file appears whole or not at all; one that is there is replaced. No data of
the run is needed.
"""

import argparse
import sys
from pathlib import Path

from diffusion import saved_ema, tensor_files
from diffusion.errors import ConfigError, UserError


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.save_part", description=__doc__, allow_abbrev=False)
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="of the run")
    parser.add_argument("part", metavar="PART", help="backbone, or a condition's name")
    parser.add_argument("out", metavar="OUT.safetensors", type=Path)
    parser.add_argument("--step", default="latest", help="of the checkpoint: latest, best or a number")
    return parser.parse_args(argv)


def save(workdir: Path, part: str, out: Path, step: str) -> None:
    if out.suffix != ".safetensors":
        raise ConfigError("OUT", f"{out} must end in .safetensors, by which it is read")
    found, arrays = saved_ema.part_arrays(workdir, step, part)
    tensor_files.save(out, arrays, {"part": part, "step": str(found)})
    print(f"{out}: {len(arrays)} arrays of {part}, {sum(a.size for a in arrays.values()):,} numbers, of step {found}")


def main(argv: list[str]) -> int:
    """The exit status."""
    args = parse(argv)
    try:
        save(args.workdir, args.part, args.out, args.step)
    except (UserError, OSError) as error:
        print(f"save_part: {error}", file=sys.stderr)
        return getattr(error, "status", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
