"""The encodings that ``data.encodings`` names, checked against the data, the transform and the codec of a program."""

import functools
from collections.abc import Mapping
from typing import Any

from diffusion.data.encodings import FIELD, LATENT, EncodedRecords, EncodedTransform, Encodings, read
from diffusion.errors import ConfigError
from diffusion.manifest import differences
from diffusion.program import Program
from diffusion.weights import tree_sha256

SCHEMA = 1  # of what is stored, and of what the codecs of this version make of an image


def made_of(program: Program) -> dict[str, Any]:
    """All that decides the encodings beside the records, as plain JSON."""
    dataset, codec = program.dataset, program.diffusion.codec
    return {
        "schema": SCHEMA,
        "dataset": dataset.name,
        "classes": list(dataset.classes),
        "transform": repr(program.transform),
        **codec.about,
        "weights_sha256": tree_sha256(codec.frozen),
    }


def splits(program: Program) -> list[str]:
    """Those that training reads: its own, and those of the validation loss."""
    return list(dict.fromkeys([program.dataset.train_split, *program.dataset.validation_splits.values()]))


def contents(program: Program) -> dict[str, str]:
    """The fingerprint of each of these splits' records, which reads all of them once."""
    return {f"content_sha256 of {split}": program.dataset.open(split).fingerprint for split in splits(program)}


def check_same(program: Program, found: Encodings) -> None:
    """Raises ConfigError, which names all that differs, where the encodings are not of this program."""
    of_splits = {f"content_sha256 of {name}": split.content_sha256 for name, split in found.splits.items()}
    missing = [split for split in splits(program) if split not in found.splits]
    if missing:
        there = ", ".join(found.splits)
        raise ConfigError(FIELD, f"{found.folder} holds no split {', '.join(missing)}; there are: {there}")
    _check(found, found.made_of, made_of(program))  # what metadata tells, before all records are read
    wanted = contents(program)
    _check(found, {name: of_splits[name] for name in wanted}, wanted)


def _check(found: Encodings, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    lines = differences(there, here)
    if lines:
        raise ConfigError(FIELD, f"{found.folder} was made otherwise: {'; '.join(lines)}")


@functools.cache
def encodings(program: Program) -> Encodings:
    """The folder, whose every file was looked at.

    Raises:
      ConfigError: there are none, or they were made of something else.
      DataError: they are damaged, or a record of the data cannot be read.
    """
    found = read(program.loading.encodings)
    check_same(program, found)
    for split in splits(program):
        _records(program, found, split)
    return found


@functools.cache
def _records(program: Program, found: Encodings, split: str) -> EncodedRecords:
    return found.records(split, program.dataset.open(split))


def of_split(program: Program, split: str) -> tuple[EncodedRecords, EncodedTransform]:
    """What a loader reads in place of the images of ``split`` and their transform. Raises what `encodings` does."""
    found, transform = encodings(program), program.transform
    shape = found.layout.arrays[LATENT][1][1:]
    return _records(program, found, split), EncodedTransform(shape, repr(transform), transform.flip)
