"""Two real processes do what one does, stop together, and neither waits for one that is dead."""

import csv
import functools
import json
import shutil

import numpy as np
import pytest

import main_jax
from diffusion.data.order import permuted
from tests.tiny import TINY, log, state_print
from tests.tiny import arguments as tiny
from tests.two_processes import copied, local

arguments = functools.partial(tiny, eval__every=0, sample__every=12)  # one evaluation and one grid, at the end
EXACT = dict(rtol=1e-5, atol=0)  # between topologies; the same topology is compared to the bit


@pytest.fixture(scope="module")
def reads(tmp_path_factory):
    return tmp_path_factory.mktemp("reads")


@pytest.fixture(scope="module")
def two(tmp_path_factory, reads):
    """(workdir, how it ended) of an undisturbed run of two processes."""
    folder = tmp_path_factory.mktemp("two")
    return folder / "run", local(folder, *arguments(folder / "run"), READS=reads)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same run on two devices of one process."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    assert main_jax.main(arguments(workdir)) == 0
    return workdir


def same_log(run, reference):
    """The same lines with the same names, values to 1e-5."""
    found, wanted = log(run), log(reference)
    assert [list(line) for line in found] == [list(line) for line in wanted]
    for line, like in zip(found, wanted, strict=True):
        close(line, like)


def close(found, wanted):
    """Two dicts of figures, None where there is none, to 1e-5."""
    assert list(found) == list(wanted)
    np.testing.assert_allclose(*(np.array(list(d.values()), float) for d in (found, wanted)), **EXACT)


def written(run):
    return sorted(
        str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and p.parts[len(run.parts)] != "checkpoints"
    )


def figures(run):
    body = json.loads((run / "eval" / "step_00000012.json").read_text())
    return {name: body[name] for name in ("metrics", "counts", "extractor", "reference", "step")}


def test_two_processes_do_what_one_does(two, one):
    run, ended = two
    assert ended.rc == 0, ended.said
    assert ended.out.count("Finished: 12 of 12 steps are done.") == 1, "only process 0 speaks"
    same_log(run, one)
    assert written(run) == written(one)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {p.name for p in (one / "checkpoints").iterdir()}
    assert (run / "config.json").read_text() == (one / "config.json").read_text()
    found, wanted = figures(run), figures(one)
    close(found.pop("metrics"), wanted.pop("metrics"))
    assert found == wanted
    classes = [list(csv.DictReader((r / "eval" / "step_00000012_classes.csv").open())) for r in (run, one)]
    assert [row["class"] for row in classes[0]] == [row["class"] for row in classes[1]]
    name = "samples/step_00000012.png"
    assert (run / name).read_bytes() == (one / name).read_bytes()


def test_each_process_reads_its_own_rows_of_every_batch(two, reads):
    for step in range(3):
        mine = [np.load(reads / f"{process}_{step}.npy") for process in (0, 1)]
        window = slice(step * TINY["data.batch_size"], (step + 1) * TINY["data.batch_size"])
        wanted = permuted(1438, 0, 0, 0)[window]
        np.testing.assert_array_equal(np.concatenate(mine), wanted)
        assert len(mine[0]) == 256 and len(mine[1]) == len(wanted) - 256


@pytest.mark.parametrize(("signal", "who"), [("SIGTERM", 1), pytest.param("SIGINT", 0, marks=pytest.mark.slow)])
def test_a_signal_to_one_process_stops_both_at_one_step(two, tmp_path, signal, who):
    run = tmp_path / "run"
    stopped = local(tmp_path, *arguments(run), DIES_WHO=who, DIES_HOW=signal, DIES_AT=7)
    assert stopped.rc == 75 and "did not end within" not in stopped.said, stopped.said
    assert stopped.said.count("the same command goes on") == 2
    assert f"stopped ({signal})" in stopped.said and "stopped (a signal to another process)" in stopped.said
    assert max(int(p.name) for p in (run / "checkpoints").iterdir()) >= 7
    assert local(tmp_path, *arguments(run)).rc == 0
    assert state_print(run) == state_print(two[0])
    assert log(run) == log(two[0])


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_killed_process_ends_the_other_and_the_last_checkpoint_goes_on(two, one, tmp_path, who):
    run = tmp_path / "run"
    argv = [*arguments(run), "--config.cluster.heartbeat=10"]
    killed = local(tmp_path, *argv, DIES_WHO=who, DIES_HOW="SIGKILL", DIES_AT=8)
    assert killed.rc != 0 and "did not end within" not in killed.said, killed.said
    assert max(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdecimal()) >= 4, (
        "the save before the last"
    )
    alone = copied(run, tmp_path / "alone")
    assert local(tmp_path, *argv).rc == 0
    assert state_print(run) == state_print(two[0]) and log(run) == log(two[0])
    assert main_jax.main(arguments(alone)) == 0
    same_log(alone, one)


