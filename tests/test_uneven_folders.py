"""A user's small, uneven class folders from end to end: what programs of this kind get wrong, held by a run of seconds.

The rest of what they get wrong has tests of its own: a plateau's one observation per validation and a low rate said
once (test_train), names that nobody measures (test_best), a clip before a threshold (test_guidance).
"""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import main_jax
from diffusion import runs, train
from tests.tiny import arguments, log, program, state_print

FOLDERS = {
    "data__source": "digits_folder",
    "data__root": "{workdir}/digits",
    "data__batch_size": 256,  # four batches an epoch, the last one incomplete
    "data__rotate": 5.0,
    "balance__sampling": "inverse_frequency",
    "balance__loss": "effective_number",
    "optim__schedule": "plateau",
    "optim__plateau__patience": 1,
    "optim__plateau__rtol": 0.5,  # hardly anything is an improvement, so the rate falls
    "train__patience": 9,
    "train__steps": 12,
    "log__every": 2,
    "val__every": 2,
    "log__tensorboard": True,
    "eval__num_samples_per_class": 50,
    "eval__every": 0,
    "eval__classifier__steps": 20,
    "eval__metrics": "('fd',)",
    "usefulness__seeds": 2,
    "usefulness__steps": 5,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uneven") / "run"
    assert main_jax.main(arguments(workdir, **FOLDERS)) == 0
    return workdir


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The same run, stopped after step 7, between two validations and within an epoch."""
    workdir = tmp_path_factory.mktemp("uneven") / "run"
    with pytest.MonkeyPatch.context() as patch:
        dispatch = train.Loop._dispatch

        def stopping(loop, *given):
            dispatch(loop, *given)
            if loop.step == 7:
                loop.stop.reason = "a test"

        patch.setattr(train.Loop, "_dispatch", stopping)
        assert main_jax.main(arguments(workdir, **FOLDERS)) == 75
    assert runs.checkpoints(program(workdir, **FOLDERS), read_only=True).latest() < 12
    assert main_jax.main(arguments(workdir, **FOLDERS)) == 0
    return workdir


def test_a_resume_has_schedule_samples_and_counts_of_the_whole_run(finished, resumed):
    """There is one loop: rate, plateau, best, draws and grids go on as if nothing had been."""
    assert state_print(resumed, **FOLDERS) == state_print(finished, **FOLDERS)
    assert log(resumed) == log(finished)
    grids = [sorted(path.name for path in (run / "samples").iterdir()) for run in (finished, resumed)]
    assert grids[0] == grids[1] == ["step_00000006.png", "step_00000012.png"]


def test_the_best_is_of_one_series(finished):
    best = state_print(finished, **FOLDERS)[1]["best"]
    series = {line["step"]: line["val/loss"] for line in log(finished) if "val/loss" in line}
    assert sorted(series) == [2, 4, 6, 8, 10, 12] and best["metric"] == "val/loss"
    assert best["value"] == min(series.values()) == series[best["step"]]
    assert json.loads((finished / "config.json").read_text())["checkpoint"]["best_metric"] == "val/loss"


def test_the_rate_falls_by_validations_and_each_fall_is_logged(finished):
    rates = {line["step"]: line["train/lr"] for line in log(finished) if "train/lr" in line}
    assert [rates[step] for step in (2, 4)] == pytest.approx([2e-3, 2e-3]), "the first validation sets the mark"
    assert rates[6] == pytest.approx(1e-3) and rates[12] == pytest.approx(2e-3 / 2**4)


def test_draws_are_counted_from_the_beginning(resumed):
    last = log(resumed)[-1]["step"]
    line = next(line for line in reversed(log(resumed)) if "data/drawn/0" in line)
    drawn = {name: line[f"data/drawn/{name}"] for name in "0123456789"}
    assert last == 12 and sum(drawn.values()) == 3 * 1006, "three epochs of four batches, half of them after the resume"
    assert max(drawn.values()) - min(drawn.values()) <= 3, "shares are equal though classes are not"


def test_hyper_parameters_are_logged_at_the_start_and_at_the_resume(finished, resumed):
    assert [len(list((run / "tensorboard").iterdir())) for run in (finished, resumed)] == [1, 2]
    for file in (resumed / "tensorboard").iterdir():
        assert b"inverse_frequency" in file.read_bytes(), file


def test_validation_has_images_of_its_own(finished):
    listed = json.loads((finished / "split.json").read_text())["splits"]
    held = [set(listed[split]) for split in ("train", "val", "test")]
    assert [len(files) for files in held] == [1006, 216, 216] and len(set.union(*held)) == 1438
    assert program(finished, **FOLDERS).dataset.validation_splits == {"": "val"}


def test_small_classes_are_matched_and_flagged(finished):
    rows = {row["class"]: row for row in table(finished / "eval" / "step_00000012_classes.csv")}
    assert {name: int(rows[name]["n_gen"]) for name in "03589"} == {"0": 50, "3": 42, "5": 42, "8": 42, "9": 50}
    assert all(row["n_gen"] == row["n_real"] for row in rows.values())


def test_what_is_drawn_lies_on_the_disk_as_pixels(finished):
    asked = ("--config.sample.classes=8:5,0:1", "--config.sample.pngs=true", "--config.sample.trajectory=true")
    assert main_jax.main(["--mode=sample", f"--workdir={finished}", *asked]) == 0
    images = np.load(finished / "samples.npz")["images"]
    written = sorted((finished / "images").rglob("*.png"))
    assert [f"{path.parent.name}/{path.stem}" for path in written] == ["0/000000", *(f"8/00000{i}" for i in range(5))]
    assert images.dtype == np.uint8 and images.min() == 0 and images.max() > 200, "the range of a picture, not of a net"
    np.testing.assert_array_equal(np.asarray(Image.open(written[1])), images[0, ..., 0])
    assert (finished / "trajectory.png").exists()


def test_usefulness_walks_the_same_folders(finished):
    assert main_jax.main(["--mode=usefulness", f"--workdir={finished}"]) == 0
    rows = table(finished / "usefulness" / "usefulness_step_00000012.csv")
    assert {(row["arm"], row["seed"]) for row in rows} >= {("real", "0"), ("real+synthetic", "1")}
    assert {row["n_real"] for row in rows if row["arm"] == "real"} == {"1006"}


def test_a_folder_that_changed_ends_the_run_before_it_goes_on(finished, capsys):
    one, other = sorted((finished / "digits" / "8").glob("*.png"))[:2]
    before = one.read_bytes()
    one.write_bytes(other.read_bytes())
    try:
        assert main_jax.main(arguments(finished, **FOLDERS)) == 4
        assert f"8/{one.name}" in capsys.readouterr().err
    finally:
        one.write_bytes(before)


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))
