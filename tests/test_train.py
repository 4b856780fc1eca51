"""The loop in one process: what it reads and when, what it refuses, what it does when something goes wrong."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main_jax
from diffusion import destinations, evaluate, events, feed, reference, train, validation
from diffusion.errors import DataError, Stopped
from diffusion.feature_chunks import FeatureChunks
from diffusion.signals import StopRequest
from tests.tiny import arguments, log, program, state_print

DEFAULT_NAMES = {
    *("train/loss", "train/loss/q0", "train/loss/q1", "train/loss/q2", "train/loss/q3", "train/lr"),
    *("train/grad_norm", "train/param_norm", "train/ema_decay", "train/bad_steps"),
    *(f"train/{what}_norm/{part}" for what in ("grad", "param") for part in ("backbone", "label")),
    *("perf/steps_per_sec", "perf/images_per_sec", "perf/step_seconds", "perf/mfu", "perf/data_wait"),
    *("perf/eta_seconds", "perf/host_memory_peak"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a run that went through."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert main_jax.main(arguments(workdir)) == 0
    return workdir


def quiet(workdir, **changed):
    """A tiny program without validations, grids and evaluations."""
    nothing = {"val__every": 0, "sample__every": 0, "eval__metrics": "()"}
    return program(workdir, **(nothing | changed))


def test_it_writes_what_it_promises(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    for step in (6, 12):
        assert {
            f"samples/step_{step:08d}.png",
            f"eval/step_{step:08d}.json",
            f"eval/step_{step:08d}_classes.csv",
        } <= names
    assert {"config.json", "metrics.jsonl"} <= names
    steps = {int(path.name) for path in (finished / "checkpoints").iterdir()}
    assert steps == {8, 9, 12}, "the newest three; step 8 was the best when it was measured"


def test_every_default_metric_is_logged(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line for line in lines if "train/loss" in line}
    assert set(logged) == {5, 10} and set(logged[10]) >= DEFAULT_NAMES
    assert {line["step"] for line in lines if "val/loss" in line} == {4, 8, 12}
    quarters = {"", "/q0", "/q1", "/q2", "/q3"}
    validated = {f"val/{loss}{q}" for loss in ("loss", "loss_raw") for q in quarters}
    assert all(set(line) >= validated for line in lines if "val/loss" in line)
    evaluated = [line for line in lines if "eval/fd" in line]
    assert [line["step"] for line in evaluated] == [6, 12]
    for line in evaluated:
        assert {f"eval/fd/class/{digit}" for digit in range(10)} | {"eval/accuracy", "eval/kid_x1e3"} <= set(line)


def test_the_reported_counts_are_exact(finished):
    report = json.loads((finished / "eval" / "step_00000012.json").read_text())
    assert report["counts"] == {str(digit): 3 for digit in range(10)}
    assert report["reference"]["n"] == 1438 and report["step"] == 12
    assert report["extractors"]["classifier"]["name"].startswith("cls-digits-")


def test_validation_compares_two_weights_on_the_same_draws(tmp_path):
    """A name's figures are those of its weights, whatever stands beside them."""
    p = quiet(tmp_path / "run")
    one, other = (p.diffusion.net.init(jax.random.key(seed)) for seed in (0, 1))
    other = jax.tree.map(lambda a: a + 0.1, other)
    both = validation.validation(p, {"val/loss": one, "val/loss_raw": other})
    same = validation.validation(p, {"val/loss": other, "val/loss_raw": other})
    assert both["val/loss"] != both["val/loss_raw"]
    for part in ("", "/q0", "/q1", "/q2", "/q3"):
        assert both[f"val/loss_raw{part}"] == same[f"val/loss{part}"] == same[f"val/loss_raw{part}"]


