"""Parameters, EMA and optimiser shared out over devices: the same training, a smaller part of it on each of them."""

import contextlib
import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from diffusion import feed, generate, runs, train, validation
from diffusion.checkpoint import Checkpoints
from diffusion.leaves import by_path
from diffusion.lr_schedules import plateau_state
from diffusion.mesh import SMALL, fsdp_spec, made, make_mesh, put_replicated, put_rows, sharded
from diffusion.modes.describe import facts
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.state import create, fingerprint
from diffusion.steps import GO_ON, make_train_step
from tests.tiny import arguments, log, program
from tests.two_processes import REPO, local

STEPS, SAVED = 33, 22
LAYOUTS = [(8, 1), (2, 4), (1, 8)]  # data, fsdp
PLAIN = {
    "data__batch_size": 60,  # 4 of the 64 rows are never valid, 6 in the last batch of an epoch
    "train__steps": STEPS,
    "checkpoint__every": SAVED,
    "log__every": 1,
    "val__every": 0,
    "sample__every": 0,
    "eval__metrics": "()",
}

RULE = [  # shape, fsdp, spec
    ((64, 64), 1, P()),
    ((64, 64), 8, P(None, "fsdp")),  # a tie: the last axis
    ((128, 64), 8, P("fsdp")),
    ((3, 3, 32, 32), 4, P(None, None, None, "fsdp")),
    ((3, 3, 64, 32), 4, P(None, None, "fsdp")),
    ((11, 128), 8, P(None, "fsdp")),
    ((999, 8), 8, P(None, "fsdp")),  # 8 does not divide the largest
    ((12, 1001), 8, P()),  # nor any
    ((SMALL,), 2, P("fsdp")),
    ((SMALL - 2,), 2, P()),  # too small
    ((), 2, P()),
    ((2,), 2, P()),
    ((0, 4096), 2, P()),
    ((3, 3, 30, 30), 6, P(None, None, None, "fsdp")),
]


@pytest.mark.parametrize(("shape", "fsdp", "spec"), RULE)
def test_the_rule(shape, fsdp, spec):
    assert fsdp_spec(shape, fsdp) == spec


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimiser_keeps_of_a_weight_lies_where_the_weight_does(name, clip):
    mesh, tx = make_mesh(2, 4), make_optimizer(OPTIMIZERS[name](), CLIPS[clip]())
    params = {"wide": jnp.ones((32, 64)), "bias": jnp.ones(64)}
    state = jax.eval_shape(lambda: create(params, tx, plateau_state(), 0))
    lying = by_path(sharded(mesh, state))
    specs = {path: tuple(where.spec) for path, where in lying.items()}
    assert {specs[path] for path in specs if path.endswith("/wide")} == {(None, "fsdp")}
    assert {specs[path] for path in specs if not path.endswith("/wide")} == {()}
    assert len([path for path in specs if path.endswith("/wide")]) >= 2


def at(folder, layout, **changed):
    return program(folder / "run", **(PLAIN | {"mesh__data": layout[0], "mesh__fsdp": layout[1]} | changed))


@functools.cache
def compiled(layout, micro_batches=1):
    """(program, its train step)."""
    p = at(Path("nowhere"), layout, optim__micro_batches=micro_batches)
    return p, make_train_step(p.diffusion, p.optimiser, p.mesh, runs._abstract_state(p))


def stepped(p, step, state, steps):
    """(the state after that many steps, their losses)."""
    words, losses = put_rows(p.mesh, np.full(p.mesh.size, GO_ON, np.int32)), []
    with feed.from_step(p, feed.loader(p, "train", training=True), 0) as batches:
        for _ in range(steps):
            state, metrics = step(state, None, next(batches), words)
            losses.append(float(metrics.suspect.loss))
    return state, losses


@functools.cache
def trained(layout):
    """(program, sha256 of the first state, its last state, its losses); the first state's memory is given up."""
    p, step = compiled(layout)
    fresh = runs._fresh_state(p)
    first = fingerprint(fresh)
    state, losses = stepped(p, step, fresh, STEPS)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(fresh))
    return p, first, state, losses


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_every_layout_gives_the_same_losses(layout):
    """From the same weights to the bit; no batch is complete."""
    (_, first, state, losses), (_, wanted_first, _, wanted) = trained(layout), trained((8, 1))
    assert first == wanted_first
    assert int(state.updates) == len(losses) == STEPS and losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)


