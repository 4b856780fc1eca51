"""A run of seconds: a net of a few thousand weights on the digits, three batches an epoch, the last one incomplete."""

import json
from pathlib import Path

TINY = {
    "name": "tiny",
    "data.batch_size": 512,
    "data.threads": 1,
    "net.unet.channels": 8,
    "net.unet.mults": (1,),
    "net.unet.attention": (),
    "net.unet.groups": 2,
    "net.unet.heads": 1,
    "optim.schedule": "warmup",
    "optim.warmup.warmup_steps": 4,
    "train.steps": 12,
    "log.every": 5,
    "log.tensorboard": False,
    "val.every": 4,
    "sample.every": 6,
    "sample.per_class": 2,
    "eval.every": 6,
    "eval.num_samples_per_class": 3,
    "eval.batch_size": 32,
    "checkpoint.every": 3,
    "checkpoint.keep": 3,
    "process.schedule": "cosine",
    "process.target": "v",
    "objective.density": "uniform",
    "objective.weighting": "unit",
    "sampler.name": "ddim",
    "sampler.grid": "uniform",
    "sampler.steps": 2,
    "mesh.data": 2,
}


def arguments(workdir: Path, **changed: object) -> list[str]:
    """The command line of a tiny run; a name's dots are written as two underscores."""
    fields = TINY | {name.replace("__", "."): value for name, value in changed.items()}
    return [f"--workdir={workdir}", *(f"--config.{name}={value}" for name, value in fields.items())]


def program(workdir: Path, **changed: object):
    """The same, built."""
    from configs.digits import get_config
    from diffusion.build import build
    from diffusion.config import override

    assignments = [word.removeprefix("--config.") for word in arguments(workdir, **changed)[1:]]
    config = override(get_config().unlock(), assignments).lock()
    return build(config, workdir, training=not config.eval.images)


def log(workdir: Path) -> list[dict]:
    """metrics.jsonl without what depends on a clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time" and not k.startswith("perf/")} for line in lines]


def state_print(workdir: Path, **changed: object) -> tuple[str, dict]:
    """(sha256 over the newest state, its meta without paths and clocks)."""
    from diffusion import runs
    from diffusion.state import fingerprint

    p = program(workdir, **changed)
    saved = runs.checkpoints(p, read_only=True)
    restored = saved.restore(runs._abstract_state(p))
    return fingerprint(restored.state), {k: restored.meta[k] for k in ("best", "data", "measured", "events_done")}
