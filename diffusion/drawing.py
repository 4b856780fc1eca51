"""What ``--mode=sample`` is asked to draw: which images, what they start from, and what lies between two of them."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from diffusion import feed
from diffusion.data.loader import read
from diffusion.data.support import Support
from diffusion.errors import ConfigError
from diffusion.plan import indices
from diffusion.program import Program
from diffusion.start_images import known_mask, start_images


@dataclass(frozen=True)
class Drawing:
    """The images of `generate.images`.

    Attributes:
      label, index: i[n].
      given: what they start from beside their noise, see `sample_step.Given`.
      first: of the grid's times to start at.
      trajectory: whether the way there is wanted too.
      support: the sets that they are conditioned on, where a person gives them.
    """

    label: np.ndarray
    index: np.ndarray
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    first: int = 0
    trajectory: bool = False
    support: Support | None = None


def asked_drawing(program: Program, label: np.ndarray, support: Support | None = None) -> Drawing:
    """The images that ``sample`` asks for, of the classes ``label`` i[n] or of ``support``.

    Raises:
      ConfigError: ``sample.start``, ``t0``, ``mask`` or ``interpolate`` cannot be had.
    """
    s, index = program.sample, indices(label)
    if s.interpolate:
        return replace(_between(program, label, index), support=support)
    if not s.start:
        return Drawing(label, index, trajectory=s.trajectory, support=support)
    if program.dataset.latent:
        raise ConfigError("sample.start", f"is for images, and {program.dataset.name} holds latents: leave it empty")
    given = {"image": _starts(program, label, index)}
    if s.mask:
        if program.diffusion.net.shape[:2] != program.transform.shape[:2]:
            raise ConfigError("sample.mask", "is for pixels; this net works on latents")
        mask = known_mask(s.mask, program.transform.shape)
        given["known"] = np.broadcast_to(mask, (len(label), *mask.shape))
    return Drawing(label, index, given, _first_time(program, s.t0), s.trajectory, support)


def _starts(program: Program, label: np.ndarray, index: np.ndarray) -> np.ndarray:
    """u8[n h w c]: what ``sample.start`` names, cycled; of a split, the records of each image's class, in order."""
    source, colon, split = program.sample.start.partition(":")
    if (source, colon) != ("data", ":"):
        images = start_images(program.sample.start, program.transform)
        return images[np.arange(len(label)) % len(images)]
    if split not in program.dataset.sizes:
        raise ConfigError("sample.start", f"there is no split {split!r}; there are {', '.join(program.dataset.sizes)}")
    records = program.dataset.open(split)
    starts = np.zeros((len(label), *program.transform.shape), np.uint8)
    for c in np.unique(label):
        here = np.flatnonzero(label == c)
        numbers = np.flatnonzero(records.labels == c) if records.labelled else np.arange(len(records))
        some = list(itertools.islice(_readable(program, split, numbers), len(here)))
        if not some:
            raise ConfigError("sample.start", f"the split {split} holds no image of {program.dataset.classes[c]}")
        starts[here] = [some[i % len(some)] for i in index[here]]
    return starts


def _readable(program: Program, split: str, numbers: np.ndarray) -> Iterator[np.ndarray]:
    """u8[h w c] of one record after another; those that ``data.on_error`` leaves out are passed over."""
    records, leave_out = program.dataset.open(split), feed.leave_out(program, split)
    for number in numbers.tolist():
        record = read(records, program.transform, number, leave_out=leave_out)
        if record is not None:
            yield record.image


def _first_time(program: Program, t0: float) -> int:
    """The place in the grid of the first time whose share of the way to noise is at most t0."""
    shares = np.asarray(program.diffusion.process.schedule.progress(program.sampling.times()[:-1]))
    low_enough = shares <= t0 + 1e-6
    if not low_enough.any():
        raise ConfigError(
            "sample.t0", f"is {t0}; the grid's last time lies at {shares[-1]:.4f}: take more sampler.steps"
        )
    return int(np.argmax(low_enough))


def _between(program: Program, label: np.ndarray, index: np.ndarray) -> Drawing:
    """Every image, and ``sample.interpolate`` more on the way to the next one, of the nearer one's class."""
    s, n = program.sample, len(label)
    if program.sampling.rule.stochastic:
        raise ConfigError("sample.interpolate", "needs a rule without noise of its own: take ddim with eta 0, or heun")
    if n < 2:
        raise ConfigError("sample.interpolate", "goes from one image to the next; ask for two or more (sample.num)")
    way = np.arange((n - 1) * (s.interpolate + 1) + 1) / (s.interpolate + 1)
    near = np.ceil(way - 0.5).astype(int)  # half way belongs to where it comes from
    far = np.clip(np.where(way < near, near - 1, near + 1), 0, n - 1)
    toward = np.stack([label[far], index[far]], axis=1).astype(np.int32)
    given = {"toward": toward, "share": np.abs(way - near).astype(np.float32)}
    return Drawing(label[near], index[near], given, trajectory=s.trajectory)
