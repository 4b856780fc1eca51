"""Encode a data set: every record once, on the mesh, into the folder that ``data.encodings`` names."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import disk, encoded, feed
from diffusion.cluster import barrier, of_first
from diffusion.data import unfinished
from diffusion.data.array_shards import Layout, shard_names, write_shard
from diffusion.data.encodings import FIELD, LABEL, LATENT, NAME, Encodings, File, Split, read
from diffusion.data.loader import Loader
from diffusion.environment import environment
from diffusion.errors import ConfigError, DataError, DiskError
from diffusion.frozen import codec_weights
from diffusion.mesh import over_rows, put_rows, replicated
from diffusion.program import CLASS_CONDITION, Program
from diffusion.progress import say
from diffusion.types import Batch, Frozen

EncodeStep = Callable[[Frozen, Batch], dict[str, jax.Array]]


@dataclass(frozen=True)
class Piece:
    """One file: a split's batches from ``start`` up to before ``stop``."""

    split: str
    name: str
    start: int
    stop: int


def encode(program: Program, between: Callable[[], None] = lambda: None) -> Encodings:
    """Write ``data.encodings``, whole or not at all; what was broken off goes on with the first file that is missing.

    Args:
      between: called before every batch, on every process; what it raises ends the encoding.

    Raises:
      ConfigError: something else stands there, or nothing can; nothing is written.
      DataError: a record cannot be read, or its encoding is not finite in ``encode.dtype``.
      DiskError: no room.
    """
    folder, step = program.loading.encodings, encode_step(program)
    layout = _layout(program, step)
    if _there(program, folder, layout):
        say(f"{folder} holds these encodings already")
        return read(folder)
    sources = {s: feed.loader(program, s, training=False, sets=False, images=True) for s in encoded.splits(program)}
    pieces = _pieces(sources, layout.size, program.encode.shard_mb)
    plan = {
        "made_of": encoded.made_of(program),
        "contents": encoded.contents(program),
        "arrays": layout.as_json(),
        "files": [vars(piece) for piece in pieces],
    }
    partial, compiled, first = unfinished.partial_of(folder), _compiled(program, step), jax.process_index() == 0
    with _alone(folder):
        done = of_first(unfinished.go_on(partial, plan) if first else None)
        left = [piece for piece in pieces if piece.name not in done]
        _check_room(folder, layout.size * sum(_count(sources, piece) for piece in left))
        for number, piece in enumerate(left, start=1):
            say(f"encoding {piece.name} ({number} of {len(left)})")
            batches = _batches(program, sources[piece.split], piece, compiled, between)
            _write(partial / piece.name, _packed(layout, batches))
        if first:
            _described(program, partial, layout, sources, pieces).save()
            unfinished.put_in_place(folder)
    barrier("the encodings are in their place")
    return read(folder)


def encode_step(program: Program) -> EncodeStep:
    """(frozen, batch) -> ``latent`` [b v h w c] in ``encode.dtype``, ``label`` i32[b] and ``id`` as given.

    The codec is shown a batch in the shape in which the train step shows it one. Any other array [b …] that is answered
    is kept too, and is a condition of that name to those who read.
    """
    codec, flip, dtype = program.diffusion.codec, program.transform.flip, jnp.dtype(program.encode.dtype)

    def step(frozen: Frozen, batch: Batch) -> dict[str, jax.Array]:
        variants = [batch.x, batch.x[:, :, ::-1]] if flip else [batch.x]
        latent = jnp.stack([codec.encoded(frozen, images) for images in variants], axis=1)
        label = batch.cond.get(CLASS_CONDITION, jnp.full(batch.id.shape, -1, jnp.int32))
        return {LATENT: latent.astype(dtype), LABEL: label, "id": batch.id}

    return step


def _compiled(program: Program, step: EncodeStep) -> EncodeStep:
    """With answers that every process has whole."""
    rows, whole = over_rows(program.mesh), replicated(program.mesh)
    return jax.jit(step, in_shardings=(whole, rows), out_shardings=whole)


def _layout(program: Program, step: EncodeStep) -> Layout:
    row = jax.ShapeDtypeStruct((1,), jnp.int32)
    image = jax.ShapeDtypeStruct((1, *program.transform.shape), jnp.uint8)
    found = jax.eval_shape(step, program.diffusion.codec.frozen, Batch(image, {}, row, row))
    return Layout({name: (np.dtype(one.dtype), one.shape[1:]) for name, one in found.items() if name != "id"})


