"""Reading checkpoints: a step is taken only when its files, seal, manifest and fingerprints all agree."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from diffusion.agreement import all_processes
from diffusion.errors import MismatchError, NoValidCheckpoint
from diffusion.filelist import check_list
from diffusion.leaves import by_path, fingerprints, rebuild
from diffusion.manifest import Damaged, Manifest, manifest, mismatches, unsealed


class Restored(NamedTuple):
    """A verified checkpoint.

    Attributes:
      state: the tree that was asked for.
      meta: what the caller gave to `Checkpoints.save`.
      step: the step it was saved at.
    """

    state: Any
    meta: dict[str, Any]
    step: int


def first_valid(
    directory: Path, order: Sequence[int], abstract_state: Any, partial: int
) -> tuple[Restored, dict[int, str]]:
    """The first step of ``order`` that is whole, and why those before it are damaged. Touches nothing.

    Args:
      partial: 0 for the whole state, or how many names of a path make a branch, of which some alone are wanted.

    Raises:
      MismatchError: a whole step holds other leaves than ``abstract_state``.
      NoValidCheckpoint: every step is damaged.
    """
    damaged: dict[int, str] = {}
    for step in order:
        path = directory / str(step)
        body, reason = _attempt(lambda step=step: _verified_body(directory, step))
        if body is not None:
            _refuse_mismatch(path, body["manifest"], manifest(abstract_state), partial)
            prints = body["fingerprints"]
            state, reason = _attempt(lambda path=path, prints=prints: _arrays(path, abstract_state, prints))
            if state is not None:
                return Restored(state, body["meta"], step), damaged
        damaged[step] = reason
    lines = "\n".join(f"  {step}: {reason}" for step, reason in damaged.items())
    raise NoValidCheckpoint(
        f"{directory}: no checkpoint is valid\n{lines}\n"
        "nothing was touched; put back a good copy, or start over in another workdir"
    )


def _verified_body(directory: Path, step: int) -> dict[str, Any]:
    """The sealed JSON of one step whose files are those that were written; process 0 reads them for all."""
    if jax.process_index() == 0:
        check_list(directory / str(step))
    return read_body(directory, step)


def read_body(directory: Path, step: int) -> dict[str, Any]:
    """The sealed JSON of one step. Raises Damaged."""
    path = directory / str(step) / "meta" / "metadata"
    if not path.is_file():
        raise Damaged("its metadata is missing")
    body = unsealed(path.read_bytes().decode(errors="replace"))
    if body["step"] != step:
        raise Damaged(f"it holds step {body['step']}")
    return body


def _attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """(result, "") or (None, why it is damaged), the same on every process."""
    result, reason = None, ""
    try:
        result = read()
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise  # the machine's trouble, not the checkpoint's
    except Damaged as error:
        reason = str(error)
    except Exception as error:  # damaged files make Orbax raise many types
        reason = f"its arrays are not readable ({type(error).__name__})"
    if not all_processes(result is not None):
        return None, reason or "another process cannot read it"
    return result, ""


def _refuse_mismatch(path: Path, saved: Manifest, wanted: Manifest, partial: int) -> None:
    branches = {_branch(name, partial) for name in wanted}
    compared = {name: leaf for name, leaf in saved.items() if _branch(name, partial) in branches}
    lines = mismatches(compared, wanted)
    if lines:
        listed = "\n  ".join(lines)
        raise MismatchError(f"checkpoint {path} does not fit this config; nothing was touched\n  {listed}")


def _branch(name: str, depth: int) -> tuple[str, ...]:
    return tuple(name.split("/")[:depth])


def _arrays(path: Path, abstract_state: Any, prints: Mapping[str, int]) -> Any:
    """The arrays of one step, in the wanted tree, equal bit for bit to what was saved; else Damaged."""
    import orbax.checkpoint as ocp

    wanted = {name: _placed(leaf) for name, leaf in by_path(abstract_state).items()}
    args = ocp.args.PyTreeRestore(
        item=wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = reader.restore(path / "state", args=args)
    if not all(isinstance(leaf, jax.Array) for leaf in found.values()) or manifest(found) != manifest(wanted):
        raise Damaged("its arrays are not those of its metadata")
    changed = [name for name, value in fingerprints(found).items() if value != prints[name]]
    if changed:
        raise Damaged(f"{', '.join(changed[:3])}: not the bits that were saved")
    return rebuild(abstract_state, found)


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
