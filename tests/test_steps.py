"""The jitted steps, with a net of three parameters where the step is meant and one residual block where it trains."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.batch_losses import fill
from diffusion.ema import EMAS
from diffusion.guidance import THRESHOLDS
from diffusion.leaves import by_path
from diffusion.lr_schedules import LR_SCHEDULES, plateau_state
from diffusion.mesh import make_mesh, over_rows, put_replicated, put_rows
from diffusion.nets.codec import CODECS
from diffusion.nets.conditions import label
from diffusion.nets.layers import dropout, noise_embedding
from diffusion.nets.model import Net, make_net
from diffusion.nets.unet import ResBlock, unet
from diffusion.objective import DENSITIES, WEIGHTINGS
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.part_rules import Rule
from diffusion.process import TARGETS, Process
from diffusion.sample_step import Guidance, Held, Sampling, make_sample_step
from diffusion.samplers import GRIDS, SAMPLERS, sample
from diffusion.schedules import SCHEDULES
from diffusion.state import create, fingerprint
from diffusion.steps import (
    GO_ON,
    SAVE_AGAIN,
    STOP,
    Diffusion,
    Optimiser,
    make_train_step,
    make_validation_step,
)
from diffusion.types import Batch

CLASSES, SHAPE, ROWS = 10, (8, 8, 1), 32
PROCESS = Process(SCHEDULES["cosine"](), TARGETS["v"]())
SCHEDULE = LR_SCHEDULES["warmup_cosine"](2e-3, 60, warmup_steps=5)
EMA_EVERY, EMA_DECAY = 2, 0.4
OPTIMISER = Optimiser(
    make_optimizer(OPTIMIZERS["adamw"](), CLIPS["global_norm"]()),
    SCHEDULE,
    EMAS["constant"](decay=EMA_DECAY),
    EMA_EVERY,
    micro_batches=1,
    strict=0,
    max_loss=0.0,
)
PLATEAU_SCALE = 0.5


def toy_params():
    rng = np.random.default_rng(1)
    table = rng.normal(0, 0.5, (CLASSES + 1, 1)).astype(np.float32)
    return {"scale": np.float32([0.7]), "table": table, "root": np.float32([1.0])}


def toy_net(rate: float = 0.2) -> Net:
    """scale * x + table[label] + sqrt(root) * c_noise / 1000, then dropout; the gradient at root = 0 is infinite."""

    def apply(params, x, c_noise, cond, null, keys=None):
        row = params["table"][jnp.where(null["label"], CLASSES, cond["label"])]
        noise = jnp.sqrt(params["root"])[None, None, None] * (c_noise / 1000)[:, None, None, None]
        y = params["scale"][None, None, None] * x + row[:, None, None] + noise
        return dropout(y, keys, rate, 0)

    return Net(lambda key: (toy_params(), None), apply, SHAPE, ("label",))


def block_net() -> Net:
    """One residual block between two projections: convolutions and adaptive norm, in few operations."""
    style = unet(8, 1, jnp.float32, channels=8, groups=2).style
    block = ResBlock(channels=8, style=style, layer=0)

    def apply(params, x, c_noise, cond, null, keys=None):
        row = params["table"][jnp.where(null["label"], CLASSES, cond["label"])]
        emb = row + noise_embedding(c_noise, 8)
        return block.apply(params["block"], x @ params["in"], emb, keys) @ params["out"]

    def init_with_output(key):
        shapes = jax.eval_shape(block.init, key, jnp.zeros((1, 8, 8, 8)), jnp.zeros((1, 8)), None)
        more = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in BLOCK_LEAVES.items()}
        return stirred(more | {"block": shapes}), None

    return Net(init_with_output, apply, SHAPE, ("label",))


BLOCK_LEAVES = {"in": (1, 8), "out": (8, 1), "table": (CLASSES + 1, 8)}


def unet_net() -> Net:
    backbone = unet(8, 1, jnp.float32, channels=8, groups=2, heads=2, mults=(1, 2), attention=(1,))
    net = make_net(backbone, {"label": label(CLASSES, d=8)}, SHAPE, {"label": jnp.zeros(1, jnp.int32)})
    return replace(net, init_with_output=lambda key: (stirred(jax.eval_shape(net.init, key)), None))


def stirred(shapes):
    """Weights of which none is 0, so that a gradient reaches every leaf."""
    rng = np.random.default_rng(0)
    deviation = lambda a: 0.5 / np.sqrt(max(np.prod(a.shape[:-1]), 1))  # noqa: E731
    return jax.tree.map(lambda a: rng.normal(0, deviation(a), a.shape).astype(np.float32), shapes)


NETS = {"toy": toy_net, "block": block_net, "unet": unet_net}
TRAINED = ["block", pytest.param("unet", marks=pytest.mark.slow)]


def diffusion(net: Net, drop=0.2, drop_all=0.1, process=PROCESS) -> Diffusion:
    density, weighting = DENSITIES["stratified"](process), WEIGHTINGS["unit"]()
    return Diffusion(net, process, density, weighting, CODECS["pixels"](), drop, drop_all)


@functools.cache
def train_step(name: str, devices: int, **changed):
    optimiser = replace(OPTIMISER, **changed)
    return make_train_step(diffusion(NETS[name]()), optimiser, make_mesh(devices))


@functools.cache
def host_state(name: str):
    plateau = plateau_state()._replace(scale=jnp.float32(PLATEAU_SCALE))
    state = create(jax.tree.map(jnp.asarray, NETS[name]().init(jax.random.key(0))), OPTIMISER.tx, plateau, seed=3)
    return jax.device_get(state)


def start(name: str, devices: int, **changed):
    return put_replicated(make_mesh(devices), replace(host_state(name), **changed))


def host_batch(n_valid: int, seed: int = 0, rows: int = ROWS) -> Batch:
    """Digits-like floats; what fills the shape is as bad as can be."""
    rng = np.random.default_rng([seed, n_valid])
    x, labels = rng.uniform(-1, 1, (rows, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, rows, np.int32)
    valid = np.arange(rows) < n_valid
    x[~valid], labels[~valid] = np.nan, 1_000_000
    return Batch(x, {"label": labels}, np.where(valid, np.arange(rows), -1).astype(np.int32), valid)


def put(devices: int, tree):
    return put_rows(make_mesh(devices), tree)


def no_stop(devices: int):
    return put(devices, np.zeros(devices, np.int32))


def losses(sums):
    return {name: [float(total), float(count)] for name, (total, count) in jax.device_get(sums).items()}


def assert_same(got, wanted, tolerance):
    """Leaf by leaf, the distance relative to the leaf's length: sums in another order differ by rounding.

    A leaf whose terms cancel keeps the rounding of its terms, so 1e-9 of the length of all leaves is allowed too.
    """
    got, wanted = by_path(jax.device_get(got)), by_path(jax.device_get(wanted))
    assert set(got) == set(wanted)
    rounding = 1e-9 * np.linalg.norm([np.linalg.norm(value) for value in wanted.values()])
    for path, value in wanted.items():
        off = np.linalg.norm(np.float64(got[path]) - value)
        assert off <= tolerance * np.linalg.norm(value) + rounding, path


def assert_same_update(got, wanted):
    """(state, metrics) of one step from the same state, at 1e-6; Adam's first moment is the gradient."""
    for (total, count), other in zip(*(losses(m.sums).values() for _, m in (got, wanted)), strict=True):
        np.testing.assert_allclose([total, count], other, rtol=1e-6)
    assert_same(got[1].last, wanted[1].last, 1e-6)
    for part in ("opt_state", "params", "ema"):
        assert_same(getattr(got[0], part), getattr(wanted[0], part), 1e-6)


