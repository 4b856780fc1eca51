"""``--mode=posthoc``: the EMA of any width, from a run's snapshots; ``--mode=sample`` and ``eval`` can use it."""

import jax

from diffusion import snapshots
from diffusion.ema import width_name
from diffusion.errors import ConfigError, DataError
from diffusion.posthoc import PREFIX, path_of, reconstruct
from diffusion.program import Program
from diffusion.progress import say
from diffusion.runs import check_net


def posthoc(program: Program) -> None:
    """Write the average of width ``posthoc.sigma_rel`` at ``posthoc.step``.

    Raises:
      ConfigError: this run took no snapshots, or they do not give this width or step.
      DataError: a damaged snapshot. MismatchError: they are of another net.
    """
    wanted, averages = program.posthoc, program.optimiser.averages
    name = width_name(wanted.sigma_rel)
    if not averages.sigma_rels:
        raise ConfigError("ema.name", f"this run's is {program.config['ema']['name']}; only power gives other widths")
    if jax.process_index() != 0:
        return
    try:
        origin, arrays, fit = reconstruct(program.workdir, wanted.sigma_rel, wanted.step)
    except DataError as error:
        error.status = 2  # before anything is written
        raise
    check_net(program, program.workdir / snapshots.FOLDER, arrays, name)
    path = path_of(program.workdir, wanted.sigma_rel, origin.step)
    snapshots.write(path, origin, arrays)
    of = f"sigma_rel {name} at step {origin.step}, from {len(fit.coefficients)} averages"
    say(f"{of}: {fit.error:.2%} of its profile is missed")
    say(f"It wrote:\n  {path}\nUse it: --mode=sample --config.ema.use={PREFIX}{name}")