def test_a_finished_run_says_so_and_changes_nothing(finished, capsys):
    before = state_print(finished), (finished / "metrics.jsonl").read_bytes()
    assert main_jax.main(arguments(finished)) == 0
    assert "finished: 12 of 12" in capsys.readouterr().out
    assert (state_print(finished), (finished / "metrics.jsonl").read_bytes()) == before


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"optim__lr": 5e-4}, 4, ["optim.lr", "0.002", "0.0005"]),
        ({"data__batch_size": 256}, 4, ["data.batch_size", "512", "256"]),
        ({"net__unet__channels": 16}, 4, ["net.unet.channels"]),
        ({"checkpoint__resume": "never"}, 2, ["checkpoint.resume"]),
        ({"optim__schedule": "cosine"}, 4, ["optim.schedule", "warmup", "cosine"]),
    ],
)
def test_another_config_is_refused_with_both_values(finished, capsys, changed, status, words):
    before = sorted(path.as_posix() for path in finished.rglob("*"))
    assert main_jax.main(arguments(finished, **changed)) == status
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert sorted(path.as_posix() for path in finished.rglob("*")) == before


def test_other_data_under_the_same_config_is_refused(finished, capsys, monkeypatch):
    make = feed.loader

    def of_other_data(program, split, *, training):
        loader = make(program, split, training=training)
        return replace(loader, records=replace(loader.records, images=255 - loader.records.images))

    monkeypatch.setattr(feed, "loader", of_other_data)
    before = sorted(path.as_posix() for path in finished.rglob("*"))
    assert main_jax.main(arguments(finished)) == 4
    assert "trained on other data" in (said := capsys.readouterr().err) and "fingerprint" in said
    assert sorted(path.as_posix() for path in finished.rglob("*")) == before


def test_more_steps_go_on_where_the_rate_does_not_depend_on_them(finished, tmp_path):
    straight, extended = tmp_path / "straight", tmp_path / "extended"
    longer = {"train__steps": 8, "val__every": 0, "sample__every": 0, "eval__metrics": "()"}
    assert main_jax.main(arguments(straight, **longer)) == 0
    assert main_jax.main(arguments(extended, **(longer | {"train__steps": 5}))) == 0
    assert main_jax.main(arguments(extended, **longer)) == 0
    assert state_print(straight, **longer)[0] == state_print(extended, **longer)[0]
    assert log(straight) == log(extended)


def test_a_run_goes_on_in_the_middle_of_a_freeze(tmp_path):
    """And the part thaws when it would have: after 5 updates, of which the checkpoint at step 3 knows 3."""
    nothing = {"val__every": 0, "sample__every": 0, "eval__metrics": "()", "optim__part_lrs": "backbone:0.5"}
    frozen = nothing | {"optim__freeze": "label:5", "log__every": 1, "checkpoint__keep": 9}
    straight, parted = tmp_path / "straight", tmp_path / "parted"
    for workdir, steps in ((straight, 8), (parted, 3), (parted, 8)):
        assert main_jax.main(arguments(workdir, **frozen, train__steps=steps)) == 0
    assert state_print(straight, **frozen) == state_print(parted, **frozen)
    assert log(straight) == log(parted)
    norms = [line["train/param_norm/label"] for line in log(parted)]
    assert len(set(norms[:5])) == 1 and len(set(norms[4:])) == 4
    assert log(parted)[4]["train/grad_norm/label"] > 0, "measured before the freeze"


def test_the_loop_reads_only_control_scalars_two_steps_old(tmp_path, monkeypatch):
    p = quiet(tmp_path / "run", train__steps=20, log__every=1000, checkpoint__every=1000)
    loops, reads = [], []
    init = train.Loop.__init__
    monkeypatch.setattr(train.Loop, "__init__", lambda self, *a: (init(self, *a), loops.append(self))[0])
    array = type(jnp.zeros(()))
    value = array._value

    def spied(self):
        if loops and loops[0].step < 20:
            reads.append((self.shape, len(loops[0].flight)))
        return value.fget(self)

    monkeypatch.setattr(array, "_value", property(spied))
    asarray = np.asarray
    monkeypatch.setattr(np, "asarray", lambda a, *k, **kw: asarray(spied(a) if isinstance(a, array) else a, *k, **kw))
    with jax.transfer_guard("disallow"):
        train.run(p)
    assert len(reads) == 18, "one read a step, from the third step on"
    assert set(reads) == {((2,), train.IN_FLIGHT - 1)}, "of two numbers, while a newer step is in flight"