@pytest.mark.parametrize("name", ["toy", *TRAINED])
def test_a_padded_batch_gives_the_update_of_the_unpadded_one(name):
    padded = host_batch(11)
    unpadded = jax.tree.map(lambda a: a[:11], padded)
    outcomes = [train_step(name, 1)(start(name, 1), None, put(1, b), no_stop(1)) for b in (padded, unpadded)]
    assert float(outcomes[0][1].sums["train/loss"][1]) == 11
    assert_same_update(*outcomes)


@pytest.mark.parametrize("name", TRAINED)
def test_one_two_and_eight_devices_give_the_same_losses(name):
    """50 steps of which two in five are incomplete."""

    def run(devices: int) -> list[float]:
        step, state, found = train_step(name, devices), start(name, devices), []
        for i in range(50):
            batch = host_batch((ROWS, 29, ROWS, 5, ROWS)[i % 5], seed=i)
            state, metrics = step(state, None, put(devices, batch), no_stop(devices))
            total, count = losses(metrics.sums)["train/loss"]
            found.append(total / count)
        return found

    one, two, eight = (run(devices) for devices in (1, 2, 8))
    assert np.mean(one[-5:]) < 0.95 * np.mean(one[:5])
    np.testing.assert_allclose(two, one, rtol=1e-5)
    np.testing.assert_allclose(eight, one, rtol=1e-5)


