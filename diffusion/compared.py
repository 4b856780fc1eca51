"""Everything that the metrics of one evaluation are given: both sides as the networks see them, at matched counts."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffusion import reference
from diffusion.errors import ConfigError
from diffusion.feature_chunks import Answers, FeatureChunks
from diffusion.metrics import METRICS, Features, Scores, measure
from diffusion.metrics.diversity import disjoint_pairs
from diffusion.metrics.paired import Pairs, compare, joined
from diffusion.networks import Networks, answering
from diffusion.plan import Plan, chosen_classes, make_plan, named_groups
from diffusion.program import Program
from diffusion.reference import Reals
from diffusion.subjects import Subject

PAIRS_AT_ONCE = 32  # of the perceptual distance
TEXTS_AT_ONCE = 256
WITHOUT_FEATURES = ("diversity", "pairs")  # what a metric may need instead of features


def chosen(program: Program) -> list[int]:
    """Labels that are evaluated; 0 stands for all images of an unlabelled set."""
    e, names = program.eval, program.dataset.classes
    return chosen_classes(e.classes, e.num_classes, names, e.seed) if names else [0]


def plan_of(program: Program, labels: np.ndarray, have: np.ndarray | None = None) -> Plan:
    """The plan of an evaluation against real images of these classes, i[n].

    Args:
      have: i[k], images there are of each class where they are not drawn to order.
    """
    e, names = program.eval, program.dataset.classes
    sizes = np.bincount(labels[np.isin(labels, chosen(program))], minlength=max(len(names), 1))
    asked = e.num_samples_per_class if names or not e.num_samples else e.num_samples
    return make_plan(sizes, asked, e.num_samples if names else 0, equal=e.equal_n, have=have)


class Compared:
    """A subject and the reference split of a program, plan and all; makes images when they are first needed.

    Args:
      between: called between two batches, on every process; what it raises ends the evaluation.
    """

    def __init__(self, program: Program, networks: Networks, subject: Subject, between: Callable[[], None]):
        self.program, self.networks, self.subject, self.between = program, networks, subject, between
        self.chosen = chosen(program)
        self.groups = named_groups(program.eval.groups, program.dataset.classes, self.chosen)
        self.streamed = program.eval.streamed

    def scores(self) -> Scores:
        """Every metric of ``eval.metrics``, network by network."""
        e = self.program.eval
        by_network: dict[str, list[str]] = {name: [] for name in self.streamed}
        for metric in e.metrics:
            by_network[e.network(metric) if e.network(metric) in by_network else self.streamed[0]].append(metric)
        return Scores.merged([self._measured(name, metrics) for name, metrics in by_network.items() if metrics])

    @functools.cached_property
    def plan(self) -> Plan:
        return plan_of(self.program, self.reals(self.streamed[0]).labels, self.subject.have)

    def reals(self, name: str, split: str = "") -> Reals:
        """What a network says of the reference split, or of another one."""
        return self._reals(name, split or self.program.eval.reference_split)

    @functools.cache
    def _reals(self, name: str, split: str) -> Reals:
        return reference.reals(self.program, self.networks, name, split)

    @functools.cached_property
    def made(self) -> Answers:
        """What the networks say of the plan's images, in its order; every planned image exactly once."""
        program, plan = self.program, self.plan
        answer = answering(program, self.streamed)
        chunks = FeatureChunks(program.workdir / "cache", self._about())
        for places, images in self.subject.stream(plan.label, plan.index, self.between, chunks.has):
            chunks.add(places, {name: array[: len(places)] for name, array in answer(images).items()})
        order, found = chunks.all()
        if not np.array_equal(np.sort(order), np.arange(len(plan.label))):
            raise ValueError(f"{len(plan.label)} images were planned; {len(np.unique(order))} different ones were made")
        back = np.argsort(order)
        return {name: array[back] for name, array in found.items()}

    def features(self, name: str, split: str = "") -> Features:
        """Of the real images of a split, those of the classes that are evaluated."""
        found = self.reals(name, split)
        kept = np.isin(found.labels, self.chosen)
        return self._features(name, found.answers["features"][kept], found.labels[kept])

    def real_ids(self, split: str) -> np.ndarray:
        """i32[n], numbers of the records in `features` of a split."""
        found = self.reals(self.streamed[0], split)
        return found.ids[np.isin(found.labels, self.chosen)]

    def _features(self, name: str, values: np.ndarray, labels: np.ndarray) -> Features:
        return Features(values, labels if self.program.dataset.classes else None, self.networks[name].name)

    def _measured(self, name: str, metrics: Sequence[str]) -> Scores:
        e, plan = self.program.eval, self.plan
        own = self._scores(name, metrics, plan.of_classes, labelled=True)
        if plan.pooled is None:
            return own
        pooled = [metric for metric in metrics if not {"labels", *WITHOUT_FEATURES} & set(METRICS[metric].needs)]
        return own.with_pooled(self._scores(name, pooled, plan.of_pool, labelled=False))

    def _scores(self, name: str, metrics: Sequence[str], kept: np.ndarray, *, labelled: bool) -> Scores:
        program, e, plan = self.program, self.program.eval, self.plan
        needs = {need for metric in metrics for need in METRICS[metric].needs}
        outputs = {key.partition("/")[2]: array[kept] for key, array in self.made.items() if key.startswith(f"{name}/")}
        sides = [self._features(name, outputs.pop("features"), plan.label[kept]), self.features(name)]
        if not labelled:
            sides = [Features(side.values, None, side.extractor) for side in sides]
        return measure(
            *sides,
            program.dataset.classes if labelled else (),
            metrics,
            groups=self.groups if labelled else {},
            outputs=outputs,
            train=self.features(name, "train") if "train" in needs else None,
            held_out=self.features(name, "test") if "held_out" in needs else None,
            text=self._text(name, kept) if "text" in needs else None,
            diversity=self._diversity() if "diversity" in needs else None,
            pairs=self._pairs() if "pairs" in needs else None,
            seed=e.seed,
        )

    def _text(self, name: str, kept: np.ndarray) -> np.ndarray:
        """f32[n d]: what the network makes of each image's text."""
        network, plan = self.networks[name], self.plan
        prompts = self.subject.prompts(plan.label[kept], plan.index[kept])
        texts, back = np.unique(np.asarray(prompts, dtype=str), return_inverse=True)
        text = jax.jit(network.text)
        tokens = network.tokenise(texts.tolist())
        found = [np.asarray(text(network.frozen, tokens[i : i + TEXTS_AT_ONCE])) for i in range(0, len(texts), TEXTS_AT_ONCE)]
        return np.concatenate(found)[back]

    def _diversity(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{"generated", "real"}: (distances f[p], labels i[p]) of disjoint pairs of images of one class."""
        e, plan = self.program.eval, self.plan
        rng = np.random.default_rng([e.seed, 5])
        label, index = plan.label[plan.of_classes], plan.index[plan.of_classes]
        ours = self._some_pairs(label, rng)
        pictures = self.subject.pictures(label[ours.ravel()], index[ours.ravel()])
        real = self.reals(self.streamed[0])
        theirs = self._some_pairs(np.where(np.isin(real.labels, self.chosen), real.labels, -1), rng)
        originals = self.records(real.ids[theirs.ravel()])
        return {
            "generated": (self._distances(pictures), label[ours[:, 0]]),
            "real": (self._distances(originals), real.labels[theirs[:, 0]]),
        }

    def _some_pairs(self, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """i[p 2], at most ``eval.pairs``, equally many of each class; a label of -1 is left out."""
        pairs = disjoint_pairs(label, rng)
        pairs = pairs[label[pairs[:, 0]] >= 0]
        turn = indices(label[pairs[:, 0]])
        return pairs[np.sort(np.argsort(turn, kind="stable")[: self.program.eval.pairs])]

    def _distances(self, images: np.ndarray) -> np.ndarray:
        """f32[p] of images u8[2p h w c], pair after pair."""
        network = self.networks[self.program.eval.perceptual]
        distance, p = jax.jit(network.distance), len(images) // 2
        found = []
        for start in range(0, p, PAIRS_AT_ONCE):
            rows = np.resize(np.arange(start, min(start + PAIRS_AT_ONCE, p)), PAIRS_AT_ONCE)
            found.append(np.asarray(distance(network.frozen, images[2 * rows], images[2 * rows + 1])))
        return np.concatenate(found)[:p] if found else np.zeros(0, np.float32)

    def records(self, ids: np.ndarray, split: str = "") -> np.ndarray:
        """u8[n h w c]: real images as the networks see them."""
        records = self.program.dataset.open(split or self.program.eval.reference_split)
        return np.stack([read(records, self.program.transform, int(i)).image for i in ids])

    def _pairs(self) -> Pairs:
        """Each image beside the real one that it stands for."""
        plan, parts = self.plan, []
        wanted = self.subject.truths(plan.label, plan.index)
        nothing = lambda places: False  # noqa: E731
        for places, images in self.subject.stream(plan.label, plan.index, self.between, nothing):
            parts.append(compare(np.asarray(images)[: len(places)], self.records(wanted[places]), 255))
        return joined(parts)

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
