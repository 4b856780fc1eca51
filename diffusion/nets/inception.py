"""The Inception-v3 of the FID, with 1008 classes (Szegedy et al. 2016; Heusel et al. 2017), and its published names.

It is the network that TensorFlow's graph of 2015-12-05 computes, as its public PyTorch versions do: batch statistics
with eps 1e-3, average pools that count no padding, a max pool in the last block.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

EXACT = jax.lax.Precision.HIGHEST  # features must not move with the hardware's fast matmul
EPS = 1e-3
CLASSES = 1008
SMALLEST = 75  # pixels a side, from which every layer has something to see
TAPS = (64, 192, 768, 2048)
ONE, THREE, FIVE, ACROSS, DOWN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)

Step = tuple[str, int, tuple[int, int]] | tuple[str, int, tuple[int, int], int]  # name, channels, kernel, stride 1
Tree = dict[str, Any]


class Inception(nn.Module):
    """Images to the spatial means of four maps and to logits; the spatial sizes are for 299 x 299."""

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """Of x f32[b h w 3], scaled as the preset says, h and w at least 75.

        Returns:
          "64", "192", "768", "2048": the spatial means f32[b d] after the first and second max pool, before the last
          reduction and at the end; "logits_unbiased" f32[b 1008], which the Inception Score reads, and
          "logits", with the bias.

        Raises:
          ValueError: a smaller image.
        """
        if min(x.shape[1:3]) < SMALLEST:
            raise ValueError(f"Inception-v3 needs at least {SMALLEST} x {SMALLEST} pixels; got {x.shape[1:3]}")
        taps = {}
        x = Unit(32, THREE, 2, "VALID", name="Conv2d_1a_3x3")(x)  # 149
        x = Unit(32, THREE, 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = Unit(64, THREE, name="Conv2d_2b_3x3")(x)
        x = _halved(x)  # 73
        taps["64"] = _mean(x)
        x = Unit(80, ONE, name="Conv2d_3b_1x1")(x)
        x = Unit(192, THREE, 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = _halved(x)  # 35
        taps["192"] = _mean(x)
        for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = MixedA(pooled, name=f"Mixed_{name}")(x)
        x = MixedB(name="Mixed_6a")(x)  # 17
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = MixedC(width, name=f"Mixed_{name}")(x)
        taps["768"] = _mean(x)
        x = MixedD(name="Mixed_7a")(x)  # 8
        x = MixedE("average", name="Mixed_7b")(x)
        x = MixedE("max", name="Mixed_7c")(x)
        taps["2048"] = _mean(x)
        kernel = self.param("fc_kernel", nn.initializers.lecun_normal(), (2048, CLASSES))
        bias = self.param("fc_bias", nn.initializers.zeros_init(), (CLASSES,))
        unbiased = jnp.dot(taps["2048"], kernel, precision=EXACT)
        return taps | {"logits_unbiased": unbiased, "logits": unbiased + bias[None]}


class Unit(nn.Module):
    """Convolution without bias, running batch statistics, ReLU; SAME padding at stride 1, else none."""

    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = nn.Conv(
            self.channels,
            self.kernel,
            self.stride,
            padding="VALID" if self.stride > 1 else self.padding,
            use_bias=False,
            precision=EXACT,
            name="conv",
        )
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=EPS, name="bn")(conv(x)))


class MixedA(nn.Module):
    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _concatenated(
            _chain(x, ("branch1x1", 64, ONE)),
            _chain(x, ("branch5x5_1", 48, ONE), ("branch5x5_2", 64, FIVE)),
            _chain(x, ("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, THREE)),
            _chain(POOLS["average"](x), ("branch_pool", self.pooled, ONE)),
        )


class MixedB(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _concatenated(
            _chain(x, ("branch3x3", 384, THREE, 2)),
            _chain(x, ("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, THREE, 2)),
            _halved(x),
        )


class MixedC(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n = self.width
        once = (("branch7x7_1", n, ONE), ("branch7x7_2", n, ACROSS), ("branch7x7_3", 192, DOWN))
        twice = (("branch7x7dbl_1", n, ONE), ("branch7x7dbl_2", n, DOWN), ("branch7x7dbl_3", n, ACROSS))
        return _concatenated(
            _chain(x, ("branch1x1", 192, ONE)),
            _chain(x, *once),
            _chain(x, *twice, ("branch7x7dbl_4", n, DOWN), ("branch7x7dbl_5", 192, ACROSS)),
            _chain(POOLS["average"](x), ("branch_pool", 192, ONE)),
        )


class MixedD(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        seven = (("branch7x7x3_1", 192, ONE), ("branch7x7x3_2", 192, ACROSS), ("branch7x7x3_3", 192, DOWN))
        return _concatenated(
            _chain(x, ("branch3x3_1", 192, ONE), ("branch3x3_2", 320, THREE, 2)),
            _chain(x, *seven, ("branch7x7x3_4", 192, THREE, 2)),
            _halved(x),
        )


class MixedE(nn.Module):
    pool: str  # a row of POOLS

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = _chain(x, ("branch3x3_1", 384, ONE))
        double = _chain(x, ("branch3x3dbl_1", 448, ONE), ("branch3x3dbl_2", 384, THREE))
        return _concatenated(
            _chain(x, ("branch1x1", 320, ONE)),
            _chain(three, ("branch3x3_2a", 384, (1, 3))),
            _chain(three, ("branch3x3_2b", 384, (3, 1))),
            _chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
            _chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
            _chain(POOLS[self.pool](x), ("branch_pool", 192, ONE)),
        )


@functools.cache
def published_shapes() -> Mapping[str, tuple[int, ...]]:
    """Every tensor of the public PyTorch networks, by name, without ``num_batches_tracked``."""
    image = jax.ShapeDtypeStruct((1, SMALLEST, SMALLEST, 3), jnp.float32)
    tree = jax.eval_shape(Inception().init, jax.random.key(0), image)
    ours = flatten_dict(tree, sep="/")
    shapes = {_published(name): tuple(leaf.shape[i] for i in _order(leaf.ndim)) for name, leaf in ours.items()}
    return MappingProxyType(shapes)


def from_published(tensors: Mapping[str, np.ndarray]) -> Tree:
    """The Linen variables {"params", "batch_stats"}, f32, of tensors by their published names; others are ignored."""
    tree = {}
    for name, shape in published_shapes().items():
        tensor = np.asarray(tensors[name], np.float32)
        tree[_ours(name)] = tensor.transpose(_back(len(shape)))
    return unflatten_dict(tree, sep="/")


# ours -> published, for the last part of a name
LEAVES = {
    ("params", "conv/kernel"): "conv.weight",
    ("params", "bn/scale"): "bn.weight",
    ("params", "bn/bias"): "bn.bias",
    ("batch_stats", "bn/mean"): "bn.running_mean",
    ("batch_stats", "bn/var"): "bn.running_var",
    ("params", "fc_kernel"): "fc.weight",
    ("params", "fc_bias"): "fc.bias",
}


def _published(name: str) -> str:
    """``params/Mixed_5b/branch1x1/conv/kernel -> Mixed_5b.branch1x1.conv.weight``."""
    collection, _, rest = name.partition("/")
    for (where, leaf), theirs in LEAVES.items():
        if where == collection and rest.endswith(leaf):
            return rest.removesuffix(leaf).replace("/", ".") + theirs
    raise KeyError(name)


def _ours(name: str) -> str:
    for (collection, leaf), theirs in LEAVES.items():
        if name.endswith(theirs):
            return f"{collection}/{name.removesuffix(theirs).replace('.', '/')}{leaf}"
    raise KeyError(name)


def _order(ndim: int) -> tuple[int, ...]:
    """Axes of ours in the order of torch's: kernels h w i o -> o i h w, matrices i o -> o i."""
    return {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[ndim]


def _back(ndim: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(_order(ndim)))


def _chain(x: jax.Array, *steps: Step) -> jax.Array:
    for name, *how in steps:
        x = Unit(*how, name=name)(x)
    return x


def _concatenated(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


def _mean(x: jax.Array) -> jax.Array:
    return x.mean(axis=(1, 2))


def _halved(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _average(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _maximum(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding="SAME")  # the padding is -inf


POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {"average": _average, "max": _maximum}