@pytest.mark.parametrize("n_valid", [ROWS, 21, 2])
def test_micro_batches_give_the_update_of_the_whole_batch(n_valid):
    """Of 2 valid rows, two of the four micro-batches hold none."""
    batch = put(8, host_batch(n_valid))
    outcomes = [train_step("toy", 8, micro_batches=parts)(start("toy", 8), None, batch, no_stop(8)) for parts in (4, 1)]
    assert_same_update(*outcomes)


def bad_input(state):
    batch = host_batch(20)
    batch.x[3, 2, 2] = np.nan
    return state, batch


def bad_gradient(state):
    """A finite loss whose gradient is infinite."""
    return replace(state, params=state.params | {"root": np.float32([0.0])}), host_batch(20)


@pytest.mark.parametrize("spoil", [bad_input, bad_gradient])
def test_a_step_that_is_not_finite_changes_nothing_but_counters(spoil):
    step = train_step("toy", 8)
    state = step(start("toy", 8), None, put(8, host_batch(ROWS)), no_stop(8))[0]
    before, batch = spoil(jax.device_get(state))
    state = put_replicated(make_mesh(8), before)
    for bad in (1, 2):
        state, metrics = step(state, None, put(8, batch), no_stop(8))
        assert jax.device_get(metrics.control).tolist() == [0, bad]
        assert not any(any(pair) for pair in losses(metrics.sums).values())
    counters = dict(step=before.step + 2, bad_in_row=before.bad_in_row + 2, bad_total=before.bad_total + 2)
    assert fingerprint(state) == fingerprint(replace(before, **counters))

    state = replace(jax.device_get(state), params=host_state("toy").params)
    state, metrics = step(put_replicated(make_mesh(8), state), None, put(8, host_batch(20)), no_stop(8))
    counts = jax.device_get((state.step, state.updates, state.bad_in_row, state.bad_total, metrics.control[1]))
    assert counts == (4, 2, 0, 2, 0)
    assert float(metrics.last["train/bad_steps"]) == 2
    learned = jax.device_get((state.params, state.ema, state.opt_state))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learned))


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_bad_step_names_its_rows_in_the_batchs_order(micro_batches):
    """The rows that only fill the shape become copies of the first, which is a bad one: no one suspects them."""
    step, batch = train_step("toy", 8, micro_batches=micro_batches), host_batch(21)
    batch.x[0, 1, 1], batch.x[14, 1, 1] = np.nan, np.inf
    suspect = jax.device_get(step(start("toy", 8), None, put(8, batch), no_stop(8))[1].suspect)
    assert np.flatnonzero(suspect.rows).tolist() == [0, 14]
    assert suspect.rows.shape == (ROWS,) and not np.isfinite(suspect.loss) and not np.isfinite(suspect.grad_norm)