def on_each_device(tree):
    """{device: bytes it holds}."""
    held = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return held


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_device_holds_its_share(layout):
    """After steps; and what `--mode=describe` says is what there is."""
    (p, _, state, _), (_, fsdp) = trained(layout), layout
    parts = {"params": "parameters", "ema": "ema", "opt_state": "optimiser"}
    for part, name in parts.items():
        leaves = jax.tree.leaves(getattr(state, part))
        shared = [a.nbytes for a in leaves if a.size >= SMALL and any(n % fsdp == 0 for n in a.shape)]
        whole = sum(a.nbytes for a in leaves) - sum(shared)
        held = on_each_device(getattr(state, part))
        assert len(held) == 8 and set(held.values()) == {whole + sum(shared) // fsdp}, part
        assert facts(p)["bytes_per_device"][name] == whole + sum(shared) // fsdp
        assert len(shared) >= 5 and sum(shared) > 0.5 * sum(a.nbytes for a in leaves)
    rest = replace(state, **dict.fromkeys(parts))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(rest))


def test_weights_come_into_being_where_they_belong():
    assert made(make_mesh(1, 8), lambda n: jnp.ones((SMALL, n.shape[0])), jnp.ones(2)).sharding.spec == P("fsdp")
    p, _ = compiled((1, 8))
    fresh, wanted = runs._fresh_state(p), runs._abstract_state(p)
    assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(fresh), jax.tree.leaves(wanted), strict=True))


@pytest.mark.parametrize("layout", [(1, 8), pytest.param((2, 4), marks=pytest.mark.slow)])
def test_micro_batches_add_up(layout):
    p, step = compiled(layout, micro_batches=2)
    assert p.rows == 64
    state, losses = stepped(p, step, runs._fresh_state(p), 4)
    assert not state.params["backbone"]["vec"]["kernel"].is_fully_replicated
    np.testing.assert_allclose(losses, trained(layout)[3][:4], rtol=1e-5)


def test_a_bad_step_changes_nothing_on_any_device():
    """One weight is not finite, and one device alone holds it."""
    p, step = compiled((1, 8))
    fresh = runs._fresh_state(p)
    table = fresh.params["conditioners_label"]["table"]["embedding"]
    assert not table.is_fully_replicated
    spoilt = jax.device_put(table.at[:, 0].set(jnp.inf), table.sharding)
    before = replace(fresh, params=fresh.params | {"conditioners_label": {"table": {"embedding": spoilt}}})
    bits = {path: fingerprint(leaf) for path, leaf in by_path(before).items()}
    after, losses = stepped(p, step, before, 2)
    changed = {path for path, leaf in by_path(after).items() if fingerprint(leaf) != bits[path]}
    assert not np.isfinite(losses).any()
    assert changed == {"step", "bad_in_row", "bad_total"}
    assert int(after.bad_in_row) == 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """layout -> a folder with a checkpoint of its last state."""
    made = {}

    def save(layout):
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp("saved") / "checkpoints"
            with contextlib.closing(Checkpoints(made[layout])) as checkpoints:
                checkpoints.save(STEPS, trained(layout)[2], {}, wait=True)
        return made[layout]

    return save


@pytest.mark.parametrize("after", [(8, 1), (2, 4), (1, 8), (1, 1), (2, 3)])
@pytest.mark.parametrize("before", [(2, 4), (1, 8)])
def test_a_checkpoint_has_the_same_bits_in_every_layout(saved, before, after):
    p = at(Path("nowhere"), after)
    state = Checkpoints(saved(before), read_only=True).restore(runs._abstract_state(p)).state
    assert fingerprint(state) == fingerprint(trained(before)[2])
    for path, leaf in by_path(state).items():
        assert leaf.sharding.spec == fsdp_spec(leaf.shape, after[1]) and leaf.sharding.mesh == p.mesh, path


LABEL, INDEX = np.arange(20) % 10, np.arange(20) // 10
STREAM = {"seed": 0, "purpose": "sample"}


def weights(layout):
    """The same EMA weights, as they lie on that mesh."""
    p, _ = compiled(layout)
    plain = jax.device_get(trained((1, 8))[2].ema["ema"])
    return p, plain, jax.device_put(plain, sharded(p.mesh, plain))


@functools.cache
def drawn(layout):
    p, _, lying = weights(layout)
    return generate.images(p, lying, LABEL, INDEX, **STREAM)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_every_layout_draws_the_same_images(layout):
    np.testing.assert_array_equal(drawn(layout), drawn((8, 1)))


def test_every_layout_validates_alike():
    found, wanted = (validation.validation(p, {"val/loss": lying}) for p, _, lying in map(weights, [(1, 8), (8, 1)]))
    assert list(found) == list(wanted)
    np.testing.assert_allclose(*(list(values.values()) for values in (found, wanted)), rtol=1e-5)