def test_400_steps_on_eight_devices(tmp_path):
    p = quiet(
        tmp_path / "run", mesh__data=8, data__batch_size=16, train__steps=400, log__every=100, checkpoint__every=400
    )
    train.run(p)
    assert log(tmp_path / "run")[-1]["step"] == 400


def test_an_exception_in_an_evaluation_saves_first_and_the_next_run_owes_it(tmp_path, monkeypatch):
    workdir, broken = tmp_path / "run", evaluate.report

    def fails_at_the_end(program, params, step, *others):
        if step == 12:
            raise RuntimeError("the evaluation broke")
        return broken(program, params, step, *others)

    monkeypatch.setattr(evaluate, "report", fails_at_the_end)
    assert main_jax.main(arguments(workdir)) == 1
    assert not state_print(workdir)[1]["events_done"] and not (workdir / "eval" / "step_00000012.json").exists()
    monkeypatch.setattr(evaluate, "report", broken)
    assert main_jax.main(arguments(workdir)) == 0
    assert state_print(workdir)[1]["events_done"] and (workdir / "eval" / "step_00000012.json").exists()
    straight = tmp_path / "straight"
    assert main_jax.main(arguments(straight)) == 0
    assert log(workdir) == log(straight)
    assert state_print(workdir) == state_print(straight)


class _Full(Exception):
    """What no part of the program expects."""


def _unreadable_record(monkeypatch):
    from diffusion.data.records import ArrayRecords

    read = ArrayRecords.__getitem__
    first = set(feed.loader(program("unused"), "train", training=True).ids(7)[:1].tolist())
    broken = {"reads": 0}

    def getitem(self, i):
        broken["reads"] += i in first
        if broken["reads"] > 2 and i in first:  # one read an epoch: this is the third epoch's, at step 7
            raise DataError(f"record {i} cannot be read")
        return read(self, i)

    monkeypatch.setattr(ArrayRecords, "__getitem__", getitem)


def _failing_writer(monkeypatch):
    jsonl = destinations.WRITERS["jsonl"]

    def failing(run):
        writer = jsonl(run)

        def write(step, metrics):
            if step >= 10:
                raise _Full("the log cannot be written")
            writer.write(step, metrics)

        return replace(writer, write=write)

    monkeypatch.setitem(destinations.WRITERS, "jsonl", failing)


