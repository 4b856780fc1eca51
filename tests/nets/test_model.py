import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion.nets.conditions import CONDITIONS, label, merge
from diffusion.nets.model import make_net
from diffusion.nets.seen import with_layers
from diffusion.nets.unet import unet
from diffusion.types import Ports

CLASSES = 10
NET = make_net(
    unet(8, 1, jnp.float32, channels=32, groups=4, heads=1, mults=(1,), attention=()),
    {"label": label(CLASSES, d=16)},
    (8, 8, 1),
    {"label": jnp.zeros(1, jnp.int32)},
)


@pytest.fixture(scope="module")
def params():
    return NET.init(jax.random.key(0))


def named(params):
    return {jax.tree_util.keystr(path, simple=True, separator="/"): a for path, a in jax.tree.leaves_with_path(params)}


def test_the_null_is_no_class_and_its_mask_picks_it_per_row():
    model = label(CLASSES, d=4)
    labels = jnp.arange(CLASSES, dtype=jnp.int32)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(CLASSES + 1, 4)), jnp.float32)
    vec = lambda null: model.apply({"params": {"table": {"embedding": table}}}, labels, null).vec  # noqa: E731
    np.testing.assert_array_equal(vec(jnp.zeros(CLASSES, bool)), table[:CLASSES])
    mixed = vec(labels % 3 == 0)
    for row in range(CLASSES):
        np.testing.assert_array_equal(mixed[row], table[CLASSES if row % 3 == 0 else row])


def test_the_null_is_learned_and_starts_unlike_every_class(params):
    table = params["conditioners_label"]["table"]["embedding"]
    assert table.shape == (CLASSES + 1, 16)
    assert jnp.abs(table[:CLASSES] - table[CLASSES:]).max(axis=1).min() > 0.1


@pytest.mark.parametrize("name", CONDITIONS)
def test_an_empty_width_is_refused(name):
    with pytest.raises(ValueError, match="d is 0"):
        CONDITIONS[name](CLASSES, d=0)


def test_merge_adds_vectors_and_appends_tokens_and_channels():
    one = Ports(vec=jnp.ones((2, 3)), seq=jnp.ones((2, 4, 5)), grid=jnp.ones((2, 8, 8, 1)))
    hidden = jnp.asarray([[True, False], [False, False]])
    two = Ports(vec=jnp.full((2, 3), 2.0), seq=jnp.zeros((2, 2, 5)), seq_valid=hidden, grid=jnp.zeros((2, 8, 8, 2)))
    both = merge([one, Ports(), two])
    np.testing.assert_array_equal(both.vec, np.full((2, 3), 3.0))
    np.testing.assert_array_equal(both.seq, np.concatenate([np.ones((2, 4, 5)), np.zeros((2, 2, 5))], axis=1))
    np.testing.assert_array_equal(both.seq_valid, np.concatenate([np.ones((2, 4), bool), hidden], axis=1))
    np.testing.assert_array_equal(both.grid, np.concatenate([np.ones((2, 8, 8, 1)), np.zeros((2, 8, 8, 2))], axis=-1))


@pytest.mark.parametrize("ports", [[], [Ports()]])
def test_merge_of_nothing_is_nothing(ports):
    assert merge(ports) == Ports()


def test_initial_values(params):
    """Kernels and embeddings have the deviation they declare, or are 0; biases are 0 and norm scales 1."""
    leaves = named(params)
    zero = {name for name, a in leaves.items() if not a.any()}
    kernels = {name for name in leaves if name.endswith("kernel")}
    assert zero & kernels == {
        name for name in kernels if name.endswith(("conv2/kernel", "emb/kernel", "backbone/out/kernel"))
    }
    for name, a in leaves.items():
        if name.endswith("bias"):
            assert name in zero, name
        elif name.endswith("scale"):
            assert (a == 1).all(), name
        elif name not in zero:
            wanted = 1.0 if name.endswith("embedding") else 1 / math.sqrt(math.prod(a.shape[:-1]))
            # a deviation measured on n normals is off by 1 / sqrt(2 n) of itself, a mean by 1 / sqrt(n)
            assert abs(float(a.std()) / wanted - 1) < 5 / math.sqrt(2 * a.size), name
            assert abs(float(a.mean()) / wanted) < 5 / math.sqrt(a.size), name
    drawn = np.concatenate([np.ravel(a) for name, a in leaves.items() if name in kernels - zero])
    assert len(np.unique(drawn)) > 0.9 * len(drawn), "layers share their draws"


def test_initial_values_belong_to_the_key(params):
    again, other = NET.init(jax.random.key(0)), NET.init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, again, params)
    same = [name for name, a in named(other).items() if np.array_equal(a, named(params)[name]) and a.any()]
    assert all(name.endswith("scale") for name in same)


def test_conditions_and_shapes_of_the_net(params):
    assert (NET.shape, NET.conditions) == ((8, 8, 1), ("label",))
    cond, null = {"label": jnp.zeros(3, jnp.int32)}, {"label": jnp.zeros(3, bool)}
    out = jax.eval_shape(NET.apply, params, jnp.zeros((3, 8, 8, 1)), jnp.zeros(3), cond, null)
    assert out.shape == (3, 8, 8, 1)


def test_layers_are_seen_in_the_order_in_which_they_finish(params):
    cond, null = {"label": jnp.zeros(3, jnp.int32)}, {"label": jnp.zeros(3, bool)}
    given = params, jnp.zeros((3, 8, 8, 1)), jnp.zeros(3), cond, null, None
    answer, found = jax.eval_shape(lambda *given: with_layers(NET.apply, *given), *given)
    assert answer.shape == (3, 8, 8, 1)
    assert {path.rpartition("/")[0] for path in named(params)} <= set(found)
    order = [path.removeprefix("backbone/") for path in found]
    assert order[:3] == ["conditioners_label/table", "conditioners_label", "noise1"]
    first_block = [path for path in order if path.startswith("down0_0")]
    assert first_block == [*(f"down0_0/{name}" for name in ("norm1", "conv1", "emb", "norm2", "conv2")), "down0_0"]
    assert order[-4:] == ["out_norm", "out", "backbone", ""]


def test_a_layer_that_is_called_again_is_seen_again():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(2, name="layer")
            return layer(layer(x) * jnp.inf)

    _, found = with_layers(lambda x: Twice().init_with_output(jax.random.key(0), x)[0], jnp.ones((1, 2)))
    assert {path: bool(finite) for path, finite in found.items()} == {"layer": True, "layer#2": False, "": False}
