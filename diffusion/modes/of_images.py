"""``--mode=eval --config.eval.images=PATH``: images of any other program, compared with this config's data."""

from pathlib import Path

from diffusion import evaluate, evaluations, subjects
from diffusion.given_images import open_images
from diffusion.program import Program
from diffusion.progress import say
from diffusion.signals import StopRequest
from diffusion.variants import own


def evaluate_images(program: Program, stop: StopRequest) -> None:
    """Evaluate the npz or the folder of ``eval.images``; files in the workdir's ``eval/`` get the figures.

    Raises:
      Stopped: asked to; the same command goes on with the next batch of images.
    """
    path = Path(program.eval.images).expanduser()
    found = open_images(program.eval.images, program.dataset.classes, program.transform.shape)
    subject = subjects.given(program, found)
    evaluate.check(program, subject)
    report = evaluate.of_subject(program, subject, {"step": None}, stop.check)
    name = f"images_{path.resolve().name.removesuffix('.npz')}{own(program).suffix}"
    stem = program.workdir / "eval" / name
    evaluations.publish(program, report, stem, f"Evaluation of {path}")
    evaluate.forget(report.compared.chunks)
    say(f"It wrote:\n  {stem}.json\n  {stem}_classes.csv")