def _there(program: Program, folder: Path, layout: Layout) -> bool:
    """Whether the folder holds what is wanted. Raises ConfigError where it holds something else, or cannot be made."""
    if (folder / NAME).exists():
        found = read(folder)
        encoded.check_same(program, found)
        if found.layout == layout:
            return True
        was, asked = (str(one.arrays[LATENT][0]) for one in (found.layout, layout))
        raise ConfigError(FIELD, f"{folder} was made otherwise: encode.dtype: there {was}, here {asked}")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(FIELD, f"{folder} holds something else, which is left as it is; name another folder")
    why = of_first(disk.unwritable(folder) if jax.process_index() == 0 else None)
    if why:
        raise ConfigError(FIELD, f"{folder} cannot be written: {why}; name another folder")
    return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = unfinished.partial_of(folder) / unfinished.LOCK
    with disk.held(lock) if jax.process_index() == 0 else contextlib.nullcontext(True) as mine:
        if not of_first(mine):
            raise ConfigError(FIELD, f"another program is writing {folder}; wait, or name another folder")
        yield


def _check_room(folder: Path, size: int) -> None:
    free = of_first(disk.free_bytes(folder))
    if free < size:
        raise DiskError(f"{folder}: the encodings need {disk.readable(size)} and {disk.readable(free)} are free")


def _pieces(sources: Mapping[str, Loader], record: int, megabytes: int) -> list[Piece]:
    """Files of whole batches, each of ``megabytes`` at most, or of one batch."""
    found = []
    for split, source in sources.items():
        batch, batches = source.order.batch_size, source.steps_per_epoch
        each = max(1, megabytes * 10**6 // (record * batch))
        starts = range(0, batches, each)
        found += [
            Piece(split, name, start, min(start + each, batches))
            for name, start in zip(shard_names(split, len(starts)), starts, strict=True)
        ]
    return found


def _count(sources: Mapping[str, Loader], piece: Piece) -> int:
    """Records of a file."""
    source = sources[piece.split]
    batch, total = source.order.batch_size, len(source.records)
    return min(piece.stop * batch, total) - piece.start * batch


def _batches(
    program: Program, source: Loader, piece: Piece, step: EncodeStep, between: Callable[[], None]
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(numbers i64[n] of the records of a batch, what the step answered, in which what fills the batch has id -1)."""
    frozen = codec_weights(program)
    with contextlib.closing(source.iterate(piece.start, piece.stop)) as batches:
        for number, batch in enumerate(batches, start=piece.start):
            between()
            yield source.ids(number), jax.device_get(step(frozen, put_rows(program.mesh, batch)))


def _packed(layout: Layout, batches: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]) -> Iterator[bytes]:
    """Every record in order; no bytes for one that could not be read."""
    for ids, answered in batches:
        row = {int(i): place for place, i in enumerate(answered.pop("id"))}
        for i in ids.tolist():
            arrays = {name: array[row[i]] for name, array in answered.items()} if i in row else {}
            if arrays and not np.isfinite(arrays[LATENT]).all():
                kind = layout.arrays[LATENT][0]
                raise DataError(f"record {i}: its encoding is not finite in {kind} (encode.dtype=float32 goes further)")
            yield layout.packed(arrays) if arrays else b""


def _write(path: Path, records: Iterator[bytes]) -> None:
    """By process 0; the others take their part in the computation."""
    if jax.process_index() != 0:
        for _ in records:
            pass
        return
    with contextlib.closing(records), unfinished.whole_file(path) as writing:
        try:
            write_shard(writing, records)
        except RuntimeError as error:
            why = disk.refusal(error)
            if why is None:
                raise
            raise DiskError(f"{path}: {why}; make room, and the same command goes on with this file") from error


def _described(
    program: Program, partial: Path, layout: Layout, sources: Mapping[str, Loader], pieces: list[Piece]
) -> Encodings:
    """What the files in ``partial`` hold."""

    def split(name: str) -> Split:
        own = [piece for piece in pieces if piece.split == name]
        files = [File(p.name, _count(sources, p), (partial / p.name).stat().st_size) for p in own]
        return Split(sources[name].records.fingerprint, tuple(files))

    splits = {name: split(name) for name in sources}
    return Encodings(partial, encoded.made_of(program), layout, splits, environment())