@pytest.mark.slow
def test_one_process_goes_on_as_two(two, one, tmp_path):
    run = copied(one, tmp_path / "run", without=12)
    went_on = local(tmp_path, *arguments(run))
    assert went_on.rc == 0 and "Going on from step 9 of 12" in went_on.out, went_on.said
    same_log(run, one)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes_gives_the_same_losses_for_100_steps(tmp_path, before, after):
    plain = dict(data__batch_size=64, val__every=0, sample__every=0, eval__metrics="()", log__every=1)
    plain |= dict(checkpoint__every=10, checkpoint__keep=20, train__steps=110)
    kept = tmp_path / "kept"
    ended = local(tmp_path, *tiny(kept, **plain, mesh__data=0), count=before, JAX_NUM_CPU_DEVICES=2 // before)
    assert ended.rc == 0, ended.said
    run = copied(kept, tmp_path / "run")
    for saved in (run / "checkpoints").iterdir():
        if saved.name != "10":
            shutil.rmtree(saved)
    went_on = local(tmp_path, *tiny(run, **plain, mesh__data=0), count=after, JAX_NUM_CPU_DEVICES=2 // after)
    assert went_on.rc == 0 and "Going on from step 10 of 110" in went_on.out, went_on.said
    found, wanted = ([line["train/loss"] for line in log(r)] for r in (run, kept))
    assert len(found) == 110 and found[:10] == wanted[:10]
    np.testing.assert_allclose(found, wanted, **EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_what_one_process_cannot_read_ends_both(two, tmp_path, who):
    run = tmp_path / "run"
    ended = local(tmp_path, *arguments(run), DIES_WHO=who, DIES_HOW="DataError", DIES_AT=7)
    assert ended.rc == 1 and "did not end within" not in ended.said, ended.said
    assert ended.said.count("main_jax.py: record 3: /data/3.png is truncated") == 1
    assert local(tmp_path, *arguments(run)).rc == 0
    assert state_print(run) == state_print(two[0]) and log(run) == log(two[0])


@pytest.mark.slow
def test_evaluating_and_sampling_on_two_processes_give_what_one_gives(one, tmp_path):
    again, alone = copied(one, tmp_path / "again"), copied(one, tmp_path / "alone")
    for mode in ("eval", "sample"):
        ended = local(tmp_path, f"--mode={mode}", f"--workdir={again}", "--config.sample.num=13")
        assert ended.rc == 0 and ended.out.count("It wrote:") == 1, ended.said
        assert main_jax.main([f"--mode={mode}", f"--workdir={alone}", "--config.sample.num=13"]) == 0
    assert figures(again) == figures(alone)
    made, wanted = (np.load(run / "samples.npz") for run in (again, alone))
    np.testing.assert_array_equal(made["labels"], wanted["labels"])
    assert made["images"].shape == (13, 8, 8, 1)
    np.testing.assert_array_equal(made["images"], wanted["images"])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["describe", "bench"])
def test_what_is_told_of_two_processes_is_told_once(tmp_path, mode):
    ended = local(tmp_path, *arguments(tmp_path / "run"), f"--mode={mode}", "--json")
    assert ended.rc == 0 and json.loads(ended.out[ended.out.index("{") :])["devices"] == 2, ended.said


MEETING = """
import os, sys, time
sys.path.insert(0, os.environ["REPO"])
import jax
from diffusion import cluster
from diffusion.errors import PeerError
from diffusion.settings import Cluster

where, of, me = (word.partition("=")[2] for word in sys.argv[-3:])
cluster.join(Cluster(where, int(of), int(me), True, 60, 20))
told = cluster.of_first({"me": int(me), "x": 0.1 + int(me), "none": None, "long": "x" * 1000 * (int(me) + 1)})
assert told == {"me": 0, "x": 0.1, "none": None, "long": "x" * 1000}, told
for _ in range(3):
    cluster.barrier("again")
late = os.path.join(os.path.dirname(__file__), "late")
if int(me) == 1:  # comes to everything but the last meeting
    while not os.path.exists(late):
        time.sleep(0.05)
    os._exit(0)
try:
    cluster.barrier("the last", 2)
except PeerError as error:
    print(f"said: {error}")
open(late, "w").close()
sys.stdout.flush()
os._exit(0)
"""


def test_a_barrier_waits_for_its_time_and_no_longer(tmp_path):
    met = local(tmp_path, program=MEETING)
    assert met.rc == 0, met.said
    assert "said: another process of this run is gone (DEADLINE_EXCEEDED: " in met.out
    assert met.out.rstrip().endswith("waited up to 2 s at the barrier 'the last'")
