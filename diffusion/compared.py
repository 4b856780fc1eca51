"""Both sides of an evaluation as the networks see them, at matched counts."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion import reference
from diffusion.data.loader import read
from diffusion.feature_chunks import Answers, FeatureChunks
from diffusion.metrics import Features
from diffusion.networks import Networks, answering
from diffusion.plan import Plan, make_plan, named_groups
from diffusion.planned import chosen
from diffusion.program import Program
from diffusion.reference import Reals
from diffusion.subjects import Subject


def plan_of(program: Program, labels: np.ndarray, subject: Subject | None = None) -> Plan:
    """The plan of an evaluation against real images of these classes, i[n].

    Args:
      subject: what is evaluated, by default images of all classes that are drawn to order.
    """
    e, labels = program.eval, labels[np.isin(labels, chosen(program))]
    names = program.dataset.classes if subject is None or subject.labelled else ()
    sizes = np.bincount(labels if names else np.zeros_like(labels), minlength=max(len(names), 1))
    asked = e.num_samples_per_class if names or not e.num_samples else e.num_samples
    have = None if subject is None else subject.have
    return make_plan(sizes, asked, e.num_samples if names else 0, equal=e.equal_n, have=have)


class Compared:
    """A subject and the reference split of a program, plan and all; makes images when they are first needed.

    Args:
      between: called between two batches, on every process; what it raises ends the evaluation.

    Attributes:
      chunks: the folder of what is done of this evaluation; None before an image is made.
    """

    chunks: Path | None = None

    def __init__(self, program: Program, networks: Networks, subject: Subject, between: Callable[[], None]):
        self.program, self.networks, self.subject, self.between = program, networks, subject, between
        self.chosen = chosen(program)
        self.names = program.dataset.classes if subject.labelled else ()
        self.groups = named_groups(program.eval.groups, program.dataset, self.chosen)
        self.streamed = program.eval.streamed
        self._reals: dict[tuple[str, str], Reals] = {}

    @functools.cached_property
    def plan(self) -> Plan:
        return plan_of(self.program, self.reals(self.streamed[0]).labels, self.subject)

    def reals(self, name: str, split: str = "") -> Reals:
        """What a network says of the reference split, or of another one."""
        key = name, split or self.program.eval.reference_split
        if key not in self._reals:
            self._reals[key] = reference.reals(self.program, self.networks, *key)
        return self._reals[key]

    @functools.cached_property
    def made(self) -> Answers:
        """What the networks say of the plan's images, in its order; every planned image exactly once."""
        program, plan = self.program, self.plan
        answer = answering(program, self.streamed)
        chunks = FeatureChunks(program.workdir / "cache", self._about())
        self.chunks = chunks.folder
        for places, images in self.subject.stream(plan.label, plan.index, self.between, chunks.has):
            chunks.add(places, {name: array[: len(places)] for name, array in answer(images).items()})
        order, found = chunks.all()
        if not np.array_equal(np.sort(order), np.arange(len(plan.label))):
            raise ValueError(f"{len(plan.label)} images were planned; {len(np.unique(order))} different ones were made")
        back = np.argsort(order)
        return {name: array[back] for name, array in found.items()}

    def real_features(self, name: str, split: str = "") -> Features:
        """Of the real images of a split, those of the classes that are evaluated."""
        found = self.reals(name, split)
        labels = self.classes_of(found)
        return self._features(name, found.features[labels >= 0], labels[labels >= 0])

    def made_features(self, name: str, kept: np.ndarray | slice = slice(None)) -> tuple[Features, Answers]:
        """Of the plan's images that are ``kept`` bool[n], with what else the network says of them."""
        answers = {key.partition("/")[2]: array[kept] for key, array in self.made.items() if key.startswith(f"{name}/")}
        return self._features(name, answers.pop("features"), self.plan.label[kept]), answers

    def real_ids(self, split: str) -> np.ndarray:
        """i32[n], numbers of the records in `real_features` of a split."""
        found = self.reals(self.streamed[0], split)
        return found.ids[self.classes_of(found) >= 0]

    def classes_of(self, real: Reals) -> np.ndarray:
        """i[n]: the class as which each is compared, 0 beside images without classes; -1 where it is left out."""
        return np.where(np.isin(real.labels, self.chosen), real.labels if self.names else 0, -1)

    def _features(self, name: str, values: np.ndarray, labels: np.ndarray) -> Features:
        return Features(values, labels if self.names else None, self.networks[name].name)

    def records(self, ids: np.ndarray, split: str = "") -> np.ndarray:
        """u8[n h w c]: real images as the networks see them."""
        records = self.program.dataset.open(split or self.program.eval.reference_split)
        return np.stack([read(records, self.program.transform, int(i)).image for i in ids])

    def _about(self) -> dict[str, Any]:
        """What decides the answers, to the bit on one topology."""
        mesh, e = self.program.mesh, self.program.eval
        return {
            **self.subject.about,
            "networks": {name: [self.networks[name].name, self.networks[name].sha256] for name in self.streamed},
            "seed": e.seed,
            "batch_size": e.batch_size,
            "devices": [*mesh.devices.shape, jax.process_count()],
            "images": np.bincount(self.plan.label).tolist(),
        }
