"""Parts of a net: what they are called, a rate for each, and what it means that one stands still."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.leaves import by_path
from diffusion.nets.conditions import AUGMENT, CONDITIONS
from diffusion.optim import CLIPS, OPTIMIZERS, apply, make_optimizer
from diffusion.part_rules import ALWAYS, Rule, per_part
from diffusion.parts import by_part, labels
from diffusion.state import fingerprint

PARAMS = {
    "backbone": {"in": {"kernel": jnp.linspace(-1, 1, 24).reshape(4, 6), "bias": jnp.ones(6)}},
    "conditioners_label": {"table": {"kernel": jnp.linspace(0.5, 1, 12).reshape(4, 3)}},
    "uncertainty": {"weights": jnp.zeros(5)},
}
PLAIN = dict.fromkeys(by_part(PARAMS), Rule())


def gradients(step):
    return jax.tree.map(lambda p: jnp.sin(7 * p + step), PARAMS)


def make(name="adam", clip="none", **rules):
    return make_optimizer(OPTIMIZERS[name](), CLIPS[clip](), PLAIN | rules)


def part_by_part(name):
    """Every part by itself, and all alike: a compiler may round a tree of one part otherwise than a larger one."""
    return per_part(OPTIMIZERS[name](), CLIPS["none"](), PLAIN)


def directions(tx, steps, *, params=PARAMS, scaled=1.0, since=0):
    """What the label's and the backbone's gradients become, step by step, at weights that stay where they are."""
    state, found = tx.init(params), []
    for step in range(since, since + steps):
        grads = gradients(step)
        grads["conditioners_label"] = jax.tree.map(lambda g: scaled * g, grads["conditioners_label"])
        direction, state = tx.update({key: grads[key] for key in params}, state, params)
        found.append(direction)
    return found


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_parts_are_named_by_the_first_key():
    assert labels(PARAMS) == {"backbone": "backbone", "conditioners_label": "label", "uncertainty": "uncertainty"}
    assert by_part(PARAMS)["label"] is PARAMS["conditioners_label"]


def test_no_condition_is_called_as_another_part():
    assert not {"backbone", AUGMENT, "uncertainty"} & set(CONDITIONS)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rules_that_say_nothing_leave_state_and_directions_to_the_bit(name, clip):
    ours, plain = make(name, clip), optax.chain(CLIPS[clip](), OPTIMIZERS[name]())
    assert list(by_path(ours.init(PARAMS))) == list(by_path(plain.init(PARAMS)))
    same(ours.init(PARAMS), plain.init(PARAMS))
    same(directions(ours, 3), directions(plain, 3))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_part_by_part_is_the_whole(name):
    for found, wanted in zip(directions(part_by_part(name), 3), directions(make(name), 3), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, wanted)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_factor_scales_the_movement_of_its_part_alone(name):
    """Weight decay with it: adamw, lion and sgd decay the label's kernel."""
    tenth, plain = directions(make(name, label=Rule(factor=0.1)), 5), directions(part_by_part(name), 5)
    for found, wanted in zip(tenth, plain, strict=True):
        moved = jax.tree.map(lambda d: jnp.float32(0.1) * d, wanted["conditioners_label"])
        same(found, wanted | {"conditioners_label": moved})


@pytest.mark.parametrize("name", ["adam", "adamw", "lion"])
def test_scaled_gradients_would_not_slow_a_part_down(name):
    """Why a factor scales the direction: with a tenth of its gradients a part goes just as far."""
    scaled, plain = directions(make(name), 3, scaled=0.1), directions(make(name), 3)
    jax.tree.map(lambda s, p: np.testing.assert_allclose(s, p, atol=1e-5), scaled, plain)


def test_a_factor_of_zero_stops_a_part():
    for direction in directions(make("adamw", label=Rule(factor=0.0)), 2):
        assert not by_part(direction)["label"]["table"]["kernel"].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_part_that_always_stands_still_has_no_moments_and_no_decay(name):
    tx = make(name, label=Rule(frozen=ALWAYS))
    state, params = tx.init(PARAMS), PARAMS
    moments = {path for path in by_path(state) if path.endswith(("kernel", "bias", "weights"))}
    assert not [path for path in moments if "conditioners_label" in path]
    assert {path.rpartition("backbone/")[2] for path in moments if "backbone" in path} == {"in/kernel", "in/bias"}
    for step in range(3):
        direction, state = tx.update(gradients(step), state, params)
        params = apply(params, direction, jnp.float32(0.1))
    assert fingerprint(params["conditioners_label"]) == fingerprint(PARAMS["conditioners_label"])
    assert not (params["backbone"]["in"]["kernel"] == PARAMS["backbone"]["in"]["kernel"]).any()


@pytest.mark.parametrize("factor", [1.0, 0.25])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_part_that_thaws_goes_on_as_under_a_fresh_optimiser(name, factor):
    """The other part sees nothing of it."""
    held = directions(make(name, label=Rule(factor, frozen=4)), 9)
    assert not any(leaf.any() for direction in held[:4] for leaf in jax.tree.leaves(direction["conditioners_label"]))
    alone = {"conditioners_label": PARAMS["conditioners_label"]}
    fresh = make_optimizer(OPTIMIZERS[name](), CLIPS["none"](), {"label": Rule(factor)})
    same(
        [{"conditioners_label": d["conditioners_label"]} for d in held[4:]], directions(fresh, 5, params=alone, since=4)
    )
    for found, wanted in zip(held, directions(part_by_part(name), 9), strict=True):
        same(found["backbone"], wanted["backbone"])


@pytest.mark.parametrize("frozen", [3, ALWAYS])
def test_the_clip_does_not_count_what_stands_still(frozen):
    """Both parts' gradients are longer than the limit, which what moves then fills to the brim."""
    rules = PLAIN | {"label": Rule(frozen=frozen)}
    tx = make_optimizer(OPTIMIZERS["sgd"](momentum=0.0), CLIPS["global_norm"](), rules)
    last_frozen, next_one = directions(tx, 4)[2:]
    assert min(float(optax.tree.norm(gradients(2)[key])) for key in ("backbone", "conditioners_label")) > 1
    np.testing.assert_allclose([optax.tree.norm(d) for d in (last_frozen, next_one)], 1, rtol=1e-6)
    moves = [bool(d["conditioners_label"]["table"]["kernel"].any()) for d in (last_frozen, next_one)]
    assert moves == [False, frozen == 3]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_and_clip_takes_rules_inside_jit(name, clip):
    tx = make(name, clip, backbone=Rule(0.5, frozen=2), label=Rule(frozen=ALWAYS))
    state = tx.init(PARAMS)
    update = jax.jit(tx.update)
    for step in range(3):
        direction, after = update(gradients(step), state, PARAMS)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert [a.dtype for a in jax.tree.leaves(after)] == [a.dtype for a in jax.tree.leaves(state)]
        state = after
        assert bool(direction["backbone"]["in"]["kernel"].any()) == (step == 2)


def test_a_part_without_a_rule_is_an_error():
    tx = make_optimizer(OPTIMIZERS["adam"](), CLIPS["none"](), {"backbone": Rule(0.5)})
    with pytest.raises(ValueError, match="label"):
        tx.init(PARAMS)
