"""What some metrics need beside features: texts, distances of pairs, images next to their truths."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from diffusion.announced import announced
from diffusion.compared import Compared
from diffusion.metrics.diversity import disjoint_pairs
from diffusion.metrics.paired import Pairs, compare, joined
from diffusion.plan import indices

PAIRS_AT_ONCE = 32  # of the perceptual distance
TEXTS_AT_ONCE = 256
DATA_RANGE = 255


def texts(compared: Compared, name: str, kept: np.ndarray) -> np.ndarray:
    """f32[n d]: what network ``name`` makes of the text of each image that is ``kept`` bool[n]."""
    network, plan = compared.networks[name], compared.plan
    prompts = compared.subject.prompts(plan.label[kept], plan.index[kept])
    different, back = np.unique(np.asarray(prompts, dtype=str), return_inverse=True)
    tokens = np.asarray(network.tokenise(different.tolist()))
    text, frozen = _compiled("the texts of the evaluation", network.text), jax.device_put(network.frozen)
    found = []
    for start in range(0, len(tokens), TEXTS_AT_ONCE):
        rows = np.resize(np.arange(start, min(start + TEXTS_AT_ONCE, len(tokens))), min(TEXTS_AT_ONCE, len(tokens)))
        found.append(np.asarray(text(frozen, tokens[rows])))
    return np.concatenate(found)[: len(tokens)][back]


def distances(compared: Compared) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of disjoint pairs of images of one class: {"generated": (f32[p], their labels i[p]), "real": the same}."""
    e, plan = compared.program.eval, compared.plan
    rng = np.random.default_rng([e.seed, 5])
    label, index = plan.label[plan.of_classes], plan.index[plan.of_classes]
    first = np.random.default_rng([e.seed, 6]).permutation(len(plan.per_class))
    ours = _some_pairs(label, e.pairs, rng, first)
    made = compared.subject.pictures(label[ours.ravel()], index[ours.ravel()])
    real = compared.reals(compared.streamed[0])
    classes = compared.classes_of(real)
    theirs = _some_pairs(classes, e.pairs, rng, first)
    return {
        "generated": (_distances(compared, made), label[ours[:, 0]]),
        "real": (_distances(compared, compared.records(real.ids[theirs.ravel()])), classes[theirs[:, 0]]),
    }


def pairs(compared: Compared, kept: np.ndarray) -> Pairs:
    """Each image that is ``kept`` bool[n] beside the real one that it stands for; on the host, by every process."""
    plan, subject, at_once = compared.plan, compared.subject, compared.program.eval.batch_size
    label, index, parts = plan.label[kept], plan.index[kept], []
    truths = subject.truths(label, index)
    for rows in (slice(start, start + at_once) for start in range(0, len(label), at_once)):
        compared.between()
        made = subject.pictures(label[rows], index[rows])
        parts.append(compare(made, compared.records(truths[rows]), DATA_RANGE))
    return joined(parts)


def _some_pairs(label: np.ndarray, most: int, rng: np.random.Generator, first: np.ndarray) -> np.ndarray:
    """i[p 2], p at most ``most``, equally many of each class as far as there are; images of label -1 are left out.

    Args:
      first: i[k], in which order classes get a pair more than others, where there is none for all of them.
    """
    found = disjoint_pairs(label, rng)
    found = found[label[found[:, 0]] >= 0]
    own = label[found[:, 0]]
    return found[np.sort(np.lexsort((first[own], indices(own)))[:most])]


def _distances(compared: Compared, images: np.ndarray) -> np.ndarray:
    """f32[p] of images u8[2p h w c], pair after pair."""
    network = compared.networks["perceptual"]
    distance = _compiled("the distances of the evaluation", network.distance)
    frozen, p = jax.device_put(network.frozen), len(images) // 2
    found = [np.zeros(0, np.float32)]
    for start in range(0, p, PAIRS_AT_ONCE):
        rows = np.resize(np.arange(start, min(start + PAIRS_AT_ONCE, p)), PAIRS_AT_ONCE)
        found.append(np.asarray(distance(frozen, images[2 * rows], images[2 * rows + 1])))
    return np.concatenate(found)[:p]


@functools.cache
def _compiled(what: str, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return announced(what, jax.jit(function))
