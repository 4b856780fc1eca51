"""The two ends of a run: what is checked and said before its first step, and whether and how it is over."""

from typing import Any

from diffusion import encoded, evaluate, feed, runs, splits
from diffusion.best import BestRecord
from diffusion.checkpoint import Checkpoints
from diffusion.data.loader import Loader
from diffusion.data.tally import Tally
from diffusion.errors import DataError
from diffusion.program import Program
from diffusion.progress import say
from diffusion.state import count_parameters
from diffusion.writers import MultiWriter, make_writers


def is_over(program: Program, meta: dict[str, Any], step: int, best: BestRecord) -> bool:
    """Whether a saved run has come to its end: a smaller ``train.patience`` than its own does not end it backwards."""
    return step >= program.train.steps or (meta.get("gave_up", False) and gives_up(program, best))


def gives_up(program: Program, best: BestRecord) -> bool:
    """Whether the metric that ranks checkpoints has not become better for ``train.patience`` measurements."""
    return 0 < program.train.patience <= best.since


def how_it_ended(program: Program, step: int, best: BestRecord) -> str:
    total = program.train.steps
    if step >= total:
        return f"{step} of {total} steps are done."
    if best.step is None:
        return f"step {step} of {total} was its last, as {best.metric} was never finite (train.patience)."
    return (
        f"step {step} of {total} was its last, as {best.metric} was best at step {best.step} and not better in the "
        f"{best.since} measurements after it (train.patience)."
    )


def prepare(program: Program, saved: Checkpoints) -> Loader:
    """What can be found wrong is found before step 0: config, files, data, extractor, metrics."""
    runs.check_workdir(program)
    begun = runs.differences(program, saved) is not None
    try:
        splits.check(program, begun=begun)
        splits.check_duplicates(program)
        if program.loading.encodings:
            encoded.encodings(program)
        source = feed.loader(program, program.dataset.train_split, training=True)
        source.batch(0)
        if program.eval.metrics:
            evaluate.check(program)
    except DataError as error:
        error.status = 2
        raise
    return source


def open_writers(program: Program, *, wandb_id: str | None, offset: int | None = None) -> MultiWriter:
    """The run's trackers; ``offset`` and ``wandb_id`` as of `make_writers`."""
    log = program.log
    return make_writers(
        program.workdir,
        wandb=log.wandb,
        tensorboard=log.tensorboard,
        wandb_project=log.project,
        wandb_id=wandb_id,
        offset=offset,
        name=program.name,
    )


def announce(program: Program, start: runs.Start, step: int, writers: MultiWriter, tally: Tally | None) -> None:
    """Where the run begins, what was changed knowingly, and the facts of data and model."""
    if program.derived:
        say(program.derived)
    if start.meta:
        say(f"Going on from step {step} of {program.train.steps} in {program.workdir}")
    for path, old, new in start.changed:
        say(f"changed knowingly (resume.allow): {path} was {old!r}, is {new!r}")
    facts = {
        "dataset": program.dataset.name,
        **{f"{split} images": n for split, n in program.dataset.sizes.items()},
        "classes": len(program.dataset.classes),
        "batches per epoch": program.steps_per_epoch,
        "parameters": count_parameters(start.state.params),
        "devices": program.mesh.size,
        "started at step": step,
        "best metric": "{} ({})".format(*program.best),
    }
    drawn = tally.table(program.diffusion.class_weights) if tally else []
    writers.hparams(program.config, facts | ({"drawn": drawn} if drawn else {}))
    if drawn:
        writers.table(step, "data/classes", drawn)