@pytest.mark.parametrize(("fault", "word"), [(_unreadable_record, "cannot be read"), (_failing_writer, "_Full")])
def test_an_exception_in_data_or_a_writer_saves_first(tmp_path, capsys, fault, word):
    """The state of the last whole step is on disk, later than the last periodic one, and goes on exactly."""
    plain = {"val__every": 0, "sample__every": 0, "eval__metrics": "()", "checkpoint__every": 100}
    straight, workdir = tmp_path / "straight", tmp_path / "run"
    assert main_jax.main(arguments(straight, **plain)) == 0
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        assert main_jax.main(arguments(workdir, **plain)) == 1
    assert word in capsys.readouterr().err
    (saved,) = (int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert 5 <= saved < 12
    assert main_jax.main(arguments(workdir, **plain)) == 0
    assert state_print(workdir, **plain) == state_print(straight, **plain)
    assert log(workdir) == log(straight)


def _stop_in(event, stop, monkeypatch):
    """Ask to stop from within the first ``event`` of the run."""
    if event == "evaluation":
        owner, name = reference, "reals"
    elif event == "validation":
        owner, name = validation, "_step"
    else:
        owner, name = events, "indices"
    inner = getattr(owner, name)

    def stopping(*args):
        stop.reason = "SIGTERM"
        return inner(*args)

    monkeypatch.setattr(owner, name, stopping)


@pytest.mark.parametrize("event", ["evaluation", "validation", "grid"])
def test_a_stop_within_an_event_leaves_it_owed_and_goes_on_exactly(finished, tmp_path, event):
    workdir, stop = tmp_path / "run", StopRequest()
    with pytest.MonkeyPatch.context() as patch:
        _stop_in(event, stop, patch)
        with pytest.raises(Stopped, match=f"SIGTERM.*saved in {workdir / 'checkpoints'}"):
            train.run(program(workdir), stop)
    at = {"evaluation": 6, "validation": 4, "grid": 6}[event]
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == at
    assert not state_print(workdir)[1]["events_done"]
    train.run(program(workdir))
    assert state_print(workdir) == state_print(finished)
    assert log(workdir) == log(finished)


def test_an_interrupted_evaluation_draws_no_image_twice(finished, tmp_path, monkeypatch):
    """Stopped after one of three batches, it draws the other two; the figures are those of an undisturbed one."""
    workdir, few = tmp_path / "run", {"eval__num_samples_per_class": 7, "train__steps": 6, "eval__every": 0}
    drawn, stop = [], StopRequest()
    add = FeatureChunks.add

    def counting(self, places, *made):
        drawn.append(places.tolist())
        stop.reason = "SIGTERM"
        add(self, places, *made)

    monkeypatch.setattr(FeatureChunks, "add", counting)
    with pytest.raises(Stopped):
        train.run(program(workdir, **few), stop)
    assert len(drawn) == 1 and len(list((workdir / "cache").glob("evaluation-*/*.npz"))) == 1
    train.run(program(workdir, **few))
    assert [places[0] for places in drawn] == [0, 32, 64] and sum(map(len, drawn)) == 70
    assert not list((workdir / "cache").glob("evaluation-*")), "nothing of it is left"
    monkeypatch.setattr(FeatureChunks, "add", add)
    train.run(program(tmp_path / "straight", **few))
    assert log(workdir) == log(tmp_path / "straight")


def test_features_of_other_weights_or_damaged_ones_are_drawn_again(tmp_path):
    places, answers = np.arange(3), {"net/features": np.ones((3, 2), np.float32)}
    FeatureChunks(tmp_path, {"weights": "a"}).add(places, answers)
    again = FeatureChunks(tmp_path, {"weights": "a"})
    assert again.has(places) and not again.has(places[:2]) and not again.has(places + 3)
    np.testing.assert_array_equal(again.all()[1]["net/features"], answers["net/features"])
    assert not FeatureChunks(tmp_path, {"weights": "b"}).has(places)
    (file,) = tmp_path.glob("*/*.npz")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 16
    file.write_bytes(bytes(raw))
    assert not FeatureChunks(tmp_path, {"weights": "a"}).has(places)


def test_non_finite_steps_end_the_run_with_a_healthy_state(tmp_path, monkeypatch):
    p = quiet(tmp_path / "run", train__max_bad_steps=3, train__steps=30)
    put = feed.put_rows

    def poisoned(mesh, batch):
        x = np.full(batch.x.shape, np.nan if batch.id[0] >= 0 and poisoned.count >= 4 else 0.1, np.float32)
        poisoned.count += 1
        return put(mesh, type(batch)(x, batch.cond, batch.id, batch.valid))

    poisoned.count = 0
    monkeypatch.setattr(feed, "put_rows", poisoned)
    with pytest.raises(train.NonFiniteError, match="3 steps in a row") as raised:
        train.run(p)
    assert raised.value.status == 3
    saved = train.runs.checkpoints(p, read_only=True).restore(train.runs._abstract_state(p))
    assert int(saved.state.updates) == 4 and int(saved.state.bad_total) >= 3
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(saved.state.params))
    lines = [json.loads(line) for line in (tmp_path / "run" / "bad_steps.jsonl").read_text().splitlines()]
    source = feed.loader(p, "train", training=True)
    assert [line["step"] for line in lines][:3] == [5, 6, 7] and lines[0]["why"] == "loss"
    assert all(line["ids"] == source.ids(line["step"] - 1).tolist() for line in lines)