def test_whole_weights_may_be_given_where_shares_are_held():
    """As a notebook does: from no device at all, or whole on the mesh."""
    p, plain, _ = weights((1, 8))
    for given in (plain, put_replicated(p.mesh, plain)):
        np.testing.assert_array_equal(generate.images(p, given, LABEL, INDEX, **STREAM), drawn((1, 8)))


def same_figures(found, wanted):
    assert [list(line) for line in found] == [list(line) for line in wanted]
    for name in {name for line in wanted for name in line}:
        values = ([line[name] for line in lines if name in line] for lines in (found, wanted))
        rtol = 1e-3 if name.startswith("train/grad_norm") else 1e-5
        np.testing.assert_allclose(*values, rtol=rtol, err_msg=name)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((8, 1), (1, 8)),
        pytest.param((1, 8), (2, 4), marks=pytest.mark.slow),
        pytest.param((2, 4), (8, 1), marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_in_another_layout(tmp_path, before, after):
    straight, moved = tmp_path / "straight", tmp_path / "moved"
    train.run(at(straight, before))
    shutil.copytree(straight / "run", moved / "run")
    shutil.rmtree(moved / "run" / "checkpoints" / str(STEPS))
    train.run(at(moved, after))
    found, wanted = (log(folder / "run") for folder in (moved, straight))
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    assert found[:SAVED] == wanted[:SAVED]
    same_figures(found, wanted)


SHARING = """
import contextlib, os, sys
sys.path.insert(0, os.environ["REPO"])
import jax
from diffusion import cluster
from diffusion.checkpoint import Checkpoints
from diffusion.mesh import make_mesh
from diffusion.settings import Cluster
from tests.test_fsdp import placed

where, of, me = (word.partition("=")[2] for word in sys.argv[-3:])
cluster.join(Cluster(where, int(of), int(me), True, 60, 20))
mesh = make_mesh(0, 2)
state = Checkpoints(os.environ["FOLDER"] + "/one", read_only=True).restore(placed(mesh)).state
assert state["wide"].addressable_data(0).shape == (64, 48), state["wide"].sharding
with contextlib.closing(Checkpoints(os.environ["FOLDER"] + "/two")) as saved:
    saved.save(4, state, {}, wait=True)
cluster.leave(0)
"""


def small():
    wide = jnp.arange(64 * 96, dtype=jnp.float32).reshape(64, 96) / 7
    return {"wide": wide, "half": wide[:32].astype(jnp.bfloat16), "odd": wide[:61, :59], "step": jnp.int32(3)}


def placed(mesh):
    shapes = jax.eval_shape(small)
    return jax.tree.map(
        lambda a, where: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), shapes, sharded(mesh, shapes)
    )


def test_two_processes_restore_and_save_each_its_part(tmp_path):
    state = made(make_mesh(2, 4), small)
    with contextlib.closing(Checkpoints(tmp_path / "one")) as saved:
        saved.save(3, state, {}, wait=True)
    ended = local(tmp_path, program=SHARING, FOLDER=tmp_path, PYTHONPATH=REPO)
    assert ended.rc == 0, ended.said
    for layout in [(1, 1), (8, 1), (1, 8)]:
        restored = Checkpoints(tmp_path / "two", read_only=True).restore(placed(make_mesh(*layout)))
        assert restored.step == 4 and fingerprint(restored.state) == fingerprint(state), layout


@pytest.mark.slow
def test_two_processes_share_a_state_between_them(tmp_path):
    """Saved by both halfway, each its part; gone on with by both; read by one."""
    said, halves = {"eval__metrics": "()", "sample__every": 0, "mesh__data": 0, "mesh__fsdp": 2}, (6, 12)
    run, alone = tmp_path / "run", tmp_path / "alone"
    for steps in halves:
        ended = local(tmp_path, *arguments(run, **said, train__steps=steps))
        assert ended.rc == 0, ended.said
    lying = json.loads((run / "checkpoints" / "12" / "state" / "_sharding").read_text()).values()
    specs = [json.loads(leaf)["partition_spec"] for leaf in lying]
    assert sum("fsdp" in spec for spec in specs) >= 4 * 5  # of weights, EMA and two moments
    train.run(program(alone, **said | {"mesh__data": 1}))
    same_figures(*([line for line in log(workdir) if line["step"] not in halves] for workdir in (run, alone)))
    found, wanted = (
        by_path(runs.ema_weights(program(w, **said | {"mesh__data": 1}), "12").state) for w in (run, alone)
    )
    for path, weight in wanted.items():
        np.testing.assert_allclose(found[path], weight, atol=1e-5, err_msg=path)
