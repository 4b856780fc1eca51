"""What every encoder of sets promises, whichever row it is; the pools, and the parts of each."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.nets.set_encoders import SET_ENCODERS
from diffusion.nets.set_encoders.locality import LocalityAttention, with_shifts
from diffusion.nets.set_encoders.pools import set_mean
from diffusion.nets.set_encoders.vit_set import over_the_set
from tests.nets.tiny_sets import C_NOISE, ENCODERS, IMAGES, RNG, VALID, encoder, params_of

cases = pytest.mark.parametrize("case", ENCODERS, ids=lambda case: "-".join(map(str, case)))
CLOSE = dict(rtol=1e-5, atol=1e-5)


@functools.cache
def built(case):
    """Params and the compiled encoder ``(params, images, valid, c_noise) -> (tokens, token_valid)``."""
    module = encoder(*case)
    return params_of(module, IMAGES, VALID, C_NOISE), jax.jit(module.apply)


@functools.cache
def differentiated(case):
    """(params, images, valid) -> a number of the valid tokens, with its gradients to params and images."""
    params, apply = built(case)

    def probed(params, images, valid):
        tokens, token_valid = apply(params, images, valid, C_NOISE)
        probe = jnp.cos(jnp.arange(tokens.size, dtype=jnp.float32)).reshape(tokens.shape)
        return jnp.sum(probe * jnp.where(token_valid[..., None], tokens, 0.0)), tokens

    run = jax.jit(jax.value_and_grad(probed, argnums=(0, 1), has_aux=True))
    return functools.partial(run, params)


def encoded(case, images, valid, c_noise=C_NOISE):
    params, apply = built(case)
    return tuple(map(np.asarray, apply(params, images, valid, c_noise)))


@cases
def test_shapes_and_which_tokens_are_valid(case):
    _, pool, timed = case
    tokens, valid = encoded(case, IMAGES, VALID.at[2].set(False))
    patches = 4
    l = {"all": 4 * patches, "mean_patch": patches, "sum_patch": patches}.get(pool, 1)
    assert (tokens.shape, tokens.dtype) == ((3, l, 6), np.float32)
    members = np.repeat(VALID, patches, axis=1) if pool == "all" else np.ones((3, l), bool)
    np.testing.assert_array_equal(valid, members & np.array([[True], [True], [False]]))
    assert (encoder(*case).d, encoder(*case).timed) == (6, timed)


@cases
def test_the_order_of_the_set_says_nothing(case):
    order = np.array([2, 0, 3, 1])
    tokens, valid = encoded(case, IMAGES, VALID)
    moved, moved_valid = encoded(case, IMAGES[:, order], VALID[:, order])
    if case[1] == "all":  # the tokens move along
        tokens, valid = (a.reshape(3, 4, 4, *a.shape[2:])[:, order].reshape(a.shape) for a in (tokens, valid))
    np.testing.assert_allclose(moved, tokens, **CLOSE)
    np.testing.assert_array_equal(moved_valid, valid)


@cases
def test_what_stands_where_no_member_is_changes_nothing(case):
    """Value and gradients, to the bit, and a member does change them."""

    def found(hidden):
        return differentiated(case)(jnp.where(VALID[..., None, None, None], IMAGES, hidden), VALID)

    (_, tokens), (to_params, to_images) = found(0.0)
    assert not to_images[~VALID].any()
    assert np.abs(to_images).max((2, 3, 4))[VALID].min() > 1e-6
    unused = [jax.tree_util.keystr(path) for path, a in jax.tree.leaves_with_path(to_params) if not a.any()]
    assert not unused
    for hidden in (1e4, np.nan, np.inf):
        jax.tree.map(np.testing.assert_array_equal, found(hidden), found(0.0))
    changed, _ = encoded(case, IMAGES.at[2, 2].add(1.0), VALID)
    np.testing.assert_array_equal(changed[:2], encoded(case, IMAGES, VALID)[0][:2])
    assert np.abs(changed[2] - np.asarray(tokens[2])).max() > 1e-4


@cases
def test_leaving_one_out_by_mask_is_the_smaller_set(case):
    members = np.asarray(IMAGES[0])
    smaller = np.stack([np.delete(members, j, axis=0) for j in range(4)])
    c_noise = jnp.full(4, 40.0)
    tokens, valid = encoded(case, np.stack([members] * 4), ~np.eye(4, dtype=bool), c_noise)
    wanted, all_valid = encoded(case, smaller, np.ones((4, 3), bool), c_noise)
    assert all_valid.all()
    np.testing.assert_allclose(tokens[valid].reshape(wanted.shape), wanted, **CLOSE)


@cases
def test_a_row_does_not_depend_on_the_others(case):
    tokens, _ = encoded(case, IMAGES, VALID)
    changed = IMAGES.at[jnp.array([0, 2])].multiply(3.0), VALID.at[0].set(False), C_NOISE.at[jnp.array([0, 2])].add(9.0)
    np.testing.assert_array_equal(encoded(case, *changed)[0][1], tokens[1])
    alone, _ = encoded(case, IMAGES[1:2], VALID[1:2], C_NOISE[1:2])
    np.testing.assert_allclose(alone[0], tokens[1], **CLOSE)


@cases
@pytest.mark.parametrize("hidden", [0.0, np.nan])
def test_an_empty_set_is_finite_and_so_are_its_gradients(case, hidden):
    nobody = VALID.at[1].set(False)
    (_, tokens), gradients = differentiated(case)(jnp.where(nobody[..., None, None, None], IMAGES, hidden), nobody)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((tokens, gradients)))
    assert not gradients[1][1].any()


def test_pools_are_sums_and_means_of_the_tokens_of_valid_members():
    params = params_of(encoder("vit"), IMAGES, VALID)
    pool = lambda name: np.asarray(encoder("vit", name).apply(params, IMAGES, VALID)[0])  # noqa: E731
    every = pool("all").astype(np.float64).reshape(3, 4, 4, 6)
    mask, members = np.asarray(VALID)[:, :, None, None], np.asarray(VALID).sum(1)[:, None, None]
    total = (mask * every).sum(1)
    wanted = {
        "mean": total.mean(1, keepdims=True) / members,
        "sum": total.sum(1, keepdims=True),
        "mean_patch": total / members,
        "sum_patch": total,
    }
    for name, sums in wanted.items():
        np.testing.assert_allclose(pool(name), sums, **CLOSE)
    assert all(np.abs(pool("cls") - pool(name)).max() > 0.01 for name in ("mean", "sum"))


@pytest.mark.parametrize(
    ("name", "reduced"), [("unet", {"mean": np.mean}), ("vit_set", {"mean": np.mean, "sum": np.sum})]
)
def test_pools_over_places(name, reduced):
    """The set is pooled before, so it is the places alone."""
    params = params_of(encoder(name), IMAGES, VALID)
    pool = lambda pool: np.asarray(encoder(name, pool).apply(params, IMAGES, VALID)[0])  # noqa: E731
    for pooled, reduce in reduced.items():
        np.testing.assert_allclose(pool(pooled), reduce(pool("mean_patch"), axis=1, keepdims=True), **CLOSE)


def test_the_mean_over_a_set_is_that_of_its_members():
    x = RNG.normal(size=(3, 4, 2, 5))
    means = set_mean(jnp.asarray(x, jnp.float32), VALID.at[2].set(False))
    np.testing.assert_allclose(means[0], x[0].mean(0), **CLOSE)
    np.testing.assert_allclose(means[1], x[1, [0, 2, 3]].mean(0), **CLOSE)
    assert not means[2].any()


def test_statistics_of_a_set_are_those_of_its_members():
    x = RNG.normal(size=(3, 4, 2, 5))
    mean, deviation = np.split(np.asarray(over_the_set(jnp.asarray(x, jnp.float32), VALID)), 2, axis=-1)
    for row, members in enumerate(([0, 1, 2, 3], [0, 2, 3], [2])):
        np.testing.assert_allclose(mean[row], x[row, members].mean(0), **CLOSE)
        np.testing.assert_allclose(np.square(deviation[row]) - 1e-6, x[row, members].var(0), **CLOSE)


def test_the_noise_level_is_read_by_the_time_token_alone():
    for case in ENCODERS:
        levels = [encoded(case, IMAGES, VALID, c_noise)[0] for c_noise in (C_NOISE, C_NOISE * 0.5)]
        apart = np.abs(levels[0] - levels[1]).max((1, 2))
        assert (apart > 1e-4).all() if case[2] else not apart.any(), case


def test_shifts_go_along_the_diagonals_and_bring_zeros():
    x = RNG.normal(size=(2, 4, 6, 3))
    got = np.split(np.asarray(with_shifts(jnp.asarray(x, jnp.float32), 1)), 5, axis=-1)
    np.testing.assert_allclose(got[0], x, rtol=1e-6)
    for part, (down, right) in zip(got[1:], ((1, 1), (1, -1), (-1, 1), (-1, -1)), strict=True):
        wanted = np.zeros_like(x)
        for i in range(4):
            for j in range(6):
                if 0 <= i - down < 4 and 0 <= j - right < 6:
                    wanted[:, i, j] = x[:, i - down, j - right]
        np.testing.assert_allclose(part, wanted, rtol=1e-6)


@pytest.mark.parametrize("l", [1, 5])
def test_locality_attention_is_the_formula(l):
    layer, x = LocalityAttention(heads=2, head_width=3), RNG.normal(size=(2, l, 4))
    params = params_of(layer, jnp.asarray(x, jnp.float32))
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    q, k, v = ((x @ p[name]["kernel"]).reshape(2, l, 2, 3) for name in ("query", "key", "value"))
    logits = np.einsum("blne,bmne->bnlm", q, k) / np.sqrt(3) * np.exp(p["log_sharpness"])[:, None, None]
    weights = np.exp(logits) * (1 - np.eye(l) if l > 1 else 1)
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bnlm,bmne->blne", weights, v).reshape(2, l, 6)
    got = layer.apply(params, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, out @ p["out"]["kernel"] + p["out"]["bias"], **CLOSE)


@pytest.mark.parametrize("name", ["vit", "vit_set"])
def test_the_published_sizes_are_the_defaults(name):
    """FSDM's: 6 layers, width 256, 12 heads of 64 and an MLP of 256."""
    given = jnp.zeros((1, 6, 32, 32, 3)), jnp.ones((1, 6), bool)
    shapes = jax.eval_shape(SET_ENCODERS[name](32).init, jax.random.key(0), *given)["params"]["blocks"]
    assert shapes["attention"]["query"]["kernel"].shape == (6, 256, 12 * 64)
    assert shapes["attention"]["out"]["kernel"].shape == (6, 12 * 64, 256)
    assert shapes["wide"]["kernel"].shape == (6, 256, 256)


