"""The frozen networks that an evaluation's metrics need, and what they say of images, batch by batch."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from diffusion import feed
from diffusion.announced import announced
from diffusion.classifier_fit import Labelled, labelled
from diffusion.extractors import Extractor, Given
from diffusion.feature_chunks import Answers
from diffusion.mesh import over_rows, put_replicated, replicated
from diffusion.program import Program

Networks = Mapping[str, Extractor]  # by row of EXTRACTORS


@functools.cache
def prepare(program: Program) -> Networks:
    """The networks of ``eval.metrics``, made or loaded once per program; their weights lie on the host.

    Raises:
      ConfigError: weights that are not there, or a set that a network does not fit; before training, so that what is
        missing shows early.
    """
    given = _given(program)
    last = ("perceptual", "classifier")  # may be trained here: weights that others lack are missed before that
    order = sorted(program.extractors, key=lambda name: last.index(name) if name in last else -1)
    made = {name: program.extractors[name](given) for name in order}
    return {name: replace(made[name], frozen=jax.device_get(made[name].frozen)) for name in program.extractors}


@functools.cache
def own_classifier(program: Program) -> Extractor:
    """The data set's own classifier, whatever the metrics are taken on; as `prepare`."""
    made = program.classifier(_given(program))
    return replace(made, frozen=jax.device_get(made.frozen))


def identity(networks: Networks) -> dict[str, Any]:
    """Who they are, as plain JSON."""
    return {
        name: {"name": one.name, "sha256": one.sha256, "accuracy": one.accuracy, "about": dict(one.about)}
        for name, one in networks.items()
    }


@functools.cache
def answering(program: Program, names: tuple[str, ...]) -> Callable[[jax.Array], Answers]:
    """A function u8[b h w c] on the mesh -> what the named networks say, by "network/output", whole on the host."""
    chosen = {name: prepare(program)[name] for name in names}
    frozen = {name: _on_mesh(program, name) for name in names}

    def answers(frozen: Any, images: jax.Array) -> Any:
        return {
            f"{name}/{output}": array
            for name, one in chosen.items()
            for output, array in one.extract(frozen[name], images).items()
        }

    rows, whole = over_rows(program.mesh), replicated(program.mesh)
    step = announced(f"the evaluation's {' and '.join(names)}", jax.jit(answers, out_shardings=whole))
    spread = jax.jit(lambda images: images, out_shardings=rows)  # images that were drawn lie whole on every device
    return lambda images: jax.tree.map(np.asarray, step(frozen, spread(images)))


@functools.cache
def _on_mesh(program: Program, name: str) -> Any:
    """A network's weights, once on every device, whatever asks them."""
    return put_replicated(program.mesh, prepare(program)[name].frozen)


def _given(program: Program) -> Given:
    dataset = program.dataset
    split = functools.cache(functools.partial(whole_split, program))  # for as long as the networks are made
    train, test = (functools.partial(split, name) for name in ("train", "test"))
    return Given(dataset.name, len(dataset.classes), train, test, program.workdir / "cache")


def whole_split(program: Program, split: str) -> Labelled:
    """All images of a split that can be read, as the net sees them, with their labels."""
    return labelled(program.dataset.open(split), program.transform, feed.leave_out(program, split))
