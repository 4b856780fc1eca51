"""``--mode=describe``: what would run, how large and how long, from metadata alone. Nothing is compiled or written."""

import json
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.build import CLASS_CONDITION, Program, abstract_params
from diffusion.flops import flops
from diffusion.mesh import padded_rows
from diffusion.state import count_parameters

BACKWARD = 2  # a backward pass costs two forward passes


def describe(program: Program, as_json: bool = False) -> None:
    """Print the facts of ``facts``, as a table or as one JSON object."""
    found = facts(program)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(_parameter_table(abstract_params(program)))
    for name, value in found.items():
        print(f"{name.replace('_', ' '):28} {_say(value)}", file=sys.stdout)


def facts(program: Program) -> dict[str, Any]:
    """Sizes and costs as plain JSON; see the keys. FLOPs count a multiply and an add each."""
    params = abstract_params(program)
    forward, activations = _forward_cost(program, params)
    rows = padded_rows(program.loading.batch_size, program.mesh.size * program.optimiser.micro_batches)
    per_device = rows // program.mesh.size // program.optimiser.micro_batches
    size = _bytes(params)
    optimiser = _bytes(jax.eval_shape(program.optimiser.tx.init, params))
    training = (1 + BACKWARD) * forward
    kept = program.train.steps
    return {
        "name": program.name,
        "workdir": str(program.workdir),
        "dataset": program.dataset.name,
        "images": dict(program.dataset.sizes),
        "image_shape": list(program.transform.shape),
        "classes": len(program.dataset.classes),
        "devices": program.mesh.size,
        "batch_size": program.loading.batch_size,
        "rows_per_device": per_device,
        "steps": program.train.steps,
        "steps_per_epoch": program.steps_per_epoch,
        "epochs": round(program.train.steps / program.steps_per_epoch, 2),
        "parameters": count_parameters(params),
        "flops_per_image": training,
        "flops_per_step": training * program.loading.batch_size,
        "flops_per_sample": forward * _calls_per_sample(program),
        "bytes_per_device": {
            "parameters": size,
            "ema": size,
            "optimiser": optimiser,
            "gradients": size,
            "activations_estimate": activations * per_device,
        },
        "evaluates": list(program.eval.metrics),
        "evaluations_at": _times(program.eval.every, kept) if program.eval.metrics else [],
        "validations": len(_times(program.val.every, kept)) if program.val.every else 0,
        "sample_grids": len(_times(program.sample.every, kept)) if program.sample.every else 0,
        "checkpoints_kept": {"newest": program.checkpoint.keep, "best": program.checkpoint.keep_best},
        "best_metric": "{} ({})".format(*program.best),
    }


def _forward_cost(program: Program, params: Any) -> tuple[int, int]:
    """(FLOPs, bytes of every intermediate array) of one image through the net."""
    net = program.diffusion.net
    x = jax.ShapeDtypeStruct((1, *net.shape), jnp.float32)
    c_noise = jax.ShapeDtypeStruct((1,), jnp.float32)
    cond = {CLASS_CONDITION: jax.ShapeDtypeStruct((1,), jnp.int32)}
    null = {name: jax.ShapeDtypeStruct((1,), bool) for name in net.conditions}
    jaxpr = jax.make_jaxpr(net.apply)(params, x, c_noise, cond, null)
    kept = sum(_bytes(v.aval) for equation in jaxpr.jaxpr.eqns for v in equation.outvars)
    return flops(net.apply, params, x, c_noise, cond, null), kept


def _calls_per_sample(program: Program) -> int:
    steps = program.config["sampler"]["steps"]
    calls = 2 * steps - 1 if program.sampling.rule.order == 2 and program.config["sampler"]["name"] == "heun" else steps
    guided = program.diffusion.net.conditions and program.sampling.guidance_scale not in (0, 1)
    return calls * (2 if guided else 1)


def _times(every: int, steps: int) -> list[int]:
    return sorted({*range(every, steps, every), steps}) if every else [steps]


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
