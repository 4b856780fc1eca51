"""``--mode=describe``: what would run, how large and how long, from metadata alone. Nothing is compiled or written."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp

from diffusion import snapshots, splits
from diffusion.flops import flops
from diffusion.mesh import sharded
from diffusion.modes import how_long
from diffusion.planned import chosen, grid_classes, planned_snapshots
from diffusion.program import Program, abstract_params
from diffusion.progress import duration
from diffusion.state import count_parameters
from diffusion.variants import variants

BACKWARD = 2  # a backward pass costs two forward passes


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
      bytes_per_device: of a device's share of parameters, EMA, optimiser and gradients, of the weights that
        ``mesh.fsdp`` gathers if all are there at once, and (an estimate) of the activations of the train step.
      seconds_estimate: of training, and of drawing the images of grids and evaluations, both without compilation,
        at ``rate``, which says whether it was measured or assumed; null where no rate is known.
    """
    params = abstract_params(program)
    forward, of_step, activations = _forward_cost(program, params)
    rows_at_once = program.rows // program.parts
    average = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), params)
    optimiser = jax.eval_shape(program.optimiser.tx.init, params)
    training = (1 + BACKWARD) * forward
    sampler_steps, calls = _sampling_plan(program)
    planned, step_flops = _events(program), training * program.loading.batch_size
    sample_flops = forward - of_step + of_step * calls
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
        "rows_at_once": rows_at_once,
        "steps": program.train.steps,
        "steps_per_epoch": program.steps_per_epoch,
        "epochs": round(program.train.steps / program.steps_per_epoch, 2),
        "parameters": count_parameters(params),
        "flops_per_image": training,
        "flops_per_step": step_flops,
        "flops_per_sample": sample_flops,
        "sampler_steps": sampler_steps,
        "net_calls_per_sample": calls,
        "bytes_per_device": {
            "parameters": _held(program, params),
            "ema": len(program.optimiser.averages.decays) * _held(program, average),
            "optimiser": _held(program, optimiser),
            "gradients": _held(program, params),
            "gathered_at_most": _bytes(params) if program.mesh.shape["fsdp"] > 1 else 0,
            "activations_estimate": activations * rows_at_once,
        },
        "seconds_estimate": how_long.estimate(rate, step_flops * program.train.steps, drawn),
        **planned,
    }


def _forward_cost(program: Program, params: Any) -> tuple[int, int, int]:
    """FLOPs of one image through the net, those without what a sampler does once for all its steps, and the bytes of
    every intermediate array that remat does not make again."""
    net = program.diffusion.net
    x = jax.ShapeDtypeStruct((1, *net.shape), jnp.float32)
    c_noise = jax.ShapeDtypeStruct((1,), jnp.float32)
    null = {name: jax.ShapeDtypeStruct((1,), bool) for name in net.conditions}
    encoded, _ = jax.eval_shape(net.encode, params, dict(net.example), None)
    inputs = {name: (params, x, c_noise, cond, null) for name, cond in (("all", net.example), ("encoded", encoded))}
    whole, of_step = (flops(net.apply, *given) for given in inputs.values())
    return whole, of_step, _kept(jax.make_jaxpr(net.apply)(*inputs["all"]).jaxpr)


def _kept(jaxpr: Any) -> int:
    """Bytes of all that equations answer; a scan keeps that of its body each time, a checkpoint its answer alone."""
    answered = sum(_bytes(v.aval) for equation in jaxpr.eqns for v in equation.outvars)
    scans = [equation.params for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    return answered + sum(params["length"] * _kept(params["jaxpr"].jaxpr) for params in scans)


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


def _held(program: Program, tree: Any) -> int:
    """Bytes of it on one device."""

    def share(leaf: Any, lying: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(lying.shard_shape(leaf.shape), leaf.dtype)

    return _bytes(jax.tree.map(share, tree, sharded(program.mesh, tree)))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


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