@pytest.mark.parametrize(
    ("name", "size", "fields", "said"),
    [
        ("unet", 8, dict(mults=()), "mults is ()"),
        ("unet", 6, {}, "mults has 3 levels: the image size must be divisible by 4; it is 6"),
        ("unet", 8, dict(channels=20), "channels is 20; it must be divisible by groups (8)"),
        ("unet", 8, dict(groups=0), "groups is 0; it must be 1 or more"),
        ("unet", 8, dict(d=0), "d is 0; it must be 1 or more"),
        ("unet", 8, dict(pool="cls"), "pool is 'cls'; it is one of: mean, mean_patch"),
        ("vit", 28, {}, "patch is 8; it must divide the image size, 28"),
        ("vit", 32, dict(patch=0), "patch is 0; it must be 1 or more"),
        ("vit", 32, dict(head_width=0), "head_width is 0; it must be 1 or more"),
        ("vit", 32, dict(depth=0), "depth is 0; it must be 1 or more"),
        ("vit", 32, dict(pool="max"), "pool is 'max'; it is one of: cls, mean, sum, mean_patch, sum_patch, all"),
        ("vit_set", 28, {}, "patch is 8; it must divide the image size, 28"),
        ("vit_set", 32, dict(patch=1), "patch is 1; it must be 2 or more"),
        ("vit_set", 32, dict(pool="all"), "pool is 'all'; it is one of: cls, mean, sum, mean_patch"),
    ],
)
def test_what_cannot_be_is_refused(name, size, fields, said):
    with pytest.raises(ValueError, match="^" + re.escape(said)):
        SET_ENCODERS[name](size, **fields)