def test_a_batch_without_a_valid_row_is_no_update_and_no_bad_step():
    before = host_state("toy")
    state, metrics = train_step("toy", 2)(start("toy", 2), (), put(2, host_batch(0)), no_stop(2))
    counters = {"step": before.step + 1}
    assert fingerprint(jax.device_get(state)) == fingerprint(replace(before, **counters))
    assert np.asarray(metrics.control).tolist() == [GO_ON, 0]
    assert np.asarray(metrics.sums["train/loss"]).tolist() == [0, 0]


def test_a_gradient_that_is_not_finite_suspects_no_row():
    before, batch = bad_gradient(host_state("toy"))
    suspect = train_step("toy", 8)(put_replicated(make_mesh(8), before), None, put(8, batch), no_stop(8))[1].suspect
    assert not np.asarray(suspect.rows).any()
    assert np.isfinite(float(suspect.loss)) and np.isinf(float(suspect.grad_norm))


def test_a_finite_loss_above_the_limit_is_skipped_like_one_that_is_not_finite():
    """The limit is compared with the mean over the valid rows: their sum lies above it in both steps."""
    limit, batch = 2.0, host_batch(20)
    step = train_step("toy", 8, max_loss=limit)
    state, metrics = step(start("toy", 8), None, put(8, batch), no_stop(8))
    mean, total = float(metrics.suspect.loss), float(metrics.sums["train/loss"][0])
    assert int(state.updates) == 1 and 0 < mean < limit < total
    np.testing.assert_allclose(mean, total / 20, rtol=1e-6)
    before = jax.device_get(state)
    batch.x[:20] *= 10
    state, metrics = step(state, None, put(8, batch), no_stop(8))
    assert limit < float(metrics.suspect.loss) < np.inf and not np.asarray(metrics.suspect.rows).any()
    assert jax.device_get(metrics.control).tolist() == [GO_ON, 1]
    assert not any(any(pair) for pair in losses(metrics.sums).values())
    one = np.int32(1)
    assert fingerprint(state) == fingerprint(replace(before, step=one + one, bad_in_row=one, bad_total=one))


def test_the_rate_and_the_average_follow_the_updates():
    """One step in three is bad: it moves neither."""
    step, state = train_step("toy", 8), start("toy", 8)
    average, updates = host_state("toy").ema["ema"], 0
    for i in range(12):
        bad = i % 3 == 1
        batch = host_batch(20, seed=i)
        batch.x[0] += np.inf if bad else 0.0
        state, metrics = step(state, None, put(8, batch), no_stop(8))
        last = jax.device_get(metrics.last)
        np.testing.assert_allclose(last["train/lr"], PLATEAU_SCALE * float(SCHEDULE(updates)), rtol=1e-6)
        if not bad:
            decay = min(EMA_DECAY, (1 + updates) / (10 + updates)) ** EMA_EVERY
            updates += 1
            if updates % EMA_EVERY == 0:
                params = jax.device_get(state.params)
                average = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, average, params)
        assert int(state.updates) == updates
        assert_same(state.ema["ema"], average, 1e-6)
    assert updates == 8
    # the warm-up is over: decay and its share of updates were both met
    assert (1 + updates) / (10 + updates) > EMA_DECAY


def test_norms_are_those_of_all_leaves():
    state, metrics = train_step("toy", 8)(start("toy", 8), None, put(8, host_batch(20)), no_stop(8))
    leaves, norm = by_path(jax.device_get(state)), float(metrics.last["train/grad_norm"])
    joint = lambda part: np.linalg.norm([np.linalg.norm(a) for path, a in leaves.items() if part in path])  # noqa: E731
    np.testing.assert_allclose(metrics.last["train/param_norm"], joint("params/"), rtol=1e-6)
    # the norm is that before the clip; Adam's first moment is 0.1 of the gradient clipped to a norm of 1
    assert norm > 1
    np.testing.assert_allclose(joint("/mu/"), 0.1, rtol=1e-5)


