"""Operations counted by formula, against XLA's own count of the same functions before it optimises them."""

import jax
import jax.extend.core
import jax.numpy as jnp
import pytest

from diffusion.flops import flops
from diffusion.nets.attention import Attention
from diffusion.nets.dit import dit
from diffusion.nets.remat import REMATS
from diffusion.nets.unet import unet
from diffusion.types import Ports

X = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 8, 12), jnp.float32)
A, B = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((5, 7), (7, 11)))


def convolution(padding="VALID", strides=(1, 1), groups=1):
    layout = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)
    return lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, strides, padding, **layout)


def xla_flops(function, *abstract):
    return jax.jit(function).lower(*abstract).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("function", "abstract", "count"),
    [
        (jnp.dot, (A, B), 2 * 5 * 7 * 11),
        (lambda a: jnp.einsum("blnd,bmnd->bnlm", a, a), (X,), 2 * 2 * 16 * 16 * 16 * 8),
        (convolution(), (X, KERNEL), 2 * 2 * 14 * 14 * 9 * 8 * 12),
        (convolution(strides=(2, 2)), (X, KERNEL), 2 * 2 * 7 * 7 * 9 * 8 * 12),
        (convolution(groups=4), (X, jax.ShapeDtypeStruct((3, 3, 2, 12), jnp.float32)), 2 * 2 * 14 * 14 * 9 * 2 * 12),
    ],
    ids=["dense", "attention", "convolution", "strided", "grouped"],
)
def test_one_operation_is_counted_exactly(function, abstract, count):
    assert flops(function, *abstract) == count
    assert xla_flops(function, *abstract) == pytest.approx(count, rel=1e-6)


def test_padding_is_counted_as_the_work_it_usually_is():
    """XLA leaves out products with the padding; the arrays of a real convolution do not."""
    same = convolution("SAME")
    assert flops(same, X, KERNEL) == 2 * 2 * 16 * 16 * 9 * 8 * 12
    # along each axis 16 * 3 products, of which the two ends meet padding
    assert xla_flops(same, X, KERNEL) == pytest.approx(flops(same, X, KERNEL) * (46 / 48) ** 2, rel=1e-6)


def test_a_whole_net_is_within_a_tenth_of_xlas_count():
    """XLA adds the elementwise work (norms, activations) and takes off the products with padding, some 4 % each."""
    net = unet(32, 3, jnp.float32, channels=64, groups=8, heads=4, mults=(1, 2), attention=(1,))
    x, c_noise = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x, c_noise, Ports())
    apply = lambda params, x, c_noise: net.apply(params, x, c_noise, Ports())  # noqa: E731
    assert flops(apply, params, x, c_noise) == pytest.approx(xla_flops(apply, params, x, c_noise), rel=0.1)


def test_a_gradient_of_matrix_products_is_within_3_percent_of_xlas_count():
    """XLA's is the larger one, by its elementwise operations: 1.8 % at this width, which falls as the width grows."""
    net = dit(16, 3, jnp.float32, d=128, depth=2, heads=4, scan=False)
    x, c_noise = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x, c_noise, Ports())
    gradient = jax.grad(lambda params, x, c_noise: net.apply(params, x, c_noise, Ports()).sum())
    assert 1 <= xla_flops(gradient, params, x, c_noise) / flops(gradient, params, x, c_noise) < 1.03


