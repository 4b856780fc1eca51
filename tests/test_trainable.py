"""What a config can choose to train on is traced through the whole train, validation and sample step, not run."""

import jax
import jax.numpy as jnp
import pytest

from diffusion.objective import DENSITIES, WEIGHTINGS
from diffusion.process import TARGETS
from diffusion.runs import _abstract_state
from diffusion.steps import make_train_step, make_validation_step
from diffusion.types import Batch
from tests.tiny import program

DECOUPLED = {"process__schedule": "decoupled", "process__target": "decoupled"}
CHOICES = {
    **{
        f"target {name}": {
            "process__schedule": "decoupled" if "decoupled" in name else "cosine",
            "process__target": name,
            **({"sampler__name": "decoupled"} if name == "decoupled_linear" else {}),
        }
        for name in TARGETS
    },
    **{
        f"weighting {name}": {"objective__weighting": name, **(DECOUPLED if name in ("bounded_exp", "ddm") else {})}
        for name in WEIGHTINGS
    },
    **{f"density {name}": {"objective__density": name} for name in DENSITIES},
    "zero SNR": {"process__cosine__zero_snr": True},
}


@pytest.mark.parametrize("case", CHOICES)
def test_every_choice_is_traced(case, tmp_path):
    p = program(tmp_path / "run", mesh__data=1, **CHOICES[case])
    state, rows = _abstract_state(p), jax.ShapeDtypeStruct((6,), jnp.int32)
    image = jax.ShapeDtypeStruct((6, 8, 8, 1), jnp.uint8)
    batch = Batch(image, {"label": rows}, rows, jax.ShapeDtypeStruct((6,), bool))
    word = jax.ShapeDtypeStruct((1,), jnp.int32)
    frozen, d = p.diffusion.codec.frozen, p.diffusion
    after, metrics = jax.eval_shape(make_train_step(d, p.optimiser, p.mesh), state, frozen, batch, word)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert metrics.sums["train/loss"][0].shape == ()
    key = jax.eval_shape(lambda: jax.random.key(0))
    sums = jax.eval_shape(make_validation_step(d, p.mesh, 6), state.params, frozen, batch, key)
    assert sums["loss/q3"][1].shape == ()
    out = jax.eval_shape(
        d.net.apply,
        state.params,
        jnp.zeros((6, 8, 8, 1)),
        jnp.zeros(6),
        {"label": jnp.zeros(6, int)},
        {"label": jnp.zeros(6, bool)},
    )
    assert out.shape == (6, 8, 8, d.process.target.heads)
