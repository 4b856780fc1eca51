"""What the networks say of the real images, read once and kept under a fingerprint of all that decides it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion import feed
from diffusion.agreement import all_processes
from diffusion.data import archive
from diffusion.errors import ConfigError, DataError
from diffusion.manifest import differences, json_sha256
from diffusion.mesh import replicated
from diffusion.networks import Networks, answering
from diffusion.program import CLASS_CONDITION, Program

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Reals:
    """Real images of a split, in the order of its records.

    Attributes:
      features: f32[n d]. What else a network answers is asked of generated images alone.
      labels: i32[n], all 0 in an unlabelled set.
      ids: i32[n], numbers of the records.
    """

    features: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


def reals(program: Program, networks: Networks, name: str, split: str) -> Reals:
    """What network ``name`` says of every readable record of ``split``, from the cache where that fits.

    Raises:
      ConfigError: ``eval.reference``, which stands for the evaluation's own network, was made otherwise; the
        differing keys stand there.
      DataError: a record that cannot be read, or was not read exactly once.
    """
    wanted = fingerprint(program, networks, name, split)
    given = program.eval.reference
    own = (name, split) == (program.eval.streamed[0], program.eval.reference_split)
    if given and own and is_ours(given):
        return _given(Path(given).expanduser(), wanted)
    path = cache_folder(program) / f"reference-{split}-{networks[name].name}-{json_sha256(wanted)[:16]}.npz"
    kept, whole = _kept(path, wanted), program.dataset.sizes[split]
    if kept is not None and len(kept.ids) < whole and program.loading.on_error != "skip":
        kept = None  # made by a run that left records out; this one does not
    if all_processes(kept is not None):
        return kept
    found = _read(program, name, split)
    if jax.process_index() == 0:
        _write(path, wanted, found)
    return found


def cache_folder(program: Program) -> Path:
    """Where what the networks say of real images is kept."""
    return Path(program.eval.cache).expanduser() if program.eval.cache else program.workdir / "cache"


def fingerprint(program: Program, networks: Networks, name: str, split: str) -> dict[str, Any]:
    """Everything that decides the answers, as plain JSON."""
    network, dataset = networks[name], program.dataset
    return {
        "schema": SCHEMA,
        "extractor": network.name,
        "weights_sha256": network.sha256,
        **{f"extractor_{key}": value for key, value in network.about.items()},
        "dataset": dataset.name,
        "split": split,
        "content_sha256": dataset.open(split).fingerprint,
        "classes": list(dataset.classes),
        "images": dataset.sizes[split],
        "image_shape": list(program.transform.shape),
        "transform": repr(program.transform),
        "backend": jax.default_backend(),
    }


def is_ours(path: str) -> bool:
    """Whether ``eval.reference`` is a file that `reals` wrote. Raises ConfigError for one that is no archive."""
    try:
        return "fingerprint" in archive.headers(Path(path).expanduser())
    except DataError as error:
        raise ConfigError("eval.reference", str(error)) from error


def _given(path: Path, wanted: Mapping[str, Any]) -> Reals:
    found, real = _load(path)
    lines = differences(found, wanted)
    if lines:
        raise ConfigError("eval.reference", f"{path} was made otherwise:\n  " + "\n  ".join(lines))
    return real


def _kept(path: Path, wanted: Mapping[str, Any]) -> Reals | None:
    """The cached file; None where there is none, or it is damaged and is made again."""
    if not path.exists():
        return None
    try:
        found, real = _load(path)
    except DataError:
        return None
    return None if differences(found, wanted) else real


def _load(path: Path) -> tuple[dict[str, Any], Reals]:
    arrays = archive.arrays(path)
    try:
        found = json.loads(str(arrays.pop("fingerprint")))
        return found, Reals(arrays["features"], arrays["labels"], arrays["ids"])
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: not a file of reference features ({error})") from error


def _write(path: Path, wanted: Mapping[str, Any], real: Reals) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        np.savez(
            file, fingerprint=np.array(json.dumps(wanted)), features=real.features, labels=real.labels, ids=real.ids
        )
    os.replace(partial, path)


def _read(program: Program, name: str, split: str) -> Reals:
    answer, chunks = answering(program, (name,)), []
    for batch in feed.once(program, split, program.eval.batch_size):
        label = batch.cond.get(CLASS_CONDITION)
        whole = jax.device_put((batch.id, batch.valid) + (() if label is None else (label,)), replicated(program.mesh))
        ids, valid, *labels = map(np.asarray, whole)
        features = answer(batch.x)[f"{name}/features"]
        chunks.append((ids[valid], labels[0][valid] if labels else np.zeros(valid.sum(), np.int32), features[valid]))
    ids, labels, features = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    wanted = np.arange(program.dataset.sizes[split])
    if program.loading.on_error == "skip":
        wanted = np.intersect1d(wanted, ids)
    if not np.array_equal(np.sort(ids), wanted):
        raise DataError(f"the {split} split was not read exactly once: {len(ids)} images of {len(wanted)}")
    order = np.argsort(ids)
    return Reals(features[order], labels[order], ids[order])
