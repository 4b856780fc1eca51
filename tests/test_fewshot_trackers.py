"""A few-shot run with W&B offline and one without a tracker: the same numbers, and what the offline run holds."""

import contextlib
import io
import json

import pytest

import main_jax
from tests.evaluated import write_npz
from tests.fewshot_runs import SETS
from tests.test_writers import wandb_history
from tests.tiny import arguments, log

SIZES = {0: 40, 1: 40, 2: 40, 4: 12, 3: 40}  # of class 3 ten are in the reference: fewer than are asked for
NAMES, UNSEEN, ASKED, SMALL = [str(label) for label in range(5)], "4", 15, ("3", 10)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(workdir without a tracker, workdir with W&B offline, what the first said); each evaluates steps 2 and 4."""
    place = tmp_path_factory.mktemp("trackers")
    told = SETS | {
        "data__source": "npz",
        "data__root": write_npz(place / "few.npz", SIZES),
        "data__test_classes": UNSEEN,
        "val__every": 0,
        "sample__every": 0,
        "train__steps": 4,
        "eval__every": 2,
        "eval__num_samples_per_class": ASKED,
        "checkpoint__every": 2,
    }
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main_jax.main(arguments(place / "off", **told)) == 0
    assert main_jax.main(arguments(place / "on", **told, log__wandb=True)) == 0
    import wandb

    wandb.teardown()
    return place / "off", place / "on", said.getvalue()


def test_the_log_is_the_same(both):
    off, on = map(log, both[:2])
    assert off == on
    evaluated = {line["step"]: line for line in off if "eval/fd" in line}
    assert set(evaluated) == {2, 4}
    for line in evaluated.values():
        wanted = [f"class/{name}" for name in NAMES] + ["group/in", "group/out"]
        assert all(line[f"eval/fd/{name}"] >= 0 and line[f"eval/kid_x1e3/{name}"] is not None for name in wanted)


def test_the_files_are_the_same(both):
    off, on = (sorted(path.name for path in (workdir / "eval").iterdir()) for workdir in both[:2])
    assert off == on and {f"step_0000000{step}_sets.png" for step in (2, 4)} <= set(off)
    for name in off:
        one, two = ((workdir / "eval" / name).read_bytes() for workdir in both[:2])
        if name.endswith(".json"):
            one, two = (json.loads(text) | {"seconds": 0} for text in (one, two))
        assert one == two, name


def test_a_class_smaller_than_asked_is_said_and_compared_at_its_size(both):
    name, n = SMALL
    said = [line for line in both[2].splitlines() if "images a side" in line]
    assert len(said) == 2 and all(
        line.startswith(f"class {name}: {n} images a side instead of the {ASKED}") for line in said
    )
    for step in (2, 4):
        counts = json.loads((both[0] / f"eval/step_{step:08d}.json").read_text())["counts"]
        assert counts == dict.fromkeys(NAMES, ASKED) | {name: n}


def test_the_offline_run_holds_every_class_and_the_images_at_both_evaluations(both):
    records = list(wandb_history(both[1]))
    evaluated = {record["step"]: record for record in records if "eval/fd" in record}
    assert set(evaluated) == {2, 4}
    for step, record in evaluated.items():
        line = next(line for line in log(both[1]) if line["step"] == step and "eval/fd" in line)
        for name in NAMES:
            assert record[f"eval/fd/class/{name}"] == pytest.approx(line[f"eval/fd/class/{name}"])
    for side in ("support", "generated", "real", "sets"):
        shown = {record["step"]: record[f"eval/{side}/path"] for record in records if f"eval/{side}/path" in record}
        assert set(shown) == {2, 4}
        for path in shown.values():
            (file,) = both[1].rglob(path.rpartition("/")[2])
            assert file.read_bytes().startswith(b"\x89PNG")
