"""What a fresh run begins with that was trained before: a whole net (``init_from``) or parts of it (``init_parts``)."""

from pathlib import Path
from typing import Any

import jax

from diffusion import part_files, saved_ema
from diffusion.errors import ConfigError, DataError, MismatchError, NoValidCheckpoint
from diffusion.leaves import by_path, rebuild
from diffusion.mesh import on_mesh
from diffusion.parts import part_of
from diffusion.program import Program, abstract_params
from diffusion.types import Params


def whole_net(program: Program) -> Params | None:
    """The weights of ``init_from``, on the mesh; None without it.

    Raises:
      ConfigError: there is no such checkpoint. MismatchError: it holds another net.
    """
    if not program.init_from:
        return None
    folder, step = saved_ema.named_run(program.init_from)
    wanted = on_mesh(program.mesh, abstract_params(program))
    try:
        saved = saved_ema.checkpoints_of(folder, step)
        return saved_ema.whole(saved, step, saved_ema.used_by(saved, step), wanted).state
    except NoValidCheckpoint as error:
        raise ConfigError("init_from", str(error)) from error


def parts(program: Program) -> dict[str, Params]:
    """``{first key of the params: weights}`` of ``init_parts``, on the mesh.

    Raises:
      ConfigError: a file or checkpoint is not readable, or does not hold exactly the part's arrays; all are listed.
    """
    if not program.init_parts:
        return {}
    wanted = on_mesh(program.mesh, abstract_params(program))
    sources = {key: program.init_parts.get(part_of(key)) for key in wanted}
    return {key: _one_part(source, key, wanted[key]) for key, source in sources.items() if source}


def _one_part(source: str, key: str, wanted: Any) -> Params:
    try:
        if source.endswith(".safetensors"):
            return _placed(part_files.read(Path(source), wanted), wanted)
        folder, step = saved_ema.named_run(source)
        return saved_ema.one_part(saved_ema.checkpoints_of(folder, step), step, key, wanted)
    except (DataError, MismatchError, NoValidCheckpoint) as error:
        raise ConfigError("init_parts", f"{part_of(key)}: {error}") from error


def _placed(arrays: dict[str, Any], wanted: Any) -> Params:
    placed = {
        path: jax.make_array_from_callback(leaf.shape, leaf.sharding, arrays[path].__getitem__)
        for path, leaf in by_path(wanted).items()
    }
    return rebuild(wanted, placed)
