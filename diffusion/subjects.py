"""What is evaluated: images drawn from weights, or images of any other program in a folder or an npz."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from diffusion import runs, supports
from diffusion.data.support import Support
from diffusion.errors import ConfigError
from diffusion.generate import generate, images
from diffusion.given_images import GivenImages
from diffusion.mesh import padded_rows, put_rows
from diffusion.metrics import METRICS
from diffusion.program import Program
from diffusion.state import fingerprint
from diffusion.types import Params

Stream = Iterator[tuple[np.ndarray, jax.Array]]  # (places i[r], u8[b h w c] on the mesh, of which r are real)


@dataclass(frozen=True, eq=False)
class Subject:
    """Images by (class, index); the same pair is always the same image.

    Attributes:
      about: plain JSON of all that decides them, for the record and for what an interrupted evaluation left.
      have: i[k], how many there are of each class; None where any number can be drawn.
      stream: (label i[n], index i[n], between, done) -> batches of images, see `generate.generate`.
      pictures: (label, index) -> u8[n h w c] on the host, for a few of them.
      prompts: (label, index) -> texts [n]; None without any. ``about_prompts`` says where they are from.
      truths: (label, index) -> i[n], the record of the reference split that each stands for; None where unknown.
      labelled: whether the images have classes; those without are compared as one set, whatever the data set has.
      support: the sets that they are conditioned on; None where they are not.
    """

    about: dict[str, Any]
    have: np.ndarray | None
    stream: Callable[[np.ndarray, np.ndarray, Callable[[], None], Callable[[np.ndarray], bool]], Stream]
    pictures: Callable[[np.ndarray, np.ndarray], np.ndarray]
    prompts: Callable[[np.ndarray, np.ndarray], Sequence[str]] | None = None
    about_prompts: str = ""
    truths: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    labelled: bool = True
    support: Support | None = None


def drawn(program: Program, params: Params, average: str) -> Subject:
    """Images drawn from ``params``, the average of that name, by the evaluation's own stream."""
    seeds = {"seed": program.eval.seed, "purpose": "evaluate"}
    sampler = dict(program.config["sampler"]) | {"guidance_scale": program.sampling.guidance.scale}
    weaker = runs.weaker_weights(program)
    weights = {"of": average, "sha256": fingerprint(params)}
    if weaker is not None:
        weights["weaker_sha256"] = fingerprint(weaker)

    def stream(label: np.ndarray, index: np.ndarray, between: Callable, done: Callable) -> Stream:
        return generate(program, params, label, index, **seeds, between=between, done=done)

    def pictures(label: np.ndarray, index: np.ndarray) -> np.ndarray:
        return images(program, params, label, index, **seeds)

    return Subject(
        about={
            "weights": weights,
            "config": {name: program.config[name] for name in ("process", "codec", "net", "cond", "context")},
            "sampler": sampler,
            **supports.about(program),
        },
        have=None,
        stream=stream,
        pictures=pictures,
        prompts=prompts_of_classes(program),
        about_prompts=_template(program),
        support=supports.of_split(program, program.eval.seed) if supports.needed(program) else None,
    )


def given(program: Program, found: GivenImages) -> Subject:
    """Images of another program; where a class has more than are compared, a subset drawn by ``eval.seed`` is taken.

    Raises:
      ConfigError: a metric or a field that needs what these images do not have: labels, texts, ids.
    """
    labelled, own_texts = found.labels is not None, found.prompts is not None
    templates = prompts_of_classes(program) if labelled else None
    _check_has(program, found, texts=own_texts or templates is not None)
    order = _ByClass.of(program, found)
    return Subject(
        about={"images": {"path": str(found.path), "sha256": found.fingerprint(), "n": len(found)}},
        have=np.array([len(each) for each in order.of_class]),
        stream=order.stream,
        pictures=order.pictures,
        prompts=order.prompts if own_texts else templates,
        about_prompts="prompts of the file" if own_texts else _template(program) if labelled else "",
        truths=None if found.ids is None else order.truths,
        labelled=labelled,
    )


