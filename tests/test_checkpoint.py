import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import ema
from diffusion.best import BestRecord, better, kept, resolve_metric
from diffusion.checkpoint import Checkpoints
from diffusion.environment import environment
from diffusion.errors import ConfigError, MismatchError, NoValidCheckpoint
from diffusion.lr_schedules import LR_SCHEDULES, plateau_state
from diffusion.optim import CLIPS, OPTIMIZERS, apply, make_optimizer
from diffusion.state import create, fingerprint
from diffusion.tables import rows

# A read that Orbax gives up leaves coroutines behind.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine")

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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 10, 20 and 30; tests copy it."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    write(directory, 10, 20, 30)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def flip(path, share):
    raw = bytearray(path.read_bytes())
    raw[int(share * (len(raw) - 1))] ^= 16
    path.write_bytes(bytes(raw))


def break_step(directory, step):
    flip(directory / str(step) / "meta" / "metadata", 0.5)


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


@pytest.mark.parametrize(("mode", "steps"), [("min", {2, 4, 5}), ("max", {1, 4, 5})])
def test_which_steps_are_kept(mode, steps):
    values = {1: 3.0, 2: 1.0, 3: 1.0, 4: None, 5: float("nan")}
    assert kept(values, latest=2, best=1, mode=mode) == steps
    assert kept({}, 2, 1, mode) == set()


def test_a_killed_save_leaves_the_previous_step_and_is_swept(copy):
    (copy / "40.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (copy / "5.deleting").mkdir()
    checkpoints = Checkpoints(copy, keep=9)
    assert checkpoints.restore(ABSTRACT).step == 30
    checkpoints.save(40, train_state(40), META, wait=True)
    checkpoints.close()
    assert sorted(path.name for path in copy.iterdir()) == ["10", "20", "30", "40"]


@pytest.mark.parametrize("broken", [[30], [30, 20]])
def test_damaged_steps_are_set_aside_and_the_run_goes_on(copy, broken, caplog):
    for step in broken:
        break_step(copy, step)
    checkpoints = Checkpoints(copy, keep=9)
    with caplog.at_level(logging.WARNING):
        restored = checkpoints.restore(ABSTRACT)
    good = 30 - 10 * len(broken)
    assert restored.step == good and fingerprint(restored.state) == fingerprint(train_state(good))
    assert all(f"{step}.corrupt" in caplog.text and (copy / f"{step}.corrupt").is_dir() for step in broken)
    assert checkpoints.save(30, train_state(30), META, wait=True)
    checkpoints.close()
    assert checkpoints.restore(ABSTRACT).step == 30


def test_a_step_can_be_damaged_twice(copy):
    (copy / "30.corrupt").mkdir()
    break_step(copy, 30)
    Checkpoints(copy).restore(ABSTRACT)
    assert (copy / "30.corrupt-2").is_dir()


def test_no_valid_step_stops_and_touches_nothing(copy):
    for step in (10, 20, 30):
        break_step(copy, step)
    before = tree_of(copy)
    for _ in range(2):
        with pytest.raises(NoValidCheckpoint, match="20: its metadata"):
            Checkpoints(copy).restore(ABSTRACT)
    assert tree_of(copy) == before


def test_only_set_aside_steps_are_no_fresh_start(copy):
    for step in (10, 20, 30):
        (copy / str(step)).rename(copy / f"{step}.corrupt")
    with pytest.raises(NoValidCheckpoint, match=r"30\.corrupt"):
        Checkpoints(copy).restore(ABSTRACT)


def test_read_only_touches_nothing(copy):
    break_step(copy, 30)
    (copy / "40.orbax-checkpoint-tmp").mkdir()
    before = tree_of(copy), sorted(copy.iterdir())
    checkpoints = Checkpoints(copy, read_only=True)
    assert checkpoints.restore(ABSTRACT).step == 20
    assert checkpoints.restore_step("latest", ABSTRACT).step == 20
    with pytest.raises(NoValidCheckpoint, match="30: its metadata"):
        checkpoints.restore_step("30", ABSTRACT)
    with pytest.raises(ValueError, match="read only"):
        checkpoints.save(50, train_state(), META)
    checkpoints.close()
    assert (tree_of(copy), sorted(copy.iterdir())) == before


MUTATIONS = {
    "delete": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "halve": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flip 25 %": lambda path: flip(path, 0.25),
    "flip 50 %": lambda path: flip(path, 0.5),
    "flip 90 %": lambda path: flip(path, 0.9),
}


@pytest.mark.parametrize(
    "mutation", ["flip 50 %", *(pytest.param(m, marks=pytest.mark.slow) for m in MUTATIONS if m != "flip 50 %")]
)
def test_no_damaged_file_restores_other_values(saved, tmp_path, mutation):
    found = [p for p in (saved / "30").rglob("*") if p.is_file() and (p.stat().st_size or mutation == "delete")]
    files = sorted(p.relative_to(saved) for p in found)
    fell_back = 0
    for number, name in enumerate(files):
        directory = Path(shutil.copytree(saved, tmp_path / str(number)))
        shutil.rmtree(directory / "10")
        MUTATIONS[mutation](directory / name)
        restored = Checkpoints(directory).restore(ABSTRACT)
        assert restored.step in (20, 30), name
        assert fingerprint(restored.state) == fingerprint(train_state(restored.step)), name
        fell_back += restored.step == 20
    assert fell_back >= 2, "the metadata and the arrays at least must have been found damaged"


def test_one_leaf_whose_bits_differ_from_the_sealed_ones_is_found(copy, caplog):
    """Arrays of another save under the metadata of this one: Orbax alone restores them without a word."""
    shutil.rmtree(copy / "30" / "state")
    shutil.copytree(copy / "20" / "state", copy / "30" / "state")
    with caplog.at_level(logging.WARNING):
        assert Checkpoints(copy).restore(ABSTRACT).step == 20
    assert "not the bits that were saved" in caplog.text


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
    restored = Checkpoints(copy, read_only=True).restore_step(10, {"ema": ABSTRACT.ema}, partial=True)
    assert fingerprint(restored.state["ema"]) == fingerprint(train_state(10).ema)
    with pytest.raises(MismatchError, match="unexpected  ema/half"):
        Checkpoints(copy).restore_step(10, {"ema": {"a": ABSTRACT.ema["a"]}}, partial=True)
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


def failing(monkeypatch, times):
    """Make the background of the next ``times`` saves fail as on a full disk."""
    import orbax.checkpoint as ocp

    real, left = ocp.JsonCheckpointHandler.async_save, [times]

    class Full:
        def result(self, timeout=None):
            raise OSError(28, "No space left on device")

    async def async_save(self, *args, **kwargs):
        if left[0]:
            left[0] -= 1
            return [Full()]
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "async_save", async_save)