def test_an_attention_layer_is_near_xlas_count():
    """Its softmax is the rest: some operations per logit against 2 * 2 * 32 in the two products."""
    layer, x = Attention(heads=2), jax.ShapeDtypeStruct((2, 64, 64), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert flops(layer.apply, params, x) == pytest.approx(xla_flops(layer.apply, params, x), rel=0.1)
    assert flops(layer.apply, params, x) == 2 * (4 * 2 * 64 * 64 * 64) + 2 * (2 * 2 * 64 * 64 * 64)


def test_a_scan_counts_as_often_as_it_runs():
    square = jax.ShapeDtypeStruct((6, 6), jnp.float32)

    def scanned(a):
        return jax.lax.scan(lambda carry, _: (carry @ a, None), a, None, length=5)[0]

    assert flops(scanned, square) == 5 * 2 * 6**3
    assert flops(lambda a: jax.lax.map(scanned, jnp.stack([a] * 3)), square) == 3 * 5 * 2 * 6**3


@pytest.mark.parametrize("remat", REMATS)
def test_a_scanned_net_counts_as_the_loop_does(remat):
    """And remat costs a forward pass nothing."""
    x, c_noise = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)

    def count(**how):
        net = dit(8, 3, jnp.float32, d=32, depth=5, heads=2, context_tokens=2, context_from=2, **how)
        params = jax.eval_shape(net.init, jax.random.key(0), x, c_noise, Ports())
        return flops(lambda *given: net.apply(*given, Ports()), params, x, c_noise)

    loop = count(scan=False)
    assert count(remat=remat) == loop
    # of 2 images: 16 tokens, then 18; per token 4 + 8 products of d x d, two with the logits; 6 for the embedding
    tokens = sum(blocks * (12 * 2 * l * 32**2 + 2 * 2 * l * l * 32) for blocks, l in ((2, 16), (3, 18)))
    rest = (256 + 32) * 32 + 16 * 12 * 32 + 2 * 32**2 + 16 * 32 * 12
    assert loop == 2 * (tokens + 5 * 6 * 2 * 32**2 + 2 * rest)


@pytest.mark.parametrize("name, products", [("dot_product_attention_fwd_wrapper", 2), ("dot_product_attention_bwd", 5)])
def test_an_opaque_attention_is_counted_by_formula(name, products):
    """The names of cuDNN's, which cannot be traced without a GPU."""
    primitive = jax.extend.core.Primitive(name)
    primitive.def_abstract_eval(lambda q, k, v: q)
    q, k = (jax.ShapeDtypeStruct((3, l, 4, 8), jnp.bfloat16) for l in (5, 7))
    assert flops(primitive.bind, q, k, k) == products * 2 * 3 * 4 * 5 * 7 * 8


def test_a_cond_counts_its_dearer_branch():
    def either(flag, a):
        return jax.lax.cond(flag, lambda a: a @ a @ a, lambda a: a @ a, a)

    assert flops(either, jax.ShapeDtypeStruct((), bool), jax.ShapeDtypeStruct((6, 6), jnp.float32)) == 2 * 2 * 6**3


def unread(a):
    return a @ a, (a @ a) @ a


READ = {
    "here": lambda a: unread(a)[0],
    "in a call": lambda a: jax.jit(unread)(a)[0],
    "in remat": lambda a: jax.checkpoint(unread)(a)[0],
    "in a branch": lambda a: jax.lax.cond(True, unread, unread, a)[0],
    "by an effect": lambda a: jax.debug.callback(lambda _: None, (a @ a).sum()),
}


@pytest.mark.parametrize("name", READ)
def test_what_no_answer_needs_is_not_counted(name):
    """Of three products one is needed."""
    assert flops(READ[name], jax.ShapeDtypeStruct((6, 6), jnp.float32)) == 2 * 6**3


def test_wrapped_functions_are_looked_into():
    wrapped = jax.jit(jax.checkpoint(jax.vmap(jnp.dot, in_axes=(0, None))))
    assert flops(wrapped, jax.ShapeDtypeStruct((3, 5, 7), jnp.float32), B) == 3 * 2 * 5 * 7 * 11


def test_a_gradient_costs_two_more_products():
    loss = lambda a, b: jnp.square(a @ b).sum()  # noqa: E731
    assert flops(jax.grad(loss, argnums=(0, 1)), A, B) == 3 * 2 * 5 * 7 * 11


def test_the_gradient_of_a_strided_convolution_costs_two_more():
    """It is taken through an input with zeros between its values, which are not multiplied with."""
    loss = lambda x, kernel: convolution(strides=(2, 2))(x, kernel).sum()  # noqa: E731
    forward = 2 * 2 * 7 * 7 * 9 * 8 * 12
    by_kernel, by_both = (flops(jax.value_and_grad(loss, argnums), X, KERNEL) for argnums in (1, (0, 1)))
    assert by_kernel == 2 * forward
    # to 16 x 16 inputs, of which 7 x 7 answers reach 15 x 15: what is left is a border that the formula counts
    assert by_both - by_kernel == pytest.approx(forward * 16**2 / 14**2, rel=0.01)
