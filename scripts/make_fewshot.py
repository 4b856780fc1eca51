"""Writes the files that ``data.source=fewshot`` reads, from sets that are at hand. Nothing is downloaded.

    python scripts/make_fewshot.py cifar100 --root=~/tensorflow_datasets --out=data/fewshot

The sets are rows of ``scripts/fewshot_sets.py``; where each must lie is in ``docs/fewshot_data.md``.
"""

import argparse
import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from diffusion.data.fewshot import SPLITS, fewshot  # noqa: E402
from diffusion.errors import ConfigError, UserError  # noqa: E402
from diffusion.tables import rows  # noqa: E402
from scripts.fewshot_sets import SETS, ByClass  # noqa: E402


def write(out: Path, name: str, content: Mapping[str, ByClass]) -> list[Path]:
    """Writes ``{split}_{name}.npz`` of every split into ``out``, after reading them as training will; the paths.

    The train file comes last, and an old one goes first: where a crash leaves a part of a set, there is no train file,
    and `fewshot` says so.

    Raises:
      ConfigError: no possible name, or there are pickles of that name. DataError: not a set that `fewshot` reads.
    """
    if Path(name).name != name:
        raise ConfigError("name", f"{name!r} cannot be a part of a file's name")
    out.mkdir(parents=True, exist_ok=True)
    if pickles := [path for split in SPLITS if (path := out / f"{split}_{name}.pkl").exists()]:
        raise ConfigError("out", f"{pickles[0]} is there already; remove it, or give another --name or --out")
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
        for split, classes in content.items():
            _write_archive(Path(partial) / f"{split}_{name}.npz", classes)
        fewshot(partial, 0, name=name)
        for split in SPLITS:
            if split == "train" or split not in content:
                (out / f"{split}_{name}.npz").unlink(missing_ok=True)
        paths = [out / f"{split}_{name}.npz" for split in reversed(SPLITS) if split in content]
        for path in paths:
            os.replace(Path(partial) / path.name, path)
    return paths[::-1]


def main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    options = {field: getattr(args, field) for field in rows(SETS).get(args.set, {})}
    try:
        content = SETS[args.set](args.root, args.seed, **options)
        for path, classes in zip(write(args.out, args.name or args.set, content), content.values(), strict=True):
            images, shape = sum(map(len, classes.values())), next(iter(classes.values())).shape[1:]
            print(f"wrote {path}: {len(classes)} classes, {images} images of {'x'.join(map(str, shape))}")
    except (UserError, OSError) as error:
        print(f"make_fewshot: {error}; no set was written", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    sets = parser.add_subparsers(dest="set", required=True)
    for name, fields in {name: rows(SETS).get(name, {}) for name in SETS}.items():
        one = sets.add_parser(name, help=SETS[name].__doc__.partition("\n")[0])
        one.add_argument("--root", default="", help="folder of what is read")
        one.add_argument("--out", type=lambda text: Path(text).expanduser(), required=True, help="folder to write into")
        one.add_argument("--name", default="", help="of the set in the files' names (default: as the command's)")
        one.add_argument("--seed", type=int, default=0)
        for field, default in fields.items():
            one.add_argument(f"--{field}", type=type(default), default=default, help=f"default {default}")
    return parser


def _write_archive(path: Path, classes: ByClass) -> None:
    """Uncompressed; not ``np.savez``, which takes some names for its own parameters."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, images in classes.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, images, allow_pickle=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