def _poison(monkeypatch, steps, row):
    """NaN into one row of the given steps' batches, whoever asks for them."""
    put = feed.put_rows

    def poisoned(mesh, batch):
        ids = batch.id[batch.valid]
        if any(np.array_equal(ids, wanted) for wanted in steps):
            x = batch.x.astype(np.float32)
            x[row] = np.nan
            batch = replace(batch, x=x)
        return put(mesh, batch)

    monkeypatch.setattr(feed, "put_rows", poisoned)


def test_a_bad_step_names_its_example_and_changes_nothing(tmp_path, monkeypatch, capsys):
    p = quiet(tmp_path / "run", checkpoint__every=4)
    source = feed.loader(p, "train", training=True)
    wanted = [source.ids(3), source.ids(7)]
    _poison(monkeypatch, wanted, row=5)
    train.run(p)
    lines = [json.loads(line) for line in (tmp_path / "run" / "bad_steps.jsonl").read_text().splitlines()]
    assert [(line["step"], line["why"], line["of"], line["ids"]) for line in lines] == [
        (4, "loss", "examples", [int(wanted[0][5])]),
        (8, "loss", "examples", [int(wanted[1][5])]),
    ]
    assert log(tmp_path / "run")[-1]["train/bad_steps"] == 2
    assert (
        f"step 4 changed nothing: its loss is not finite; training examples {wanted[0][5]} " in capsys.readouterr().out
    )


def test_debug_mode_names_what_was_not_finite(tmp_path, monkeypatch, capsys):
    p = quiet(tmp_path / "run", train__debug=True)
    _poison(monkeypatch, [feed.loader(p, "train", training=True).ids(3)], row=5)
    train.run(p)
    assert "step 4: the net's input is not finite: look at the images of this batch" in capsys.readouterr().out
    nothing = {"val__every": 0, "sample__every": 0, "eval__metrics": "()"}
    with_debug = state_print(tmp_path / "run", **nothing)
    train.run(quiet(tmp_path / "without"))
    assert with_debug == state_print(tmp_path / "without", **nothing), "looking changes nothing"


def test_bad_steps_after_the_checkpoint_are_cut_on_resume(tmp_path):
    from diffusion.bad_steps import BadSteps

    path = tmp_path / "bad_steps.jsonl"
    path.write_text('{"step": 4}\n{"step": 8}\n{"st')
    BadSteps(tmp_path, None, 4)
    assert path.read_text() == '{"step": 4}\n'


def test_an_abnormal_loss_is_skipped_and_listed(tmp_path):
    p = quiet(tmp_path / "run", train__max_loss=1e-6, train__max_bad_steps=2)
    with pytest.raises(train.NonFiniteError, match=r"train\.max_loss"):
        train.run(p)
    line = json.loads((tmp_path / "run" / "bad_steps.jsonl").read_text().splitlines()[0])
    assert line["why"] == "max_loss" and line["of"] == "batch" and line["loss"] > 0.1 and len(line["ids"]) == 512