def test_norms_of_parts_add_up_to_that_of_all_leaves():
    _, metrics = train_step("toy", 8)(start("toy", 8), None, put(8, host_batch(20)), no_stop(8))
    for name in ("train/grad_norm", "train/param_norm"):
        parts = {path: float(norm) for path, norm in metrics.last.items() if path.startswith(f"{name}/")}
        assert set(parts) == {f"{name}/{part}" for part in ("scale", "table", "root")} and min(parts.values()) > 0
        np.testing.assert_allclose(np.linalg.norm(list(parts.values())), metrics.last[name], rtol=1e-6)


def test_a_net_of_one_part_has_no_norms_of_parts():
    toy = toy_net()
    net = Net(
        lambda key: ({"backbone": toy_params()}, None), lambda p, *a: toy.apply(p["backbone"], *a), SHAPE, ("label",)
    )
    state = jax.eval_shape(lambda: create(net.init(None), OPTIMISER.tx, plateau_state(), 0))
    step = make_train_step(diffusion(net), OPTIMISER, make_mesh(1))
    last = jax.eval_shape(step, state, None, host_batch(20), np.zeros(1, np.int32))[1].last
    assert [name for name in last if "_norm" in name] == ["train/grad_norm", "train/param_norm"]


def test_bad_steps_do_not_count_for_a_freeze():
    """Frozen for two updates, the third of which comes after two bad steps."""
    rules = dict.fromkeys(toy_params(), Rule()) | {"scale": Rule(frozen=2)}
    tx = make_optimizer(OPTIMIZERS["adam"](), CLIPS["global_norm"](), rules)
    step = make_train_step(diffusion(toy_net()), replace(OPTIMISER, tx=tx), make_mesh(1))
    state = put_replicated(make_mesh(1), jax.device_get(create(toy_params(), tx, plateau_state(), seed=3)))
    moved = {"scale": [], "table": []}
    for i, bad in enumerate([False, True, True, False, False]):
        before, batch = jax.device_get(state.params), host_batch(20, seed=i)
        batch.x[0] += np.inf if bad else 0.0
        state, metrics = step(state, None, put(1, batch), no_stop(1))
        for part, found in moved.items():
            found.append(bool((np.asarray(state.params[part]) != before[part]).any()))
        assert bad or float(metrics.last["train/grad_norm/scale"]) > 0, "measured before the freeze"
    assert moved == {"scale": [False, False, False, False, True], "table": [True, False, False, True, True]}


def test_twenty_steps_compile_once_and_transfer_nothing():
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **kw: events.append(event))
    step = make_train_step(diffusion(toy_net()), OPTIMISER, make_mesh(8))
    batches = [put(8, host_batch(n_valid, seed=n_valid)) for n_valid in range(ROWS - 20, ROWS)]
    state, stop = start("toy", 8), no_stop(8)
    jax.block_until_ready((state, batches, stop))
    before = len(events)
    with jax.transfer_guard("disallow"):
        for batch in batches:
            state, metrics = step(state, None, batch, stop)
            jax.block_until_ready(metrics)
    assert [event for event in events[before:] if "backend_compile" in event] == [
        "/jax/core/compile/backend_compile_duration"
    ]
    assert int(state.updates) == 20


@pytest.mark.parametrize("said", [[(5, STOP)], [(2, SAVE_AGAIN)], [(1, STOP), (6, SAVE_AGAIN)]])
def test_the_strongest_word_of_any_device_reaches_control_and_nothing_else(said):
    step, batch, words = train_step("toy", 8), put(8, host_batch(20)), np.full(8, GO_ON, np.int32)
    for device, word in said:
        words[device] = word
    outcomes = [step(start("toy", 8), None, batch, asked) for asked in (no_stop(8), put(8, words))]
    assert [jax.device_get(metrics.control).tolist() for _, metrics in outcomes] == [[GO_ON, 0], [said[0][1], 0]]
    assert len({fingerprint(state) for state, _ in outcomes}) == 1
    assert len({str(losses(metrics.sums)) for _, metrics in outcomes}) == 1


