"""Parameters, EMA and optimiser shared out over devices: the same training, a smaller part of it on each of them."""

import contextlib
import json
import math
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from diffusion import evaluate, feed, generate, runs, train
from diffusion.checkpoint import Checkpoints
from diffusion.leaves import by_path
from diffusion.lr_schedules import plateau_state
from diffusion.mesh import SMALL, fsdp_spec, made, make_mesh, put_replicated, put_rows, sharded
from diffusion.modes.describe import facts
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.state import create, fingerprint
from diffusion.steps import GO_ON, make_train_step
from tests.tiny import arguments, log, program, state_print
from tests.two_processes import REPO, local

STEPS, SAVED = 33, 11
LAYOUTS = [(8, 1), (2, 4), (1, 8)]  # data, fsdp
PLAIN = {
    "data__batch_size": 60,  # 4 of the 64 rows are never valid, 6 in the last batch of an epoch
    "train__steps": STEPS,
    "checkpoint__every": SAVED,
    "log__every": 1,
    "val__every": STEPS,
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


def at(tmp_path, data, fsdp, **changed):
    return program(tmp_path / "run", **(PLAIN | {"mesh__data": data, "mesh__fsdp": fsdp} | changed))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(data, fsdp) -> the workdir of an undisturbed run."""
    ended = {}

    def run(data, fsdp):
        if (data, fsdp) not in ended:
            folder = ended[data, fsdp] = tmp_path_factory.mktemp("straight")
            train.run(at(folder, data, fsdp))
        return ended[data, fsdp]

    return run


def same_figures(found, wanted):
    assert [list(line) for line in found] == [list(line) for line in wanted]
    for name in {name for line in wanted for name in line}:
        values = ([line[name] for line in lines if name in line] for lines in (found, wanted))
        rtol = 1e-3 if name == "train/grad_norm" else 1e-5
        np.testing.assert_allclose(*values, rtol=rtol, err_msg=name)


@pytest.mark.parametrize(("data", "fsdp"), LAYOUTS[1:])
def test_every_layout_gives_the_same_losses(straight, data, fsdp):
    """Of training, every step, and of validation; no batch is complete."""
    found, wanted = (log(straight(*layout) / "run") for layout in ((data, fsdp), (8, 1)))
    assert [line["step"] for line in found if "train/loss" in line] == list(range(1, STEPS + 1))
    assert "val/loss" in found[-1] and found[-1]["step"] == STEPS
    same_figures(found, wanted)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((8, 1), (1, 8)),
        pytest.param((1, 8), (2, 4), marks=pytest.mark.slow),
        pytest.param((2, 4), (8, 1), marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_in_another_layout(straight, tmp_path, before, after):
    shutil.copytree(straight(*before) / "run", tmp_path / "run")
    for step in (2 * SAVED, STEPS):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    train.run(at(tmp_path, *after))
    found, wanted = (log(folder / "run") for folder in (tmp_path, straight(*before)))
    assert found[:SAVED] == wanted[:SAVED]
    same_figures(found, wanted)


@pytest.mark.parametrize("saved", [(2, 4), (1, 8)])
@pytest.mark.parametrize("layout", [(8, 1), (2, 4), (1, 8), (1, 2), (1, 1), (2, 3)])
def test_a_checkpoint_has_the_same_bits_in_every_layout(straight, saved, layout):
    folder = straight(*saved)
    reference = state_print(folder / "run", **PLAIN, mesh__data=8)
    p = at(folder, *layout)
    restored = runs.checkpoints(p, read_only=True).restore(runs._abstract_state(p))
    assert fingerprint(restored.state) == reference[0]
    for path, leaf in by_path(restored.state).items():
        assert leaf.sharding.spec == fsdp_spec(leaf.shape, layout[1]) and leaf.sharding.mesh == p.mesh, path


def on_each_device(tree):
    """{device: bytes it holds}."""
    held = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return held


def stepped(p, batches, state=None):
    """(the state after that many batches, the losses)."""
    state = runs._fresh_state(p) if state is None else state
    step = make_train_step(p.diffusion, p.optimiser, p.mesh, state)
    words, losses = put_rows(p.mesh, np.full(p.mesh.size, GO_ON, np.int32)), []
    with feed.from_step(p, feed.loader(p, "train", training=True), 0) as given:
        for _ in range(batches):
            state, metrics = step(state, None, next(given), words)
            losses.append(float(metrics.suspect.loss))
    return state, losses


@pytest.mark.parametrize(("data", "fsdp"), LAYOUTS)
def test_a_device_holds_its_share(tmp_path, data, fsdp):
    """Before and after steps; what `--mode=describe` says is what there is."""
    p = at(tmp_path, data, fsdp)
    parts = ("params", "ema", "opt_state")
    names = dict(zip(parts, ("parameters", "ema", "optimiser"), strict=True))
    for state in (runs._fresh_state(p), stepped(p, 2)[0]):
        for part in parts:
            leaves = jax.tree.leaves(getattr(state, part))
            shared = [a.nbytes for a in leaves if a.size >= SMALL and any(n % fsdp == 0 for n in a.shape)]
            whole = sum(a.nbytes for a in leaves) - sum(shared)
            held = on_each_device(getattr(state, part))
            assert len(held) == 8 and set(held.values()) == {whole + sum(shared) // fsdp}, part
            assert facts(p)["bytes_per_device"][names[part]] == whole + sum(shared) // fsdp
            assert len(shared) >= 5 and sum(shared) > 0.5 * sum(a.nbytes for a in leaves)
        rest = replace(state, **dict.fromkeys(parts))
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(rest))


def test_weights_are_drawn_alike_and_where_they_belong(tmp_path):
    states = {layout: runs._fresh_state(at(tmp_path, *layout)) for layout in LAYOUTS}
    assert len({fingerprint(state) for state in states.values()}) == 1
    mesh = make_mesh(1, 8)
    assert made(mesh, lambda n: jnp.ones((SMALL, n.shape[0])), jnp.ones(2)).sharding.spec == P("fsdp")


def test_no_weight_or_gradient_is_kept_whole_between_steps(tmp_path):
    """The compiled step takes and gives shares alone, in the memory it was given."""
    p = at(tmp_path, 1, 8)
    state = runs._abstract_state(p)
    words = put_rows(p.mesh, np.full(8, GO_ON, np.int32))
    batch = next(feed.once(p, "train"))
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), batch)
    compiled = make_train_step(p.diffusion, p.optimiser, p.mesh, state).lower(state, None, batch, words).compile()
    share = sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes == share


@pytest.mark.parametrize("layout", [(1, 8), pytest.param((2, 4), marks=pytest.mark.slow)])
def test_micro_batches_add_up(tmp_path, layout):
    parts = stepped(at(tmp_path, *layout, optim__micro_batches=2), 4)[1]
    np.testing.assert_allclose(parts, stepped(at(tmp_path, *layout), 4)[1], rtol=1e-5)


def test_a_bad_step_changes_nothing_on_any_device(tmp_path):
    """One weight is not finite, and one device alone holds it."""
    p = at(tmp_path, 1, 8)
    fresh = runs._fresh_state(p)
    table = fresh.params["conditioners_label"]["table"]["embedding"]
    assert not table.is_fully_replicated
    spoilt = jax.device_put(table.at[:, 0].set(jnp.inf), table.sharding)
    before = replace(fresh, params=fresh.params | {"conditioners_label": {"table": {"embedding": spoilt}}})
    bits = {path: fingerprint(leaf) for path, leaf in by_path(before).items()}
    after, losses = stepped(p, 2, before)
    changed = {path for path, leaf in by_path(after).items() if fingerprint(leaf) != bits[path]}
    assert not np.isfinite(losses).any()
    assert changed == {"step", "bad_in_row", "bad_total"}
    assert int(after.bad_in_row) == 2


@pytest.fixture(scope="module")
def weights(straight):
    """layout -> the same EMA weights, on that mesh."""
    folder = straight(1, 8)
    return lambda layout: runs.ema_weights(at(folder, *layout), str(STEPS)).state


LABEL, INDEX = np.arange(20) % 10, np.arange(20) // 10
STREAM = {"seed": 0, "purpose": "sample"}


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_every_layout_draws_the_same_images(straight, weights, layout):
    whole, p = at(straight(1, 8), 8, 1), at(straight(1, 8), *layout)
    wanted = generate.images(whole, weights((8, 1)), LABEL, INDEX, **STREAM)
    np.testing.assert_array_equal(generate.images(p, weights(layout), LABEL, INDEX, **STREAM), wanted)


def test_whole_weights_may_be_given_where_shares_are_held(straight, weights):
    """As a notebook does: on the mesh, or on no device at all."""
    p = at(straight(1, 8), 1, 8)
    plain = jax.device_get(weights((1, 8)))
    wanted = generate.images(p, weights((1, 8)), LABEL, INDEX, **STREAM)
    for given in (plain, put_replicated(p.mesh, plain)):
        np.testing.assert_array_equal(generate.images(p, given, LABEL, INDEX, **STREAM), wanted)
    assert evaluate.validation(p, plain) == evaluate.validation(p, weights((1, 8)))


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
    with contextlib.closing(Checkpoints(tmp_path / "one")) as saved:
        saved.save(3, made(make_mesh(2, 4), small), {}, wait=True)
    ended = local(tmp_path, program=SHARING, FOLDER=tmp_path, PYTHONPATH=REPO)
    assert ended.rc == 0, ended.said
    for layout in [(1, 1), (8, 1), (1, 8)]:
        restored = Checkpoints(tmp_path / "two", read_only=True).restore(placed(make_mesh(*layout)))
        assert restored.step == 4 and fingerprint(restored.state) == fingerprint(small()), layout


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
