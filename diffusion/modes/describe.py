"""``--mode=describe``: what would run, how large and how long, from metadata alone. Nothing is compiled or written."""

import json
from typing import Any

import jax

from diffusion import costs, footprint, snapshots, splits
from diffusion.modes import how_long
from diffusion.planned import chosen, grid_classes, planned_snapshots
from diffusion.program import Program, abstract_params
from diffusion.progress import duration
from diffusion.state import count_parameters
from diffusion.variants import variants


def describe(program: Program, as_json: bool = False) -> None:
    """Print ``facts``, after the table of parameters or as one JSON object."""
    found = facts(program)
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
        return
    print(_parameter_table(abstract_params(program)))
    for name, value in found.items():
        print(f"{name.replace('_', ' '):22} {_say_duration(value) if name == 'seconds_estimate' else _say(value)}")


def facts(program: Program) -> dict[str, Any]:
    """Sizes, costs and events as plain JSON.

    Keys that scripts rely on:
      parameters: numbers that are trained.
      flops_per_image: of one training image, forward and backward; a multiply and an add are two.
      flops_per_step: of the batch.
      flops_per_sample: of one drawn image, guidance included.
      bytes_per_device: see `footprint.per_device`.
      seconds_estimate: of training, and of drawing the images of grids and evaluations, both without compilation,
        at ``rate``, which says whether it was measured or assumed; null where no rate is known.
    """
    params = abstract_params(program)
    sampler_steps, calls = _sampling_plan(program)
    planned, step_flops = _events(program), costs.of_step(program)
    sample_flops = costs.of_drawing(program, params, calls)
    drawn = planned["images_drawn"] * sample_flops
    rate = how_long.rate(program.workdir, step_flops, program.mesh.size)
    return {
        "name": program.name,
        "workdir": str(program.workdir),
        "dataset": program.dataset.name,
        "images": dict(program.dataset.sizes),
        "image_shape": list(program.transform.shape),
        "derived": program.derived or "nothing",
        "classes": len(program.dataset.classes),
        "devices": program.mesh.size,
        "batch_size": program.loading.batch_size,
        "rows_at_once": program.rows // program.parts,
        "steps": program.train.steps,
        "steps_per_epoch": program.steps_per_epoch,
        "epochs": round(program.train.steps / program.steps_per_epoch, 2),
        "parameters": count_parameters(params),
        "flops_per_image": step_flops // program.loading.batch_size,
        "flops_per_step": step_flops,
        "flops_per_sample": sample_flops,
        "sampler_steps": sampler_steps,
        "net_calls_per_sample": calls,
        "bytes_per_device": footprint.per_device(program, params),
        "seconds_estimate": how_long.estimate(rate, step_flops * program.train.steps, drawn),
        **planned,
    }


def _sampling_plan(program: Program) -> tuple[int, int]:
    """(steps of the sampler, net calls for one image); a weaker net's calls count as the run's own."""
    sampling = program.sampling
    steps = jax.eval_shape(sampling.times).shape[0] - 1
    return steps, sampling.rule.calls(steps) * sampling.guidance.nets(program.diffusion.net.conditions)


def _events(program: Program) -> dict[str, Any]:
    """What will be evaluated, drawn, kept and written."""
    steps, workdir = program.train.steps, program.workdir
    evaluations = _times(program.eval.every, steps) if program.eval.metrics else []
    grids = _times(program.sample.every, steps) if program.sample.every else []
    grid = len(grid_classes(program)) * program.sample.per_class
    written = ["config.json", "metrics.jsonl", "checkpoints/"] + [splits.NAME] * (program.dataset.listing is not None)
    number, size = planned_snapshots(program)
    written += [f"{snapshots.FOLDER}/"] * bool(number)
    written += ["samples/"] * bool(grids) + ["eval/"] * bool(evaluations)
    return {
        "evaluates": list(program.eval.metrics),
        "evaluations_at": evaluations,
        "validations": len(_times(program.val.every, steps)) if program.val.every else 0,
        "sample_grids": len(grids),
        "images_drawn": len(grids) * grid + len(evaluations) * _evaluated(program),
        "checkpoints_kept": {"newest": program.checkpoint.keep, "best": program.checkpoint.keep_best},
        "ema_snapshots": {"number": number, "bytes": number * size},
        "best_metric": "{} ({})".format(*program.best),
        "writes": [str(workdir / name) + "/" * name.endswith("/") for name in written],
    }


def _evaluated(program: Program) -> int:
    """Images of one evaluation at most, all points of a sweep together: classes smaller than asked have fewer."""
    e, labelled = program.eval, bool(program.dataset.classes)
    asked = e.num_samples_per_class if labelled or not e.num_samples else e.num_samples
    pairs = 2 * e.pairs if "lpips" in e.metrics else 0
    return len(list(variants(program))) * (max(len(chosen(program)) * asked, e.num_samples) + pairs)


def _times(every: int, steps: int) -> list[int]:
    """Steps at which an event is due; the last step always is."""
    return sorted({*range(every, steps, every), steps}) if every else [steps]


def _parameter_table(params: Any) -> str:
    from clu import parameter_overview

    return parameter_overview.get_parameter_overview(params, include_stats=False)


def _say(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_say(v)}" for name, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _say_duration(seconds: dict[str, Any]) -> str:
    if seconds["training"] is None:
        return seconds["rate"]
    training, drawing = duration(seconds["training"]), duration(seconds["drawing"])
    return f"training {training}, drawing {drawing}, compilation not counted ({seconds['rate']})"