def test_max_minutes_stops_saves_and_goes_on_exactly(tmp_path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    ticks = iter(range(10_000))
    with pytest.raises(Stopped, match="max_minutes") as raised:
        train.run(quiet(cut, train__max_minutes=0.1), StopRequest(clock=lambda: next(ticks)))
    assert raised.value.status == 75
    stopped_at = train.runs.checkpoints(quiet(cut), read_only=True).latest()
    assert 0 < stopped_at < 12
    train.run(quiet(cut))
    train.run(quiet(whole))
    nothing = {"val__every": 0, "sample__every": 0, "eval__metrics": "()"}
    assert state_print(cut, **nothing) == state_print(whole, **nothing)
    assert log(cut) == log(whole)


def test_a_plateau_sees_one_observation_per_validation(tmp_path, monkeypatch, capsys):
    p = program(
        tmp_path / "run", optim__schedule="plateau", optim__plateau__patience=1, optim__plateau__rtol=0.9,
        val__every=2, sample__every=0, eval__metrics="()", log__every=1, train__steps=8,
    )  # fmt: skip
    losses = iter([4.0, 4.0, 4.0, 1e-3])
    monkeypatch.setattr(validation, "validation", lambda *_: {"val/loss": next(losses)})
    train.run(p)
    rates = {line["step"]: line["train/lr"] for line in log(tmp_path / "run") if "train/lr" in line}
    assert rates[1] == rates[4] == pytest.approx(2e-3)
    assert rates[5] == rates[6] == pytest.approx(1e-3), "halved by the second observation, at step 4"
    assert rates[7] == pytest.approx(5e-4), "and by the third"
    said = capsys.readouterr().out
    assert "step 5: the learning rate went from 0.002 to 0.001" in said


LOSSES = [4.0, 3.0, 3.5, 3.0, 2.0, 5.0, 4.0, 2.0, 1.0, 1.0]  # of validations at steps 2, 4, …; the best is at step 10


def patient(workdir, monkeypatch, **changed):
    """A run whose validation losses are LOSSES."""
    found = {2 * i: loss for i, loss in enumerate(LOSSES, start=1)}
    p = program(workdir, **{"val__every": 2, "sample__every": 0, "eval__every": 0, "log__every": 1, "train__steps": 20,
                            "train__patience": 3, "eval__num_samples_per_class": 2} | changed)  # fmt: skip

    def loss_of(program, weights, between):
        step = len([line for line in log(workdir) if "train/loss" in line])
        return {"val/loss": found[step]}

    monkeypatch.setattr(validation, "validation", loss_of)
    return p


def test_it_ends_when_the_best_is_so_many_validations_old(tmp_path, monkeypatch, capsys):
    train.run(patient(tmp_path, monkeypatch))
    said = capsys.readouterr().out
    assert "step 16 of 20 was its last, as val/loss was best at step 10 and not better in the 3 measurements" in said
    assert [line["step"] for line in log(tmp_path) if "train/loss" in line] == list(range(1, 17))
    assert (tmp_path / "eval" / "step_00000016.json").exists(), "the last step of a run is evaluated, whatever ends it"
    assert train.runs.checkpoints(patient(tmp_path, monkeypatch), read_only=True).latest() == 16
    before = log(tmp_path)
    train.run(patient(tmp_path, monkeypatch))
    assert "This run is finished: step 16 of 20" in capsys.readouterr().out and log(tmp_path) == before
    train.run(patient(tmp_path, monkeypatch, train__patience=4))
    assert "Finished: 20 of 20 steps are done" in capsys.readouterr().out, "more patience goes on, and finds step 18"


@pytest.mark.parametrize("cut", [12, 14])
def test_a_resumed_run_is_no_more_patient(tmp_path, monkeypatch, cut):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.run(patient(whole, monkeypatch))
    train.run(patient(parts, monkeypatch, train__steps=cut, eval__metrics="()"))
    train.run(patient(parts, monkeypatch))
    assert state_print(parts) == state_print(whole) and log(parts) == log(whole)


def test_patience_counts_validations(tmp_path, capsys):
    assert main_jax.main(arguments(tmp_path, val__every=0, train__patience=2, checkpoint__best_metric="loss")) == 2
    assert "train.patience: counts validations" in capsys.readouterr().err


def test_periodic_checkpoints_stay(tmp_path):
    p = quiet(tmp_path, train__steps=11, checkpoint__every=3, checkpoint__keep=1, checkpoint__keep_every=4)
    train.run(p)
    assert train.runs.checkpoints(p, read_only=True).all_steps() == [4, 8, 11]


def test_a_plateau_without_validation_sees_the_mean_training_loss(tmp_path, monkeypatch):
    seen = []
    p = quiet(tmp_path / "run", optim__schedule="plateau", optim__plateau__every=4, train__steps=8, log__every=1)
    plateau = p.schedule.plateau
    watched = replace(plateau, observe=lambda s, value: (seen.append(float(value)), plateau.observe(s, value))[1])
    train.run(replace(p, schedule=replace(p.schedule, plateau=watched)))
    losses = [(line["train/loss"], 414 if line["step"] % 3 == 0 else 512) for line in log(tmp_path / "run")]
    means = [sum(loss * n for loss, n in part) / sum(n for _, n in part) for part in (losses[:4], losses[4:])]
    assert seen == pytest.approx(means, rel=1e-5)


def test_a_low_rate_is_announced_once(tmp_path, capsys):
    train.run(quiet(tmp_path / "run", optim__lr=1e-9, train__steps=6, log__every=1))
    assert capsys.readouterr().out.count("is below 1e-07") == 1


def test_a_rate_that_fell_at_the_last_save_is_said_by_the_resumed_run(tmp_path, monkeypatch, capsys):
    fields = {"optim__schedule": "plateau", "optim__plateau__patience": 1, "optim__plateau__rtol": 0.9, "val__every": 2,
              "sample__every": 0, "eval__metrics": "()", "log__every": 1}  # fmt: skip
    monkeypatch.setattr(validation, "validation", lambda *_: {"val/loss": 4.0})
    train.run(program(tmp_path, **fields, train__steps=4))
    assert "learning rate went" not in capsys.readouterr().out
    train.run(program(tmp_path, **fields, train__steps=5))
    assert "step 5: the learning rate went from 0.002 to 0.001" in capsys.readouterr().out


def test_config_json_holds_what_best_means(finished):
    saved = json.loads((finished / "config.json").read_text())["checkpoint"]
    assert (saved["best_metric"], saved["best_mode"]) == ("val/loss", "min")


def test_init_from_takes_the_ema_of_another_run(finished, tmp_path):
    p = quiet(tmp_path / "next", init_from=str(finished))
    fresh = train.runs._fresh_state(p)
    ema, _, step = train.runs.ema_weights(program(finished), "latest")
    assert step == 12 and int(fresh.step) == 0
    for a, b in zip(jax.tree.leaves(fresh.params), jax.tree.leaves(ema), strict=True):
        np.testing.assert_array_equal(a, b)


def test_eval_mode_repeats_the_figures_of_the_run(finished):
    path = finished / "eval" / "step_00000012.json"
    during = json.loads(path.read_text())["metrics"]
    path.unlink()
    assert main_jax.main(["--mode=eval", f"--workdir={finished}"]) == 0
    assert json.loads(path.read_text())["metrics"] == during


def test_eval_mode_takes_other_metrics_than_the_one_that_ranks(tmp_path, capsys):
    workdir = tmp_path / "run"
    ranked = {"checkpoint__best_metric": "eval/fd", "checkpoint__best_mode": "auto", "train__steps": 6}
    assert main_jax.main(arguments(workdir, **ranked)) == 0
    assert (
        main_jax.main(["--mode=eval", f"--workdir={workdir}", "--config.eval.metrics=kid", "--config.eval.step=best"])
        == 0
    )
    assert "pooled" in (said := capsys.readouterr().out) and said.count("kid_x1e3 ") > 1
    assert main_jax.main(["--mode=eval", f"--workdir={workdir}", "--config.eval.metrics=()"]) == 2


def test_sample_mode_writes_the_classes_asked_for(finished, tmp_path):
    out = tmp_path / "out"
    asked = ["--config.sample.classes=3,3,7", "--config.sample.num=5", f"--config.sample.out={out}"]
    assert main_jax.main(["--mode=sample", f"--workdir={finished}", *asked]) == 0
    made = np.load(out / "samples.npz")
    assert made["images"].shape == (5, 8, 8, 1) and made["images"].dtype == np.uint8
    assert made["labels"].tolist() == [3, 3, 7, 3, 3] and made["labels"].dtype == np.int32
    assert (out / "samples.png").exists()


def test_a_grid_has_a_row_per_class(finished):
    p = program(finished)
    assert events.GRID_ROWS >= 10
    from PIL import Image

    sheet = np.asarray(Image.open(finished / "samples" / "step_00000012.png"))
    tile = 48 + 2
    assert sheet.shape[0] == 10 * tile + 2 and sheet.shape[1] > p.sample.per_class * tile
