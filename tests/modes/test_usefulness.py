"""Whether synthetic images help, end to end: a tiny run's own, noise, copies, and real ones that were held back."""

import csv
import importlib
import io
import json
import shutil
import types

import jax
import numpy as np
import pytest

import main_jax
from configs.default import get_config
from diffusion import classifier_fit, settings, train
from diffusion.build import build
from diffusion.classifier_fit import Recipe
from diffusion.config import from_json
from diffusion.networks import own_classifier
from diffusion.signals import StopRequest
from tests.evaluated import QUIET
from tests.tiny import program

KINDS = {3: 100, 8: 100, 9: 16}  # images of a digit, of which three quarters are for testing: class 9 is small
REAL, TEST = {"3": 25, "8": 25, "9": 4}, {"3": 75, "8": 75, "9": 12}
QUICK = ("usefulness.seeds=2", "usefulness.steps=60", "usefulness.batch_size=32")
FILES = (".json", ".csv", "_classes.csv", ".png")


def digits(kind: int) -> np.ndarray:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images[found.target == kind] * 255 / 16).round().astype(np.uint8)[..., None]


def write(path, images: dict[int, np.ndarray]):
    """An npz of images by digit, whose classes bear the digits' names."""
    labels = np.repeat(np.arange(len(images)), [len(some) for some in images.values()])
    names = np.array([str(kind) for kind in images])
    np.savez(path, images=np.concatenate(list(images.values())), labels=labels, classes=names)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run on three digits, of which one is rare."""
    folder = tmp_path_factory.mktemp("useful")
    data = write(folder / "rare.npz", {kind: digits(kind)[:n] for kind, n in KINDS.items()})
    quick = QUIET | {"eval__metrics": "()", "data__source": "npz", "data__root": data, "data__npz__test_fraction": 0.75}
    quick |= {"eval__classifier__steps": 60, "eval__classifier__batch_size": 32}
    train.run(program(folder / "run", **quick))
    own_classifier(build(from_json(folder / "run" / "config.json", get_config()), folder / "run"))  # trained once
    return folder / "run"


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def asked(workdir, *said):
    """(exit status, report where there is one) of the mode."""
    fields = [f"--config.{field}" for field in (*QUICK, *said)]
    status = main_jax.main(["--mode=usefulness", f"--workdir={workdir}", *fields])
    found = sorted((workdir / "usefulness").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return status, json.loads(found[-1].read_text()) if found else None


def records_of(workdir, split):
    return build(from_json(workdir / "config.json", get_config()), workdir).dataset.open(split)


def table(stem, ending):
    return list(csv.DictReader(io.StringIO(stem.with_name(stem.name + ending).read_text())))


def mean(report, arm, figure="balanced_accuracy"):
    return report["arms"][arm]["over_seeds"][figure]["mean"]


def test_a_runs_own_images(copy, capsys):
    status, report = asked(copy, "usefulness.oversample=1.5")
    said = capsys.readouterr().out
    stem = copy / "usefulness" / "usefulness_step_00000002"
    assert status == 0 and all(f"  {stem}{ending}" in said for ending in FILES)
    assert sorted(path.name for path in (copy / "usefulness").iterdir()) == sorted(stem.name + end for end in FILES)
    assert report["n_real"] == REAL and report["small_classes"] == ["9"] and report["seeds"] == [0, 1]
    assert report["n_test"] == TEST and report["step"] == 2
    assert report["weights"]["of"] == "ema" and report["sampler"]["name"] == "ddim"
    assert report["extractor"]["name"].startswith("cls-rare-") and report["recipe"]["steps"] == 60
    for seed in range(2):
        filled, alone = (report["arms"][arm]["n_synthetic"][seed] for arm in ("real+synthetic", "synthetic"))
        assert filled == {"3": 0, "8": 0, "9": 21} and alone == {"3": 25, "8": 25, "9": 25}
        of = report["selected"]["synthetic"][seed]["9"]
        assert (of["asked"], of["drawn"], of["kept"]) == (25, 38, 25)
    assert report["arms"]["real_balanced"]["n_real"] == {"3": 25, "8": 25, "9": 25}
    rows, classes = table(stem, ".csv"), table(stem, "_classes.csv")
    assert len(rows) == 4 * 2 and [row["n_test"] for row in classes] == 4 * ["75", "75", "12"]
    assert float(rows[0]["accuracy"]) == report["arms"]["real"]["values"]["accuracy"][0]

    before = {end: stem.with_name(stem.name + end).read_bytes() for end in FILES}
    shutil.rmtree(copy / "usefulness")
    assert asked(copy, "usefulness.oversample=1.5")[0] == 0
    assert {end: stem.with_name(stem.name + end).read_bytes() for end in FILES} == before, "to the digit"


@pytest.fixture
def noise(tmp_path):
    rng = np.random.default_rng(0)
    images = {kind: rng.integers(0, 256, (25, 8, 8, 1), np.uint8) for kind in KINDS}
    return f"usefulness.images={write(tmp_path / 'noise.npz', images)}"


def test_noise_teaches_nothing(copy, noise):
    status, report = asked(copy, noise)
    assert status == 0 and (copy / "usefulness" / "usefulness_images_noise.json").exists()
    assert report["same_images_for_all_seeds"] and report["step"] is None
    assert mean(report, "synthetic") < 0.5 < 0.6 < mean(report, "real"), "chance is 1/3"
    assert report["selected"]["synthetic"][0] == report["selected"]["synthetic"][1]


def test_real_images_that_were_held_back_help(copy, tmp_path, capsys):
    more = {kind: digits(kind)[n : n + 70] for kind, n in KINDS.items()}
    _, report = asked(copy, f"usefulness.images={write(tmp_path / 'more.npz', more)}", "usefulness.counts=60")
    assert mean(report, "real+synthetic", "small_recall") > mean(report, "real", "small_recall") + 0.1
    assert mean(report, "real+synthetic") > max(mean(report, "real"), mean(report, "real_balanced"))
    assert "the same images for all seeds" in capsys.readouterr().out


def test_a_generator_that_copies_has_nothing_to_give(copy, tmp_path, capsys):
    records = records_of(copy, "train")
    same = {kind: records.images[records.labels == c] for c, kind in enumerate(KINDS)}
    images = f"usefulness.images={write(tmp_path / 'copies.npz', same)}"
    status, report = asked(copy, images)
    said = capsys.readouterr().out
    assert status == 0 and set(report["left_out"]) == {"synthetic", "real+synthetic"}
    assert set(report["arms"]) == {"real", "real_balanced"}
    assert {name: one["dropped"] for name, one in report["selected"]["synthetic"][0].items()} == REAL
    assert "synthetic: 54 copies of training images dropped" in said and "left out, no image is left of class" in said
    assert asked(copy, images, "usefulness.drop_copies=false", "usefulness.seeds=1")[1]["left_out"] == {}

    records = records_of(copy, "test")  # copies of these are none: a selection does not look at them
    held_out = {kind: records.images[records.labels == c] for c, kind in enumerate(KINDS)}
    path = write(tmp_path / "of_test.npz", held_out)
    _, report = asked(copy, f"usefulness.images={path}", "usefulness.seeds=1")
    counts = [report["selected"]["synthetic"][0][name] for name in REAL]
    assert report["left_out"] == {} and sum(one["dropped"] for one in counts) < sum(one["drawn"] for one in counts) / 4


def test_every_arm_is_trained_alike(copy, monkeypatch):
    """The same recipe but for the seed, and never on an image of the test split."""
    calls = []
    monkeypatch.setattr(
        "diffusion.usefulness.experiment.trained",
        lambda images, classes, recipe, **how: (
            calls.append((images, recipe)) or classifier_fit.trained(images, classes, recipe, **how)
        ),
    )
    _, report = asked(copy, "usefulness.counts=9:10", "usefulness.seed=7")
    assert [recipe for _, recipe in calls] == [Recipe(60, 32, seed=seed) for seed in (7, 8) for _ in range(3)]
    assert "synthetic" in report["left_out"], "nothing is drawn of the other classes"
    test = {image.tobytes() for image in records_of(copy, "test").images}
    assert not any(image.tobytes() in test for images, _ in calls for image in images.images)
    first, second = calls[2][0].images[-10:], calls[5][0].images[-10:]
    assert len(calls[2][0].labels) == 64 and not np.array_equal(first, second), "each seed draws anew"


REFUSED = [
    (["usefulness.sed=1"], "usefulness.sed: there is no such field; did you mean usefulness.seed?"),
    (
        ["usefulness.counts=cat:3"],
        "usefulness.counts: 'cat' is no class, nor an index in 0..2; they are, for example: 3, 8, 9",
    ),
    (["usefulness.images=nowhere.npz"], "usefulness.images: nowhere.npz does not exist"),
    (["optim.lr=1"], "optim.lr: --mode=usefulness takes the run's own config"),
]


@pytest.mark.parametrize("said, problem", REFUSED, ids=lambda v: v[0] if isinstance(v, list) else "")
def test_what_cannot_be_asked(copy, capsys, said, problem):
    status, report = asked(copy, *said)
    err = capsys.readouterr().err
    assert (status, report) == (2, None) and err.startswith(f"main_jax.py: {problem}") and err.count("\n") == 1


def named(tmp_path, capsys, *fields):
    """What is said of images that are given to a config without a run."""
    workdir = tmp_path / "none"
    argv = ["--mode=usefulness", "--config=configs/digits.py", f"--workdir={workdir}"]
    status = main_jax.main([*argv, *(f"--config.{field}" for field in fields)])
    assert status == 2 and not workdir.exists()
    return capsys.readouterr().err


def test_data_with_which_it_cannot_be_asked(tmp_path, capsys):
    images = digits(3)[:40]
    given = f"usefulness.images={write(tmp_path / 'given.npz', {3: images})}"
    np.savez(tmp_path / "plain.npz", images=images)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(40, int))
    np.savez(tmp_path / "lonely.npz", images=images, labels=np.r_[np.zeros(39, int), 1])

    lonely = f"usefulness.images={tmp_path / 'lonely.npz'}"

    def of(name, images=given):
        data = ("data.source=npz", f"data.root={tmp_path / name}.npz", "cond.names=()", "eval.metrics=()")
        return named(tmp_path, capsys, images, *data)

    assert "--mode=usefulness: needs classes that a classifier can tell apart; plain has no labels" in of("plain")
    assert "one has one class" in of("one")
    assert "--mode=usefulness: needs images of every class in both splits; test has none of:" in of("lonely", lonely)
    plain = f"usefulness.images={tmp_path / 'plain.npz'}"
    assert "usefulness.images: " in (said := named(tmp_path, capsys, plain)) and "holds no labels" in said
    kept_out = named(tmp_path, capsys, given, "data.test_classes=3")
    assert "data.train_classes or test_classes keep some out of it" in kept_out


def test_a_net_that_cannot_be_asked_for_a_class(tmp_path, capsys, run):
    config = json.loads((run / "config.json").read_text())
    config["cond"]["names"] = []
    (tmp_path / "config.json").write_text(json.dumps(config))
    status, _ = asked(tmp_path)
    assert status == 2 and "needs a net that is asked for a class alone (cond.names=label)" in capsys.readouterr().err
    config["cond"]["names"] = ["label"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert asked(tmp_path)[0] == 5, "no checkpoint, as in the other modes"
    assert not (tmp_path / "usefulness").exists()


def test_a_request_to_stop_ends_it_before_anything_is_written(copy, noise, monkeypatch, capsys):
    before = []

    def trained(*given, **how):
        before.append(1)
        return classifier_fit.trained(*given, **how)

    monkeypatch.setattr("diffusion.usefulness.experiment.trained", trained)
    monkeypatch.setattr(StopRequest, "__bool__", lambda self: len(before) == 2)
    status, report = asked(copy, noise)
    assert (status, report, len(before)) == (75, None, 2)
    assert "the same command begins again" in capsys.readouterr().err


def test_only_the_first_process_writes(copy, noise, monkeypatch, capsys):
    second = types.SimpleNamespace(**vars(jax) | {"process_index": lambda: 1})
    monkeypatch.setattr(importlib.import_module("diffusion.modes.usefulness"), "jax", second)
    assert asked(copy, noise, "usefulness.seeds=1") == (0, None)
    assert not (copy / "usefulness").exists() and "It wrote" not in capsys.readouterr().out


def test_the_recipe_is_the_classifiers_own():
    fields = get_config().usefulness
    recipe = settings.Usefulness(**fields)
    assert Recipe(recipe.steps, recipe.batch_size, recipe.lr, recipe.weight_decay, recipe.shift) == Recipe()
