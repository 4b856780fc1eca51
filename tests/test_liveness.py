"""The most bytes at once, by hand for small functions, and what remat changes."""

import jax
import jax.numpy as jnp
import pytest

from diffusion.liveness import COMPILERS, peak_bytes

N = 32
A = 4 * N * N  # bytes of one matrix
X = jax.ShapeDtypeStruct((N, N), jnp.float32)


def row(x):
    """The first one of x [n n], n times."""
    return jax.lax.broadcast_in_dim(x[0], x.shape, (1,))


as_row = jax.jit(lambda x: x.reshape(1, x.size))

CASES = {
    # of three products in a row two are there at a time
    "a chain": (lambda x: x @ x @ x @ x, {"cpu": 2, "gpu": 2, "tpu": 2}),
    # the answers of the first two are read by the last
    "what is read later": (lambda x: (x @ x) @ ((x @ jnp.sin(x)) @ x), {"cpu": 3, "gpu": 3, "tpu": 3}),
    "what nobody reads": (lambda x: (x @ x, x @ x @ x)[0], {"cpu": 1, "gpu": 1, "tpu": 1}),
    "equal equations": (lambda x: (x @ x) + (x @ x), {"cpu": 1, "gpu": 1, "tpu": 1}),
    # one eye is there for both
    "equal equations of nothing": (lambda x: (x @ jnp.eye(N)) + (x @ jnp.eye(N)), {"cpu": 2, "gpu": 2, "tpu": 1}),
    "what a barrier lets through": (
        lambda x: jax.lax.optimization_barrier(y := x @ x) @ y,
        {"cpu": 2, "gpu": 2, "tpu": 2},
    ),
    "a matrix that a product reads the other way": (lambda x: (y := x @ x).T @ y, {"cpu": 2, "gpu": 2, "tpu": 2}),
    # x + 1 is an array for the product; on a TPU the product makes it from x
    "what a product reads": (lambda x: (x + 1) @ (x + 1), {"cpu": 2, "gpu": 2, "tpu": 1}),
    "what a sum reads": (lambda x: (x + 1).sum(1) * 0, {"cpu": 0, "gpu": 0, "tpu": 0}),
    "what a sum over rows reads": (lambda x: (x + 1).sum(0) * 0, {"cpu": 1, "gpu": 0, "tpu": 0}),
    # y - 1 is an array for the sum over rows; a CPU's compiler makes it as soon as y is there
    "what is made early": (
        lambda x: ((y := x @ x), p := y @ x @ x @ x, ((y - 1).sum(0, keepdims=True) * p) @ y)[-1],
        {"cpu": 4, "gpu": 3, "tpu": 3},
    ),
    # s is read twice: a CPU's compiler keeps it, not the two that it is made of, and makes s * .. early
    "what two make": (
        lambda x: ((s := (a := x @ x) + a @ x), y := s.sum(1), s * (((y[:, None] * x) @ x) @ x))[-1] @ x,
        {"cpu": 4, "gpu": 4, "tpu": 4},
    ),
    # s is made of a and one row, written N times or not: it is no array, as it can be made from a again
    "what a matrix and a repeated row make": (
        lambda x: ((a := x @ x), s := a + row(x), y := s.sum(1, keepdims=True), (s * ((x * y) @ x @ x)) @ a)[-1],
        {"cpu": 4, "gpu": 3, "tpu": 3},
    ),
    # a call's argument is the matrix itself, whatever its shape there
    "a view in a call": (
        lambda x: (a := x @ x, (jax.lax.cumsum(a, 0), jax.lax.cumsum(as_row(a), 0)))[1],
        {"cpu": 3, "gpu": 3, "tpu": 3},
    ),
    # tanh(x @ x) is read twice: kept where it is dear to make
    "what is dear": (lambda x: (jnp.tanh(x @ x) * jnp.tanh(x @ x)) @ x, {"cpu": 3, "gpu": 2, "tpu": 2}),
}


@pytest.mark.parametrize("platform", COMPILERS)
@pytest.mark.parametrize("name", CASES)
def test_arrays_are_counted_while_they_are_read(name, platform):
    function, wanted = CASES[name]
    assert peak_bytes(function, X, platform=platform) == pytest.approx(wanted[platform] * A, abs=4 * N)


def test_a_loop_s_inside_counts_once_and_its_answers_whole():
    def body(x, _):
        return x + (x @ x) @ x, x @ x

    found = peak_bytes(lambda x: jax.lax.scan(body, x, None, length=7), X, platform="gpu")
    assert found == (1 + 7) * A + 2 * A, "carry and stack, and within two products"


def blocks(policy, scanned, unroll=1):
    """A gradient through four blocks of two products."""

    def block(x, w):
        return x + jnp.tanh(x @ w) @ w

    again = block if policy is None else jax.checkpoint(block, policy=policy, prevent_cse=not scanned)

    def loss(ws, x):
        if scanned:
            return jax.lax.scan(lambda x, w: (again(x, w), None), x, ws, unroll=unroll)[0].sum()
        for w in ws:
            x = again(x, w)
        return x.sum()

    return jax.grad(loss)


@pytest.mark.parametrize("platform", COMPILERS)
@pytest.mark.parametrize("scanned", [True, False])
def test_remat_lowers_the_peak(platform, scanned):
    """But not on a CPU outside of a loop: XLA finds there that the inside has been computed, and keeps it."""
    policies = (None, jax.checkpoint_policies.dots_saveable, jax.checkpoint_policies.nothing_saveable)
    ws = jax.ShapeDtypeStruct((4, N, N), jnp.float32)
    rows = jax.ShapeDtypeStruct((8 * N, N), jnp.float32)
    found = [peak_bytes(blocks(policy, scanned), ws, rows, platform=platform) for policy in policies]
    if platform == "cpu" and not scanned:
        assert found[0] == found[1] == found[2]
    else:
        assert found[0] >= found[1] > found[2]


@pytest.mark.parametrize("platform", COMPILERS)
def test_an_unrolled_scan_needs_what_its_layers_do(platform):
    """Of what it would stack, nothing is there twice."""
    ws = jax.ShapeDtypeStruct((4, N, N), jnp.float32)
    rows = jax.ShapeDtypeStruct((8 * N, N), jnp.float32)
    unrolled, half, loop, by_hand = (
        peak_bytes(function, ws, rows, platform=platform)
        for function in (*(blocks(None, True, unroll) for unroll in (4, 2, 1)), blocks(None, False))
    )
    assert unrolled == by_hand < half == loop


def test_a_stack_of_another_shape_is_cut():
    """Four layers' answers as eight rows of half the size."""

    def twice(x):
        rows = jax.lax.scan(lambda c, _: (c @ c, c @ c), x, None, length=4, unroll=4)[1]
        halves = rows.reshape(8, N // 2, N)
        return jax.lax.scan(lambda c, half: (c + half.sum(), half @ c), x, halves, unroll=8)[1]

    assert peak_bytes(twice, X, platform="gpu") >= 4 * A + 4 * A, "both stacks"


def test_a_scan_of_no_layers_is_a_loop():
    found = peak_bytes(lambda x: jax.lax.scan(lambda c, _: (c @ c, c), x, None, length=0), X, platform="cpu")
    assert found == 2 * A, "its answer, and a product within"