@pytest.mark.parametrize("n_valid", [ROWS, 21])
def test_quarters_add_up_to_the_loss(n_valid):
    _, metrics = train_step("toy", 8)(start("toy", 8), None, put(8, host_batch(n_valid)), no_stop(8))
    found = losses(metrics.sums)
    total = found.pop("train/loss")
    assert sorted(found) == ["train/loss/q0", "train/loss/q1", "train/loss/q2", "train/loss/q3"]
    np.testing.assert_allclose(np.sum(list(found.values()), axis=0), total, rtol=1e-6)
    assert total[1] == n_valid
    # times are stratified, so a quarter of them lies in each quarter
    assert all(abs(count - n_valid / 4) < 1 for _, count in found.values())


def test_the_state_is_donated():
    state = start("toy", 8)
    train_step("toy", 8)(state, None, put(8, host_batch(20)), no_stop(8))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def null_net() -> Net:
    """Answers 0 or 1: whether condition a, b, or both became their null, as its parameters ask."""

    def apply(params, x, c_noise, cond, null, keys=None):
        a, b = null["a"].astype(jnp.float32), null["b"].astype(jnp.float32)
        share = params["a"] * a + params["b"] * b + params["both"] * a * b
        return jnp.broadcast_to(share[:, None, None, None], x.shape)

    return Net(lambda key: ({}, None), apply, (1, 1, 1), ("a", "b"))


@pytest.mark.parametrize(
    ("drop", "drop_all", "one", "both"),
    [(1.0, 0.0, 1.0, 1.0), (0.2, 0.1, 0.28, 0.1 + 0.9 * 0.04)],
)
def test_shares_of_dropped_conditions(drop, drop_all, one, both):
    """On clean images of 0 and the x0 target, the loss is the share of rows on which the net answers 1."""
    process = Process(SCHEDULES["cosine"](), TARGETS["x0"]())
    optimiser = replace(OPTIMISER, tx=OPTIMIZERS["sgd"]())
    step = make_train_step(diffusion(null_net(), drop, drop_all, process), optimiser, make_mesh(1))
    n = 8192
    label = np.zeros(n, np.int32)
    batch = put(1, Batch(np.zeros((n, 1, 1, 1), np.float32), {"a": label, "b": label}, label, np.ones(n, bool)))
    for asked, wanted in {"a": one, "b": one, "both": both}.items():
        params = {name: jnp.float32(name == asked) for name in ("a", "b", "both")}
        state = put_replicated(make_mesh(1), jax.device_get(create(params, optimiser.tx, plateau_state(), 0)))
        total, count = losses(step(state, None, batch, no_stop(1))[1].sums)["train/loss"]
        assert abs(total / count - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / n), asked


def test_validation_is_the_same_in_any_batch_and_drops_nothing():
    """13 examples as 8 + 5 on one device and as 13 of 16 on eight; only the second net may drop anything."""
    whole, n = host_batch(13, rows=13), 13
    key, params = jax.random.key(5), jax.tree.map(jnp.asarray, toy_params())

    def run(devices, rows, d):
        step, totals = make_validation_step(d, make_mesh(devices), n), []
        for first in range(0, n, rows):
            batch = host_batch(min(rows, n - first), rows=rows)
            for to, of in ((batch.x, whole.x), (batch.cond["label"], whole.cond["label"]), (batch.id, whole.id)):
                to[: n - first] = of[first : first + rows]
            given = put_replicated(make_mesh(devices), params), None, put(devices, batch)
            found = [losses(step(*given, put_replicated(make_mesh(devices), key))) for _ in range(2)]
            assert found[0] == found[1]
            totals.append(found[0])
        return {name: np.sum([t[name] for t in totals], axis=0) for name in totals[0]}

    one = run(1, 8, diffusion(toy_net(rate=0.0), drop=0.0, drop_all=0.0))
    eight = run(8, 16, diffusion(toy_net(rate=0.5), drop=0.5, drop_all=0.5))
    assert one["loss"][1] == n and one["loss"][0] > 0
    assert set(one) == {"loss", *(f"loss/q{q}" for q in range(4))}
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], rtol=1e-6)


SAMPLE_KEYS, LABELS = jax.random.split(jax.random.key(7), 8), np.int32([0, 1, 2, 3, 4, 5, 6, 7])