def background_ends(checkpoints):
    """Until the thread of the save has ended, without asking it for its error."""
    checkpoints._writer._async_manager._thread.join()


def test_a_failed_save_is_said_and_repeated_once(copy, monkeypatch, caplog):
    failing(monkeypatch, 1)
    checkpoints = Checkpoints(copy, keep=9)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.save(40, train_state(40), META) and checkpoints.check() in (True, False)
        background_ends(checkpoints)
        assert checkpoints.check() is False
    assert "No space left" in caplog.text
    assert checkpoints.latest() == 30
    checkpoints.save(41, train_state(41), META)
    checkpoints.close()
    assert checkpoints.all_steps() == [10, 20, 30, 41] and checkpoints.check()


def test_two_failures_in_a_row_are_raised_and_lose_nothing(copy, monkeypatch):
    failing(monkeypatch, 2)
    checkpoints = Checkpoints(copy, keep=9)
    checkpoints.save(40, train_state(40), META)
    checkpoints.save(41, train_state(41), META)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.close()
    assert Checkpoints(copy).restore(ABSTRACT).step == 30


@pytest.mark.parametrize("times", [0, 1, 2])
def test_the_last_save_waits_and_repeats_itself(copy, monkeypatch, times):
    failing(monkeypatch, times)
    checkpoints = Checkpoints(copy, keep=1)
    if times == 2:
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(40, train_state(40), META, wait=True)
        assert checkpoints.all_steps() == [10, 20, 30]
        return
    checkpoints.save(40, train_state(40), META, wait=True)
    assert checkpoints.all_steps() == [40]
    checkpoints.close()


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
        averages = ema.update(state.ema, params, 0.9)
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


BEST = [
    (None, 1.0, "min", True),
    (None, float("nan"), "min", False),
    (1.0, 0.5, "min", True),
    (1.0, 1.0, "min", False),
    (1.0, 2.0, "min", False),
    (1.0, 2.0, "max", True),
    (1.0, float("inf"), "max", False),
    (1.0, -float("inf"), "min", False),
]


@pytest.mark.parametrize(("record", "value", "mode", "expected"), BEST)
def test_better(record, value, mode, expected):
    assert better(BestRecord("val/loss", mode, record, 1), value) is expected


def test_a_best_record_survives_json():
    record = BestRecord("eval/fd", "min", 0.1, 300)
    assert BestRecord(**json.loads(json.dumps(record.to_json()))) == record


AVAILABLE = ["train/loss", "val/loss", "eval/fd", "eval/accuracy", "perf/steps"]


@pytest.mark.parametrize(
    ("name", "mode", "available", "expected"),
    [
        ("loss", "auto", AVAILABLE, ("val/loss", "min")),
        ("loss", "auto", ["train/loss"], ("train/loss", "min")),
        ("eval/fd", "auto", AVAILABLE, ("eval/fd", "min")),
        ("eval/accuracy", "auto", AVAILABLE, ("eval/accuracy", "max")),
        ("eval/fd", "max", AVAILABLE, ("eval/fd", "max")),
        ("perf/steps", "max", AVAILABLE, ("perf/steps", "max")),
    ],
)
def test_the_metric_is_resolved_before_training(name, mode, available, expected):
    assert resolve_metric(name, mode, available) == expected


@pytest.mark.parametrize(
    ("name", "mode", "field"),
    [
        ("val/los", "auto", "checkpoint.best_metric"),
        ("loss", "down", "checkpoint.best_mode"),
        ("perf/steps", "auto", "checkpoint.best_mode"),
    ],
)
def test_a_metric_nobody_measures_is_refused(name, mode, field):
    with pytest.raises(ConfigError, match=f"^{field}: "):
        resolve_metric(name, mode, AVAILABLE)


def test_the_environment_is_plain_json():
    found = json.loads(json.dumps(environment()))
    assert found["devices"] == jax.device_count() and found["packages"]["jax"] == jax.__version__
