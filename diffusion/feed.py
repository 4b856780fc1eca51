"""The program's splits as batches on the mesh."""

import contextlib
import functools
from collections.abc import Iterator

import jax

from diffusion import encoded
from diffusion.data.episodes import check_classes
from diffusion.data.loader import Loader, make_loader, one_epoch, prefetch_to_device
from diffusion.data.records import LeaveOut
from diffusion.data.skipped import Skipped
from diffusion.data.tally import Tally
from diffusion.mesh import padded_rows, put_rows
from diffusion.program import Program
from diffusion.types import Batch


def loader(
    program: Program, split: str, *, training: bool, batch_size: int = 0, sets: bool = True, images: bool = False
) -> Loader:
    """Shuffled and augmented for training; in order, as they are, for everything else.

    Args:
      batch_size: records at a time; that of training where 0.
      sets: give every example its set, where the net is conditioned on sets.
      images: images, also where the net learns from encodings of them.
    """
    batch_size = batch_size or program.loading.batch_size
    rows = program.rows if training else padded_rows(batch_size, program.mesh.size)
    sets = program.loading.sets if sets else None
    if images or program.loading.encodings is None:
        records, transform = program.dataset.open(split), program.transform
    else:
        records, transform = encoded.of_split(program, split)
    if sets and training:
        check_classes(records.labels, sets, program.dataset.classes)
    return make_loader(
        records,
        transform,
        batch_size=batch_size,
        rows=rows,
        seed=program.seed,
        shuffle=training,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=program.loading.threads,
        prefetch=program.loading.prefetch,
        leave_out=leave_out(program, split),
        sets=sets,
        draws=program.loading.draws if training else (),
    )


def tally(program: Program, source: Loader) -> Tally | None:
    """Of the classes that ``source``, in training, draws; None without labels.

    None too where nothing is balanced and labels are not known before the records are read: every record is then drawn
    once an epoch, and reading a large set to say so takes longer than it is worth.
    """
    dataset = program.dataset
    balanced = program.loading.draws or program.diffusion.class_weights
    if not dataset.classes or not (dataset.labels_known or balanced):
        return None
    return Tally(source.order, source.records.labels, dataset.classes)


@functools.cache
def skipped(program: Program) -> Skipped:
    """The records that this run leaves out, counted over all its loaders."""
    return Skipped(program.loading.max_skipped, jax.process_index())


def leave_out(program: Program, split: str) -> LeaveOut | None:
    """What a record of ``split`` that cannot be read does; None: it is an error."""
    return skipped(program).of(split) if program.loading.on_error == "skip" else None


@contextlib.contextmanager
def from_step(program: Program, source: Loader, step: int) -> Iterator[Iterator[Batch]]:
    """Batches on the mesh from ``step`` on, for ever, made ahead of need."""
    with (
        contextlib.closing(source.iterate(step)) as host,
        contextlib.closing(prefetch_to_device(host, lambda batch: put_rows(program.mesh, batch))) as batches,
    ):
        yield batches


def once(
    program: Program, split: str, batch_size: int = 0, *, sets: bool = False, images: bool = True
) -> Iterator[Batch]:
    """Every record of a split once, in order, on the mesh; ``batch_size``, ``sets`` and ``images`` as of `loader`."""
    source = loader(program, split, training=False, batch_size=batch_size, sets=sets, images=images)
    with contextlib.closing(one_epoch(source)) as host:
        for batch in host:
            yield put_rows(program.mesh, batch)