def sample_step(scale: float, net: Net | None = None):
    """Stochastic, so that every step's noise is seen to belong to the image."""
    times = functools.partial(GRIDS["uniform"], PROCESS, 4)
    rule, threshold = SAMPLERS["ddim"](eta=1.0), THRESHOLDS["none"](PROCESS)
    return make_sample_step(
        diffusion(net or toy_net()), Sampling(rule, times, Guidance(scale), threshold), make_mesh(8)
    )


def drawn(step, image_keys, labels):
    params = put_replicated(make_mesh(8), toy_params())
    return np.asarray(step(params, Held(), put_rows_of_keys(image_keys), {"label": put(8, labels)}, {}))


def put_rows_of_keys(image_keys):
    return jax.random.wrap_key_data(put(8, np.asarray(jax.random.key_data(image_keys))))


@functools.cache
def expected_images() -> dict[float, np.ndarray]:
    """By hand, {w: u8[8 h w c]}: u + w (c - u)."""
    net, params = toy_net(), jax.tree.map(jnp.asarray, toy_params())

    def denoiser(null):
        given = {"label": jnp.asarray(LABELS)}, {"label": jnp.full(8, null)}
        return PROCESS.denoiser(lambda x, c_noise: net.apply(params, x, c_noise, *given))

    def guided(scale):
        def denoise(x, t):
            c, u = denoiser(False)(x, t), denoiser(True)(x, t)
            return jax.tree.map(lambda a, b: b + scale * (a - b), c, u)

        ts = GRIDS["uniform"](PROCESS, 4)
        return sample(PROCESS, denoise, SAMPLERS["ddim"](eta=1.0), ts, SAMPLE_KEYS, shape=SHAPE)

    pixels = jax.device_get(jax.jit(lambda: {scale: guided(scale) for scale in (0.0, 1.0, 3.0)})())
    return {scale: np.floor(np.clip(x * 127.5 + 127.5, 0, 255) + 0.5) for scale, x in pixels.items()}


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_scales(scale):
    """1 is the condition alone, 0 the null."""
    images = drawn(sample_step(scale), SAMPLE_KEYS, LABELS)
    assert (images.dtype, images.shape) == (np.uint8, (8, *SHAPE))
    assert images.std() > 20
    off = np.abs(images - expected_images()[scale])
    assert off.max() <= 1 and (off > 0).mean() < 0.01  # a value at the edge of rounding


def test_an_image_depends_on_its_key_and_class_alone():
    step, order = sample_step(3.0), np.array([5, 2, 2, 7, 0, 1, 6, 3])
    images = drawn(step, SAMPLE_KEYS, LABELS)
    np.testing.assert_array_equal(drawn(step, SAMPLE_KEYS[order], LABELS[order]), images[order])
    assert len(np.unique(images, axis=0)) == 8
    assert (drawn(step, SAMPLE_KEYS, LABELS[::-1].copy()) != images).any((1, 2, 3)).all()


def test_an_unconditional_net_is_sampled_without_guidance():
    calls = []

    def apply(params, x, c_noise, cond, null, keys=None):
        calls.append((dict(cond), dict(null)))
        return x

    net = Net(lambda key: ({}, None), apply, SHAPE, ())
    assert jax.eval_shape(sample_step(3.0, net), {}, Held(), SAMPLE_KEYS, {}, {}).shape == (8, *SHAPE)
    assert calls == [({}, {})]


def test_no_device_gathers_the_batch_to_fill_it():
    mesh = make_mesh(8)
    images, valid = np.zeros((16, 4, 4, 3), np.uint8), np.arange(16) < 13
    batch = put_rows(
        mesh, Batch(images, {"label": np.arange(16, dtype=np.int32)}, np.arange(16, dtype=np.int32), valid)
    )
    compiled = jax.jit(fill, out_shardings=over_rows(mesh)).lower(batch).compile()
    gathered = [line for line in compiled.as_text().splitlines() if " all-gather(" in line]
    assert not [line for line in gathered if "u8[" in line], gathered