@dataclass(frozen=True, eq=False)
class _ByClass:
    """Given images by (class, index).

    Attributes:
      of_class: i[n_c] of each class, its images in the order in which they are taken; all of one without labels.
    """

    program: Program
    found: GivenImages
    of_class: list[np.ndarray]

    @classmethod
    def of(cls, program: Program, found: GivenImages) -> "_ByClass":
        labels = np.zeros(len(found), np.int64) if found.labels is None else np.asarray(found.labels)
        rows = [np.flatnonzero(labels == c) for c in range(1 if found.labels is None else len(program.dataset.classes))]
        seeds = [[program.eval.seed, 4, c] for c in range(len(rows))]
        return cls(
            program, found, [np.random.default_rng(s).permutation(own) for s, own in zip(seeds, rows, strict=True)]
        )

    def rows(self, label: np.ndarray, index: np.ndarray) -> np.ndarray:
        return np.array([self.of_class[c][i] for c, i in zip(label, index, strict=True)], np.int64)

    def pictures(self, label: np.ndarray, index: np.ndarray) -> np.ndarray:
        return _read(self.found, self.rows(label, index))

    def prompts(self, label: np.ndarray, index: np.ndarray) -> Sequence[str]:
        return [self.found.prompts[i] for i in self.rows(label, index)]

    def truths(self, label: np.ndarray, index: np.ndarray) -> np.ndarray:
        return self.found.ids[self.rows(label, index)]

    def stream(self, label: np.ndarray, index: np.ndarray, between: Callable, done: Callable) -> Stream:
        mesh, wanted = self.program.mesh, self.rows(label, index)
        rows = padded_rows(self.program.eval.batch_size, mesh.size)
        here = slice(*(rows * (jax.process_index() + i) // jax.process_count() for i in (0, 1)))
        for start in range(0, len(wanted), rows):
            between()
            places = np.arange(start, min(start + rows, len(wanted)))
            if not done(places):
                yield places, put_rows(mesh, _read(self.found, wanted[np.resize(places, rows)[here]]))


def _check_has(program: Program, found: GivenImages, *, texts: bool) -> None:
    """Refuses what these images cannot give."""
    e = program.eval
    there = {"labels": found.labels is not None, "text": texts, "pairs": found.ids is not None}
    absent = {"labels": "labels", "text": "prompts, nor classes to name", "pairs": "ids of the images they stand for"}
    for metric in e.metrics:
        missing = [absent[need] for need in METRICS[metric].needs if not there.get(need, True)]
        if missing:
            others = ",".join(other for other in e.metrics if other != metric)
            instead = f"; take eval.metrics={others}" if others else ""
            raise ConfigError("eval.metrics", f"{metric}: {found.path} holds no {missing[0]}{instead}")
    real = program.dataset.sizes[e.reference_split]
    if found.ids is not None and found.ids.max() >= real:
        raise ConfigError(
            "eval.images",
            f"{found.path}: ids count the {real} images of the {e.reference_split} split from 0; "
            f"one is {found.ids.max()}",
        )
    if e.groups and not there["labels"]:
        raise ConfigError("eval.groups", f"{found.path} holds no labels: its images belong to no group of classes")


def _read(found: GivenImages, rows: np.ndarray) -> np.ndarray:
    """u8[n h w c] of the rows, read side by side."""
    return next(found.chunks(max(len(rows), 1), rows))[1]


def prompts_of_classes(program: Program) -> Callable[[np.ndarray, np.ndarray], Sequence[str]] | None:
    """``eval.prompt`` with the class's name in it; None without classes or a template."""
    names, template = program.dataset.classes, program.eval.prompt
    if not names or not template:
        return None
    return lambda label, index: [template.replace("{}", names[c]) for c in label]


def _template(program: Program) -> str:
    return f'prompt "{program.eval.prompt}"' if prompts_of_classes(program) else ""
