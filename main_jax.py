"""Train, sample and evaluate image diffusion models: ``python main_jax.py --config=configs/digits.py``."""

import argparse
import gc
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from diffusion.frames import in_one_chunk

USAGE = "python main_jax.py [--config=configs/NAME.py] [--workdir=DIR] [--mode=MODE] [--json] [--config.a.b=VALUE …]"

NEW_OBJECTS = 100_000  # until garbage is looked for; CPython's 700 (3.11) cost a trace a twentieth of its time


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the texts ``a.b=value`` of the overrides."""
    from diffusion.errors import ConfigError

    class Parser(argparse.ArgumentParser):
        def error(self, message: str):
            raise ConfigError("command line", f"{message}; usage: {USAGE}")

    parser = Parser(usage=USAGE, description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", default=None, help="PATH.py or PATH.py:ARGUMENT; configs/digits.py by default")
    parser.add_argument("--workdir", default=None, help="the run's folder; runs/NAME by default")
    parser.add_argument(
        "--mode", default="train", help="train, eval, sample, encode, posthoc, usefulness, describe or bench"
    )
    parser.add_argument("--json", action="store_true", help="describe and bench: print one JSON object")
    given, overrides, rest = [], [], list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--config."):
            given.append(word)
        else:
            path = word.removeprefix("--config.")
            overrides.append(path if "=" in path or not rest or rest[0].startswith("--") else f"{path}={rest.pop(0)}")
    return parser.parse_args(given), overrides


def resolve(args: argparse.Namespace, overrides: list[str]):
    """(config, workdir) of a command."""
    from configs.default import get_config
    from diffusion import config
    from diffusion.errors import ConfigError
    from diffusion.modes import AS_JSON, MODES, OF_A_RUN

    if args.mode not in MODES:
        raise ConfigError("--mode", f"{args.mode!r} is not one of: {', '.join(MODES)}")
    if args.json and args.mode not in AS_JSON:
        raise ConfigError("--json", f"--mode={args.mode} prints no JSON; these modes do: {', '.join(AS_JSON)}")
    default = get_config()
    named = config.load(args.config or "configs/digits.py", default).unlock()
    if args.mode not in OF_A_RUN or _of_other_images(args, overrides, named.name):
        return config.override(named, overrides, default).lock(), args.workdir
    for text in overrides:
        field = text.partition("=")[0]
        if field not in config.LAID_OVER and field.partition(".")[0] not in config.LAID_OVER:
            allowed = ", ".join(name if "." in name else f"{name}.*" for name in config.LAID_OVER)
            raise ConfigError(
                field,
                f"--mode={args.mode} takes the run's own config; only {allowed} may be given",
            )
    workdir = args.workdir or f"runs/{named.name}"
    own = config.from_json(Path(workdir) / "config.json", default, "--workdir").unlock()
    return config.override(own, overrides, default).lock(), workdir


def _of_other_images(args: argparse.Namespace, overrides: list[str], name: str) -> bool:
    """Whether images of another program are measured by a config that was named, or where no run stands."""
    measures = args.mode in ("eval", "usefulness")  # each has a field ``images`` in the section of its name
    given = measures and any(text.startswith(f"{args.mode}.images=") for text in overrides)
    run = Path(args.workdir or f"runs/{name}") / "config.json"
    return given and (args.config is not None or not run.exists())


def main(argv: list[str]) -> int:
    """The exit status; errors that a person can act on are one report on stderr."""
    from diffusion.signals import StopRequest

    with StopRequest() as stop:  # before the imports that take seconds
        from diffusion.cluster import leave, report

        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("diffusion").setLevel(logging.INFO)
        try:
            run(argv, stop)
        except KeyboardInterrupt:
            return leave(128 + signal.SIGINT)
        except Exception as error:
            return leave(report(error))
        return leave(0)


def run(argv: list[str], stop: Any) -> None:
    """One command. ``stop`` is a StopRequest that holds the signals."""
    from diffusion.heap import keep_heap
    from diffusion.mesh import two_cpu_devices

    args, overrides = parse(argv)
    config, workdir = resolve(args, overrides)
    keep_heap()
    from diffusion.build import build, cluster, compiling, halves_on_cpu
    from diffusion.cluster import join
    from diffusion.compile_cache import keep_compiled
    from diffusion.modes import MODES, OF_A_RUN, STOPPABLE

    if halves_on_cpu(config):
        two_cpu_devices()
    join(cluster(config))
    keep_compiled(compiling(config).cache)
    program = build(config, workdir, training=args.mode not in OF_A_RUN)
    _collect_garbage_again()
    if args.mode in STOPPABLE:
        stop.install()  # again: joining takes SIGTERM
        MODES[args.mode](program, stop)
    else:
        stop.release()
        if stop:
            raise stop.stopped("nothing was begun")
        MODES[args.mode](program, **({"as_json": True} if args.json else {}))


def _collect_garbage_again() -> None:
    """What stands when the start is over stays until the end: no collection need look through it again. Traces that
    come later make as many objects as the start."""
    if not gc.isenabled():
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS)
        gc.enable()


if __name__ == "__main__":
    gc.disable()  # a start makes some million objects and hardly a cycle: looking for them took a tenth of its time
    status = in_one_chunk(main)(sys.argv[1:])
    gc.freeze()  # or Python looks through all that stands before it goes
    sys.exit(status)
