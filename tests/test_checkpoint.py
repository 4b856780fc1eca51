from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import ema
from diffusion.checkpoint import Checkpoints
from diffusion.errors import MismatchError, NoValidCheckpoint
from diffusion.lr_schedules import LR_SCHEDULES, plateau_state
from diffusion.optim import apply
from diffusion.state import create, fingerprint
from diffusion.tables import rows
from tests.checkpoints import ABSTRACT, META, PARAMS, TX, break_step, shapes, train_state, tree_of

# A read that Orbax gives up leaves coroutines behind.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine")


def test_a_state_comes_back_bit_for_bit(copy):
    restored = Checkpoints(copy).restore(ABSTRACT)
    assert restored.step == 30 and restored.meta == META | {"step": 30}
    assert fingerprint(restored.state) == fingerprint(train_state(30))
    assert jax.tree.structure(restored.state) == jax.tree.structure(train_state())


def test_nothing_saved_is_nothing_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none", read_only=True)
    assert checkpoints.restore(ABSTRACT) is None and checkpoints.latest() is None and checkpoints.best() is None
    assert not (tmp_path / "none").exists()


def test_the_state_may_be_donated_right_after_save(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda a: a * 0, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    state = train_state(1)
    checkpoints.save(1, state, META)
    step(state)
    checkpoints.close()
    assert fingerprint(checkpoints.restore(ABSTRACT).state) == fingerprint(train_state(1))


@pytest.mark.parametrize("devices", [1, 8])
def test_a_state_moves_to_other_devices(copy, devices):
    mesh = jax.make_mesh((devices,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[-devices:])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    wanted = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), ABSTRACT)
    state = Checkpoints(copy).restore(wanted).state
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(state))
    assert fingerprint(state) == fingerprint(train_state(30))


def test_a_sharded_state_is_saved_whole(tmp_path):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"w": jax.device_put(jnp.arange(32.0).reshape(16, 2), sharded)}, {}, wait=True)
    restored = checkpoints.restore({"w": jax.ShapeDtypeStruct((16, 2), jnp.float32)})
    checkpoints.close()
    np.testing.assert_array_equal(restored.state["w"], np.arange(32.0).reshape(16, 2))


def test_the_newest_and_the_best_are_kept(tmp_path):
    values = {1: 0.5, 2: 0.1, 3: 0.9, 4: float("nan"), 5: 0.2, 6: 0.8, 7: float("nan"), 8: None}
    checkpoints = Checkpoints(tmp_path, keep=2, keep_best=2, best_metric="val/loss", best_mode="min")
    for step, value in values.items():
        checkpoints.save(step, {"w": jnp.ones(2)}, {}, {} if value is None else {"val/loss": value})
    checkpoints.close()
    assert checkpoints.all_steps() == [2, 5, 7, 8] and checkpoints.best() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5", "7", "8"]
    again = Checkpoints(tmp_path, keep=1, keep_best=1, best_metric="val/loss", read_only=True)
    assert again.restore_step("best", shapes({"w": jnp.ones(2)})).step == 2
    assert Checkpoints(tmp_path, best_metric="eval/fd", read_only=True).best() is None


