"""States in which every leaf has another value, saved, for tests to copy, damage and restore."""

import jax
import jax.numpy as jnp

from diffusion.checkpoint import Checkpoints
from diffusion.lr_schedules import plateau_state
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.state import create

PARAMS = {
    "a": {"kernel": jnp.asarray([[0.5, -0.25]]), "bias": jnp.asarray([2.0])},
    "half": jnp.ones((3,), jnp.bfloat16),
}
TX = make_optimizer(OPTIMIZERS["adamw"](), CLIPS["global_norm"]())
META = {"config": {"optim": {"lr": 0.001}}, "data": {"position": 7}, "log_offset": 1234}


def train_state(seed=0):
    """A state in which every leaf has another value."""
    state = create(jax.tree.map(jnp.array, PARAMS), TX, plateau_state(), seed)
    leaves, tree = jax.tree.flatten(state)
    return jax.tree.unflatten(
        tree, [leaf + (seed + n) if leaf.dtype != jnp.uint32 else leaf for n, leaf in enumerate(leaves)]
    )


def shapes(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


ABSTRACT = shapes(train_state())


def write(directory, *steps, **keywords):
    """Save ``train_state(step)`` at each step."""
    checkpoints = Checkpoints(directory, keep=len(steps), **keywords)
    for step in steps:
        checkpoints.save(step, train_state(step), META | {"step": step})
    checkpoints.close()


def tree_of(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def flip(path, share):
    raw = bytearray(path.read_bytes())
    raw[int(share * (len(raw) - 1))] ^= 16
    path.write_bytes(bytes(raw))


def break_step(directory, step):
    flip(directory / str(step) / "meta" / "metadata", 0.5)
