"""Evaluation of weights: generated images against real ones, per class and pooled, at exactly matched counts.

Knows no loop and changes no training state; its randomness is its own stream.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from diffusion import feed, keys
from diffusion.classifier_fit import Labelled, labelled
from diffusion.eval_report import scores_report
from diffusion.extractors import Extractor, Given
from diffusion.feature_chunks import FeatureChunks
from diffusion.generate import generate, indices
from diffusion.mesh import over_rows, replicated
from diffusion.metrics import Features, Scores, measure
from diffusion.program import Program, abstract_params
from diffusion.runs import weaker_weights
from diffusion.state import fingerprint
from diffusion.steps import make_validation_step
from diffusion.types import Params
from diffusion.window import divide


@dataclass(frozen=True)
class Report:
    """One evaluation.

    Attributes:
      values: {"eval/fd": ..., "eval/fd/class/<name>": ...}, None where a figure cannot be had.
      scores: the same with rows, aggregates and reasons.
      body: everything that eval/step_*.json holds.
    """

    values: dict[str, float | None]
    scores: Scores
    body: dict[str, Any]


def run(program: Program, params: Params, step: int) -> dict[str, float | None]:
    """{name: value} of ``program.eval.metrics`` on ``params``; see ``report``."""
    return report(program, params, step).values


def report(program: Program, params: Params, step: int, between: Callable[[], None] = lambda: None) -> Report:
    """Generate the plan's images, extract features of both sides, compare.

    Features of generated images stay in the workdir's ``cache/`` until the report is made, so that an evaluation of
    the same weights that was interrupted goes on with the next batch.

    Args:
      params: the EMA's weights, a plain tree without a replica axis.
      step: of the weights, for the record.
      between: called between two batches, on every process; what it raises ends the evaluation.

    Raises:
      ValueError: weights of another shape, or a generated or real image missing or counted twice.
    """
    _check_plain(program, params)
    began = time.monotonic()
    extractor, e = prepare(program), program.eval
    real = _real_features(program, extractor)
    names = program.dataset.classes
    plan = _plan(e.num_samples_per_class, real.labels, len(names))
    pooled_plan = _pooled_plan(e.num_samples, real.labels, len(names)) if e.num_samples else None
    label = np.repeat(np.arange(len(plan)), np.maximum(plan, 0 if pooled_plan is None else pooled_plan))
    index = indices(label)
    weights = _weights(program, params)
    chunks = FeatureChunks(program.workdir / "cache", _about(program, extractor, weights, label))
    made, predicted = _generated_features(program, extractor, params, label, index, chunks, between)
    mine = index < plan[label]
    generated = Features(made[mine], label[mine], extractor.name)
    scores = measure(generated, real, names, e.metrics, outputs={"classes": predicted[mine]}, seed=e.seed)
    values = dict(scores.values)
    if pooled_plan is not None:
        values |= _pooled(made[index < pooled_plan[label]], real, extractor.name, e)
    body = scores_report(scores) | {
        "metrics": {f"eval/{name}": value for name, value in values.items()},
        "step": step,
        "weights": weights,
        "extractor": {"name": extractor.name, "sha256": extractor.sha256, "accuracy": extractor.accuracy},
        "reference": {
            "dataset": program.dataset.name,
            "split": e.reference_split,
            "fingerprint": program.dataset.open(e.reference_split).fingerprint,
            "transform": repr(program.transform),
            "n": len(real),
            "left_out": program.dataset.sizes[e.reference_split] - len(real),
        },
        "counts": {names[c]: int(n) for c, n in enumerate(plan)},
        "requested_per_class": e.num_samples_per_class,
        "pooled_is": "in the data's class shares" if e.num_samples else "over the per-class images",
        "seeds": {"program": program.seed, "evaluation": e.seed},
        "sampler": dict(program.config["sampler"]),
        "seconds": round(time.monotonic() - began, 3),
    }
    chunks.clear()
    return Report(body["metrics"], scores, body)


@functools.cache
def prepare(program: Program) -> Extractor:
    """The extractor, trained or loaded once per program; before training, so that what is missing shows early."""
    train, test = (functools.partial(_split, program, split) for split in ("train", "test"))
    dataset = program.dataset
    return program.make_extractor(Given(dataset.name, len(dataset.classes), train, test, program.workdir / "cache"))


@functools.cache
def _split(program: Program, split: str) -> Labelled:
    return labelled(program.dataset.open(split), program.transform, feed.leave_out(program, split))


def validation(
    program: Program, weights: Mapping[str, Params], between: Callable[[], None] = lambda: None
) -> dict[str, float | None]:
    """The loss of each of ``weights`` (``val/loss``, ``val/loss_raw``) and its quarters of t on the test split.

    The example, its t and its noise are fixed, and the same for all weights.
    """
    key, frozen = keys.stream(program.seed, "validate"), program.diffusion.codec.frozen
    step, total = _validation_step(program), None
    for batch in feed.once(program, "test"):
        between()
        found = {name: jax.device_get(step(params, frozen, batch, key)) for name, params in weights.items()}
        sums = {name + part.removeprefix("loss"): pair for name, sums in found.items() for part, pair in sums.items()}
        sums = jax.tree.map(np.float64, sums)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return divide(total)


@functools.cache
def _validation_step(program: Program) -> Any:
    return make_validation_step(program.diffusion, program.mesh, program.dataset.sizes["test"])


def _check_plain(program: Program, params: Params) -> None:
    wanted, found = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (abstract_params(program), params)
    )
    if wanted != found:
        wrong = sorted(path for path in wanted | found if wanted.get(path) != found.get(path))[0]
        raise ValueError(
            f"weights at {wrong} have shape {found.get(wrong)}, the net's is {wanted.get(wrong)}; "
            "evaluation takes plain weights, without a replica axis"
        )


def _plan(per_class: int, labels: np.ndarray, classes: int = 0) -> np.ndarray:
    """n_c = min(asked, class size), i[k]; k is ``classes``, also where the last of them have no record."""
    return np.minimum(per_class, np.bincount(labels, minlength=classes))


def _pooled_plan(total: int, labels: np.ndarray, classes: int = 0) -> np.ndarray:
    """``total`` images in the classes' shares, by largest remainder, i[k]; never more than there are reals."""
    sizes = np.bincount(labels, minlength=classes)
    exact = min(total, len(labels)) * sizes / len(labels)
    counts = np.floor(exact).astype(int)
    missing = min(total, len(labels)) - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts


def _pooled(made: np.ndarray, real: Features, extractor: str, e: Any) -> dict[str, float | None]:
    metrics = [metric for metric in e.metrics if metric != "accuracy"]
    unlabelled = Features(real.values, None, extractor)
    return dict(measure(Features(made, None, extractor), unlabelled, (), metrics, seed=e.seed).values)


@functools.cache
def _extract(program: Program, extractor: Extractor) -> Any:
    def extract(frozen: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = extractor.extract(frozen, jax.lax.with_sharding_constraint(images, over_rows(program.mesh)))
        return found["features"], found["classes"]

    return jax.jit(extract, out_shardings=replicated(program.mesh))


def _real_features(program: Program, extractor: Extractor) -> Features:
    extract, found, ids, labels = _extract(program, extractor), [], [], []
    for batch in feed.once(program, program.eval.reference_split):
        gathered = jax.tree.map(
            np.asarray, jax.device_put((batch.id, batch.valid, batch.cond["label"]), replicated(program.mesh))
        )
        id_, valid, label = gathered
        found.append(np.asarray(extract(extractor.frozen, batch.x)[0])[valid])
        ids.append(id_[valid])
        labels.append(label[valid])
    order = np.concatenate(ids)
    wanted = np.arange(program.dataset.sizes[program.eval.reference_split])
    if program.loading.on_error == "skip":
        wanted = np.intersect1d(wanted, order)
    if not np.array_equal(np.sort(order), wanted):
        raise ValueError(f"the {program.eval.reference_split} split was not read exactly once: {len(order)} images")
    return Features(np.concatenate(found)[np.argsort(order)], np.concatenate(labels)[np.argsort(order)], extractor.name)


def _weights(program: Program, params: Params) -> dict[str, str]:
    """What the generated images are made of, those of a weaker net as well."""
    found, weaker = {"of": program.optimiser.averages.use, "sha256": fingerprint(params)}, weaker_weights(program)
    return found if weaker is None else found | {"weaker_sha256": fingerprint(weaker)}


def _about(program: Program, extractor: Extractor, weights: dict[str, str], label: np.ndarray) -> dict[str, Any]:
    """What decides the features of the generated images, to the bit on one topology."""
    return {
        "weights": weights,
        "extractor": [extractor.name, extractor.sha256],
        "config": {name: program.config[name] for name in ("process", "codec", "net", "cond", "sampler")},
        "seed": program.eval.seed,
        "batch_size": program.eval.batch_size,
        "devices": [*program.mesh.devices.shape, jax.process_count()],
        "images": np.bincount(label).tolist(),
    }


def _generated_features(
    program: Program,
    extractor: Extractor,
    params: Params,
    label: np.ndarray,
    index: np.ndarray,
    chunks: FeatureChunks,
    between: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Features f[n d] and read classes i[n], in the order of the plan; every planned image exactly once."""
    extract = _extract(program, extractor)
    stream = {"seed": program.eval.seed, "purpose": "evaluate"}
    for places, images in generate(program, params, label, index, **stream, between=between, done=chunks.has):
        values, classes = (np.asarray(a)[: len(places)] for a in extract(extractor.frozen, images))
        chunks.add(places, values, classes)
    order, found, predicted = chunks.all()
    if not np.array_equal(np.sort(order), np.arange(len(label))):
        raise ValueError(f"{len(label)} images were planned; {len(np.unique(order))} different ones were made")
    back = np.argsort(order)
    return found[back], predicted[back]