def test_a_killed_save_leaves_the_previous_step_and_is_swept(copy):
    (copy / "40.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (copy / "5.deleting").mkdir()
    checkpoints = Checkpoints(copy, keep=9)
    assert checkpoints.restore(ABSTRACT).step == 30
    checkpoints.save(40, train_state(40), META, wait=True)
    checkpoints.close()
    assert sorted(path.name for path in copy.iterdir()) == ["10", "20", "30", "40"]


def test_read_only_touches_nothing(copy):
    break_step(copy, 30)
    (copy / "40.orbax-checkpoint-tmp").mkdir()
    before = tree_of(copy), sorted(copy.iterdir())
    checkpoints = Checkpoints(copy, read_only=True)
    assert checkpoints.restore(ABSTRACT).step == 20
    assert checkpoints.restore_step("latest", ABSTRACT).step == 20
    with pytest.raises(NoValidCheckpoint, match="30: meta/metadata"):
        checkpoints.restore_step("30", ABSTRACT)
    with pytest.raises(ValueError, match="read only"):
        checkpoints.save(50, train_state(), META)
    checkpoints.close()
    assert (tree_of(copy), sorted(copy.iterdir())) == before


def test_a_mismatch_is_listed_by_path_and_touches_nothing(copy):
    wanted = shapes(
        create(
            {"a": {"kernel": jnp.ones((4, 2)), "scale": jnp.ones(1)}, "half": jnp.ones(3)},
            TX,
            plateau_state(),
            0,
        )
    )
    before = tree_of(copy)
    with pytest.raises(MismatchError) as error:
        Checkpoints(copy).restore(wanted)
    lines = [" ".join(line.split()) for line in str(error.value).splitlines()]
    assert "missing params/a/scale: wanted float32[1]" in lines
    assert "unexpected params/a/bias: saved float32[1]" in lines
    assert "mismatched params/a/kernel: saved float32[1 2], wanted float32[4 2]" in lines
    assert "mismatched params/half: saved bfloat16[3], wanted float32[3]" in lines
    assert tree_of(copy) == before


def test_a_mismatch_behind_a_damaged_step_touches_nothing_either(copy):
    break_step(copy, 30)
    before = sorted(copy.iterdir())
    with pytest.raises(MismatchError):
        Checkpoints(copy).restore({"step": jax.ShapeDtypeStruct((), jnp.int32)})
    assert sorted(copy.iterdir()) == before


def test_a_branch_can_be_restored_alone(copy):
    restored = Checkpoints(copy, read_only=True).restore_step(10, {"ema": ABSTRACT.ema}, partial=1)
    assert fingerprint(restored.state["ema"]) == fingerprint(train_state(10).ema)
    with pytest.raises(MismatchError, match="unexpected  ema/ema/half"):
        Checkpoints(copy).restore_step(10, {"ema": {"ema": {"a": ABSTRACT.ema["ema"]["a"]}}}, partial=2)
    for step in ("15", "best", "nonsense"):
        with pytest.raises(NoValidCheckpoint, match="there are: 10, 20, 30"):
            Checkpoints(copy).restore_step(step, ABSTRACT)


def test_a_step_already_there_is_left_and_an_older_one_refused(copy):
    checkpoints = Checkpoints(copy, keep=9)
    before = tree_of(copy)
    assert checkpoints.save(30, train_state(99), META) is False
    assert tree_of(copy) == before
    with pytest.raises(ValueError, match="step 25 cannot be saved: step 30 is already there"):
        checkpoints.save(25, train_state(), META)


def test_meta_that_json_cannot_say_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Checkpoints(tmp_path / "c").save(1, {"w": jnp.ones(2)}, {"loss": float("nan")})
    assert not (tmp_path / "c").exists()


def quick(name):
    """A schedule that moves within a few updates."""
    keywords = rows(LR_SCHEDULES).get(name, {})
    return LR_SCHEDULES[name](0.1, 20, **{k: 3 for k, v in keywords.items() if type(v) is int and v >= 5})


def trainer(schedule):
    """(state, n steps) -> (state, rates): three parameters, the plateau observed every other step."""

    @jax.jit
    def step(state):
        rate = schedule(state.updates) * state.plateau.scale
        grads = jax.tree.map(lambda p: jnp.sin(p + state.step), state.params)
        direction, opt_state = TX.update(grads, state.opt_state, state.params)
        params = apply(state.params, direction, rate)
        averages = {name: ema.update(held, params, 0.9) for name, held in state.ema.items()}
        moved = replace(state, step=state.step + 1, updates=state.updates + 1, params=params)
        return replace(moved, ema=averages, opt_state=opt_state), rate

    def train(state, n):
        rates = []
        for _ in range(n):
            state, rate = step(state)
            rates.append(float(rate))
            if schedule.plateau and int(state.step) % 2 == 0:
                state = replace(state, plateau=schedule.plateau.observe(state.plateau, jnp.float32(1.0)))
        return state, rates

    return train


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_a_resumed_run_has_the_rates_and_the_bits_of_a_fresh_one(tmp_path, name):
    train, fresh = trainer(quick(name)), create(PARAMS, TX, plateau_state(), 0)
    straight, rates = train(fresh, 12)
    half, first = train(fresh, 5)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, half, META)
    checkpoints.close()
    resumed, rest = train(checkpoints.restore(shapes(half)).state, 7)
    assert first + rest == rates
    assert fingerprint(resumed) == fingerprint(straight)
    assert name == "constant" or len(set(rates)) > 1
