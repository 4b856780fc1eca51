"""Images from weights: (class, index) in, uint8 out, the same on any number of devices and in any batch."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffusion import keys, supports
from diffusion.announced import announced
from diffusion.data.support import Support
from diffusion.errors import ConfigError
from diffusion.frozen import codec_weights
from diffusion.mesh import over_rows, padded_rows, put_rows, replicated
from diffusion.nets.conditions import SET
from diffusion.program import CLASS_CONDITION, Program
from diffusion.runs import weaker_weights
from diffusion.sample_step import Held, make_sample_step
from diffusion.types import Params


def generate(
    program: Program,
    params: Params,
    label: np.ndarray,
    index: np.ndarray,
    *,
    seed: int,
    purpose: str,
    between: Callable[[], None] = lambda: None,
    done: Callable[[np.ndarray], bool] = lambda places: False,
    given: Mapping[str, np.ndarray] | None = None,
    first: int = 0,
    trajectory: bool = False,
    support: Support | None = None,
) -> Iterator[tuple[np.ndarray, jax.Array]]:
    """Draw image (label[i], index[i]) for every i, a compiled batch at a time.

    Args:
      params: plain weights, usually the EMA's; put on the mesh by the caller or here.
      label, index: i[n]; an image's key is folded from (seed, purpose, label, index), never from its place.
      between: called before every batch, on every process; what it raises ends the drawing.
      done: places i[r] -> whether that batch is there already and is left out.
      given: [n …] by name, see `sample_step.Given`; ``toward`` is i[n 2], the (label, index) whose key it is.
      first, trajectory: see `make_sample_step`.
      support: the sets that the images are conditioned on, in place of their classes; by default sets of their
        classes, drawn by ``seed``.

    Yields:
      (places i[r], images u8[b h w c] on the device, of which the first r are real), every place at most once.
    """
    rows = padded_rows(program.eval.batch_size, program.mesh.size)
    step, image_keys = _compiled(program, first, trajectory), _image_keys(program)
    base, held = keys.stream(seed, purpose), Held(codec_weights(program), weaker_weights(program))
    here = slice(
        rows * jax.process_index() // jax.process_count(),
        rows * (jax.process_index() + 1) // jax.process_count(),
    )
    for start in range(0, len(label), rows):
        between()
        places = np.arange(start, min(start + rows, len(label)))
        if done(places):
            continue
        filled = np.resize(places, rows)[here]
        drawn = put_rows(program.mesh, (label[filled].astype(np.int32), index[filled].astype(np.int32)))
        cond: dict[str, Any] = {}
        if CLASS_CONDITION in program.diffusion.net.conditions:
            unknown = np.full(len(filled), -1, np.int32)  # of no class that the net knows: its null
            cond[CLASS_CONDITION] = drawn[0] if support is None else put_rows(program.mesh, unknown)
        if supports.needed(program):
            sets = (support or supports.of_split(program, seed)).of(label[filled], index[filled])
            cond[SET] = put_rows(program.mesh, sets)
        beside = {name: put_rows(program.mesh, a[filled]) for name, a in (given or {}).items()}
        if "toward" in beside:
            beside["toward"] = image_keys(base, beside["toward"][:, 0], beside["toward"][:, 1])
        yield places, step(params, held, image_keys(base, *drawn), cond, beside)


def images(program: Program, params: Params, label: np.ndarray, index: np.ndarray, **stream: Any) -> np.ndarray:
    """All of them on the host, u8[n h w c], or u8[n steps+1 h w c] with ``trajectory``."""
    out = np.zeros((len(label), *program.transform.shape), np.uint8)
    for places, batch in generate(program, params, label, index, **stream):
        if out.shape[1:] != batch.shape[1:]:  # known from the first batch on
            out = np.zeros((len(label), *batch.shape[1:]), np.uint8)
        out[places] = np.asarray(batch)[: len(places)]
    return out


def asked_labels(classes: str, num: int, names: Sequence[str]) -> np.ndarray:
    """i[n] from ``sample.classes``: "3,3,7" cycled to ``num``, "3:20,cat:5" as counted, "" all classes in turn.

    A class is named, or else given by its index.

    Raises:
      ConfigError: a class that is not there, or a count that is not one.
    """
    known = {str(i): i for i in range(max(len(names), 1))} | {name: i for i, name in enumerate(names)}

    def number(name: str) -> int:
        if name not in known:
            raise ConfigError("sample.classes", f"{name!r} is not a class; they are {', '.join(names) or '0'}")
        return known[name]

    items = [item.strip() for item in classes.split(",") if item.strip()]
    if not items:
        return np.arange(num) % max(len(names), 1)
    if not any(":" in item for item in items):
        return np.resize([number(item) for item in items], num)
    counted = [item.rpartition(":") for item in items]
    for name, colon, count in counted:
        if not colon or not count.isdecimal() or int(count) == 0:
            raise ConfigError(
                "sample.classes", f"{name or count!r} has no count; write class:count for each, or for none"
            )
    return np.repeat([number(name) for name, _, _ in counted], [int(count) for _, _, count in counted])


@functools.cache
def _compiled(program: Program, first: int, trajectory: bool) -> Any:
    step = make_sample_step(program.diffusion, program.sampling, program.mesh, first=first, trajectory=trajectory)
    return announced("the sampler", step)


@functools.cache
def _image_keys(program: Program) -> Any:
    rows, whole = over_rows(program.mesh), replicated(program.mesh)
    return jax.jit(keys.per_image, in_shardings=(whole, rows, rows), out_shardings=rows)
