"""Trains the classifier whose features measure a data set; a minute or less for small images."""

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion.data.loader import read
from diffusion.data.records import LeaveOut, Records
from diffusion.data.transforms import Transform
from diffusion.errors import DataError
from diffusion.nets.classifier import Classifier
from diffusion.types import Array, Params
from diffusion.weights import Weights

log = logging.getLogger(__name__)

EVAL_BATCH = 256


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with their classes: images u8[n h w c] in [0, 255], labels i[n] in [0, k)."""

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or not len(self.images):
            raise ValueError(f"images must be uint8 [n h w c]; got {self.images.dtype} {self.images.shape}")
        if self.labels.shape != (len(self.images),):
            raise ValueError(f"labels must be [{len(self.images)}]; got shape {self.labels.shape}")


@dataclass(frozen=True)
class Recipe:
    """How the classifier is trained.

    Attributes:
      steps, batch_size: batches, and images in each.
      lr, weight_decay: of AdamW; the rate warms up over a tenth of the steps and falls to 0 as a cosine.
      shift: images move by up to this many pixels, their edge repeated.
      seed: of the initial weights, order and shifts.
    """

    steps: int = 800
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.05
    shift: int = 1
    seed: int = 0


def labelled(records: Records, transform: Transform, leave_out: LeaveOut | None = None) -> Labelled:
    """A whole split in memory, through the training transform without its random part.

    Raises:
      DataError: a record cannot be read (with ``leave_out``: none can).
    """
    found = [read(records, transform, i, leave_out=leave_out) for i in range(len(records))]
    kept = [record for record in found if record is not None]
    if not kept:
        raise DataError(f"none of the {len(found)} records can be read; the first: {records.name(0)}")
    return Labelled(np.stack([r.image for r in kept]), np.array([r.label for r in kept], np.int32))


def fingerprint(train: Labelled, classes: int, recipe: Recipe) -> str:
    """sha256 hex of everything that decides the weights: images, labels, network and recipe."""
    digest = hashlib.sha256()
    for array in (train.images, train.labels.astype(np.int64)):
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    leaves = jax.tree.leaves_with_path(_shapes(train.images.shape[1:], classes))
    shapes = sorted((jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves)
    digest.update(repr((shapes, sorted(asdict(recipe).items()))).encode())
    return digest.hexdigest()


def fit(train: Labelled, test: Labelled, classes: int, recipe: Recipe) -> Weights:
    """Trains on ``train`` and measures accuracy on ``test``; the weights are rounded to float16 first.

    Equal inputs give equal weights on one machine.
    """
    rounded = trained(train, classes, recipe)
    accuracy = held_out_accuracy(rounded, test, classes)
    return Weights(rounded, fingerprint(train, classes, recipe), accuracy)


def trained(train: Labelled, classes: int, recipe: Recipe, *, quiet: bool = False) -> Params:
    """The weights, rounded to float16; ``quiet`` leaves the loss out of the log."""
    params = _init(train, classes, recipe.seed)
    start, step = _programs(classes, replace(recipe, seed=0))  # the seed is not part of what is compiled
    opt_state = start(params)
    for number, (images, labels) in enumerate(_batches(train, recipe), start=1):
        params, opt_state, loss = step(params, opt_state, images, labels)
        if number % 50 == 0:  # a bounded number of steps in flight
            value = float(loss)
            if not quiet:
                log.info("classifier step %d/%d, loss %.3f", number, recipe.steps, value)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), params)


def held_out_accuracy(params: Params, test: Labelled, classes: int) -> float:
    """Share of test images read as their label, each counted once."""
    return int(np.sum(read_as(params, test.images, classes) == test.labels)) / len(test.images)


def read_as(params: Params, images: np.ndarray, classes: int) -> np.ndarray:
    """The class i32[n] that each of u8[n h w c] is read as."""
    params, found = widened(params), []
    for start in range(0, len(images), EVAL_BATCH):
        part = images[start : start + EVAL_BATCH]
        padded = np.resize(part, (EVAL_BATCH, *part.shape[1:]))
        found.append(np.asarray(_read(params, padded, classes))[: len(part)])
    return np.concatenate(found)


def scaled(images: Array) -> Array:
    """u8 in [0, 255] to f32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def widened(params: Params) -> Params:
    """Stored float16 weights as the float32 the network computes in."""
    return jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params))


@functools.partial(jax.jit, static_argnums=2)
def _read(params: Params, images: Array, classes: int) -> Array:
    return Classifier(classes).apply({"params": params}, scaled(images))[1].argmax(-1)


@functools.cache
def _shapes(image: tuple[int, ...], classes: int) -> Params:
    blank = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    return jax.eval_shape(lambda x: Classifier(classes).init(jax.random.key(0), x), blank)["params"]


def _init(train: Labelled, classes: int, seed: int) -> Params:
    """The network's own initialisers, drawn with NumPy: compiling them takes longer than training."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> Array:
        kind = path[-1].key
        if kind == "kernel":  # LeCun normal
            values = rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        else:
            values = np.full(leaf.shape, {"scale": 1.0, "bias": 0.0}[kind])
        return jnp.asarray(values.astype(np.float32))

    return jax.tree.map_with_path(draw, _shapes(train.images.shape[1:], classes))


def _optimiser(recipe: Recipe) -> optax.GradientTransformation:
    warmup = max(1, recipe.steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.lr, warmup, max(warmup + 1, recipe.steps))
    return optax.adamw(rate, weight_decay=recipe.weight_decay)


@functools.cache
def _programs(classes: int, recipe: Recipe) -> tuple[Callable, Callable]:
    """(params -> opt_state, the training step), compiled once for all fits of one recipe."""
    model, optimiser = Classifier(classes), _optimiser(recipe)

    def loss_of(params: Params, images: Array, labels: Array) -> Array:
        _, logits = model.apply({"params": params}, scaled(images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(params: Params, opt_state: optax.OptState, images: Array, labels: Array) -> tuple:
        loss, grads = jax.value_and_grad(loss_of)(params, images, labels)
        updates, opt_state = optimiser.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return jax.jit(optimiser.init), jax.jit(step, donate_argnums=(0, 1))


def _batches(train: Labelled, recipe: Recipe) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(recipe.seed)
    wanted, n = recipe.steps * recipe.batch_size, len(train.images)
    order = np.concatenate([rng.permutation(n) for _ in range(-(-wanted // n))])[:wanted]
    for rows in order.reshape(recipe.steps, recipe.batch_size):
        yield _shifted(train.images[rows], recipe.shift, rng), train.labels[rows].astype(np.int32)


def _shifted(images: np.ndarray, shift: int, rng: np.random.Generator) -> np.ndarray:
    b, h, w, _ = images.shape
    top, left = rng.integers(0, 2 * shift + 1, (2, b, 1))
    around = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    down, across = top + np.arange(h), left + np.arange(w)  # [b h], [b w]
    return around[np.arange(b)[:, None, None], down[:, :, None], across[:, None, :]]
