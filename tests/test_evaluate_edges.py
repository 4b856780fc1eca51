"""Evaluations at the edges: classes without images, images that lack something, and what is refused in time."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import main_jax
from diffusion import evaluate, subjects
from diffusion.errors import ConfigError
from diffusion.given_images import open_images
from diffusion.plan import make_plan
from tests.evaluated import NO_CLASSIFIER, QUIET, stand_in, write_npz
from tests.tiny import arguments, program

SIZES = {0: 9, 1: 31, 4: 200}  # of which a fifth is held out: 7, 25 and 160 are trained on


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("small") / "small.npz", SIZES)


def of(workdir, root, **changed):
    plain = {"data__source": "npz", "data__root": root, "eval__num_samples_per_class": 100, **NO_CLASSIFIER}
    return program(workdir, **QUIET | plain | changed)


def weights(p):
    return p.diffusion.net.init(jax.random.key(0))


def of_images(workdir, root, path, metrics="fd,kid", **changed) -> int:
    """The exit status of an evaluation of images."""
    fields = {"data__source": "npz", "data__root": root, **NO_CLASSIFIER, "eval__metrics": metrics} | changed
    argv = arguments(workdir, **fields, eval__images=path)
    return main_jax.main(["--mode=eval", "--config=configs/digits.py", *argv])


def saved(path, root, rows=slice(None), **arrays) -> Path:
    """The images and labels of ``root``, with other arrays added; one that is None is left out."""
    found = {name: array[rows] for name, array in np.load(root).items()} | arrays
    np.savez(path, **{name: array for name, array in found.items() if array is not None})
    return path


def test_equal_counts_are_those_of_the_smallest_class_that_has_a_distance():
    plan = make_plan(np.array([0, 1, 5, 9]), 7, equal=True)
    assert plan.per_class.tolist() == [0, 1, 5, 5]
    assert make_plan(np.array([1, 1, 0]), 7, equal=True).per_class.tolist() == [1, 1, 0]


def test_a_class_without_reference_images_has_figures_that_say_so(tmp_path, capsys):
    root = write_npz(tmp_path / "lone.npz", {0: 1, 1: 31, 4: 60})
    p = of(tmp_path / "run", root, eval__reference_split="test", eval__groups="lone:0", eval__metrics="fd,kid,vendi")
    report = evaluate.report(p, weights(p), 0)
    assert [(row.name, row.n_gen) for row in report.scores.rows] == [("0", 0), ("1", 6), ("2", 12)]
    for name in ("fd", "kid_x1e3", "vendi", "fd_excess"):
        for where in ("class/0", "group/lone"):
            assert report.values[f"eval/{name}/{where}"] is None
            assert report.body["reasons"][f"eval/{name}/{where}"]


def test_a_class_that_given_images_lack_keeps_its_names(tmp_path, root, capsys):
    path = saved(tmp_path / "some.npz", root, np.load(root)["labels"] != 1)
    p = of(tmp_path / "run", root, eval__metrics="fd,clip_score")
    p = replace(p, extractors={**p.extractors, "clip": stand_in("clip-stand-in")})
    found = open_images(str(path), p.dataset.classes, p.transform.shape)
    report = evaluate.of_subject(p, subjects.given(p, found), {"step": None})
    assert report.values["eval/fd/class/1"] is None and report.values["eval/clip_score/class/1"] is None
    assert of_images(tmp_path / "other", root, path) == 0
    said = capsys.readouterr().out
    assert "1 of 3 classes have no images on one of the sides: 1" in said


REFUSED = [
    ({"labels": None}, "accuracy", "eval.metrics: accuracy: {path} holds no labels"),
    ({"rows": slice(0, 1)}, "kid", "eval.metrics: kid needs at least 2 images a side; 1 are compared"),
    ({}, "paired", "eval.metrics: paired: {path} holds no ids of the images they stand for"),
    (
        {"ids": np.arange(240) + 9},
        "paired",
        "eval.images: {path}: ids count the 192 images of the train split from 0; one is 248",
    ),
]


@pytest.mark.parametrize(("changed", "metrics", "said"), REFUSED)
def test_images_that_lack_what_a_metric_needs_are_refused(tmp_path, root, capsys, changed, metrics, said):
    path = saved(tmp_path / "made.npz", root, **changed)
    assert of_images(tmp_path / "run", root, path, metrics) == 2
    assert said.format(path=path) in capsys.readouterr().err and not (tmp_path / "run").exists()


IN_TIME = [
    ({"eval__images": "{root}"}, "eval.images: is what --mode=eval compares"),
    ({"eval__guidance_scales": "nan"}, "eval.guidance_scales: 'nan' is not a number"),
    (
        {"eval__guidance_scales": "2.0", "cond__names": "()", "sampler__guidance_scale": 1.0},
        "eval.guidance_scales: change nothing",
    ),
    (
        {"eval__metrics": "memorisation", "eval__classes": "0"},
        "eval.metrics: memorisation needs at least 3 held-out images of the classes that are evaluated; there are 2",
    ),
]


@pytest.mark.parametrize(("changed", "said"), IN_TIME)
def test_what_would_fail_after_training_is_refused_before_it(tmp_path, root, capsys, changed, said):
    plain = {"data__source": "npz", "data__root": root, **NO_CLASSIFIER, "train__steps": 1}
    changed = {name: str(value).format(root=root) for name, value in (plain | changed).items()}
    assert main_jax.main(arguments(tmp_path / "run", **changed)) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_fd_at_infinity_needs_images_for_its_features(tmp_path):
    np.savez(tmp_path / "wide.npz", images=np.zeros((6800, 32, 32, 3), np.uint8))
    changed = {"cond__names": "()", "sampler__guidance_scale": 1.0, "eval__num_samples": 5100}
    p = of(tmp_path / "run", tmp_path / "wide.npz", eval__metrics="fd_infinity", **changed)
    with pytest.raises(ConfigError, match=r"eval\.metrics: fd_infinity needs at least 6144 images a side; 5100 are"):
        evaluate.check(p)


def test_a_reference_file_stands_for_the_evaluation_s_own_network(tmp_path, root):
    first = of(tmp_path / "run", root)
    evaluate.report(first, weights(first), 0)
    (kept,) = (tmp_path / "run/cache").glob("reference-*.npz")
    p = of(tmp_path / "other", root, eval__reference=kept, eval__metrics="fd,fid")
    p = replace(p, extractors={**p.extractors, "inception": stand_in("inception-stand-in")})
    evaluate.check(p)
    assert evaluate.report(p, weights(p), 0).values["eval/fid"] > 0
    assert [path.name[:30] for path in (tmp_path / "other/cache").glob("reference-*")] == [
        "reference-train-inception-stan"
    ]


def test_every_subject_has_files_of_its_own(tmp_path, root):
    """Folders that are named after a number differ behind its point."""
    for name in ("scale_1.0", "scale_1.5"):
        for i, (image, label) in enumerate(zip(*np.load(root).values(), strict=True)):
            (tmp_path / name / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(tmp_path / name / str(label) / f"{i}.png")
        assert of_images(tmp_path / "run", root, tmp_path / name) == 0
    found = {path.name for path in (tmp_path / "run/eval").glob("*.json")}
    assert found == {"images_scale_1.0.json", "images_scale_1.5.json"}


def test_pairs_are_those_of_the_classes_images(tmp_path, root):
    """As every other figure of classes; not also those that only the pooled figures need."""
    p = of(tmp_path / "run", root)
    records = p.dataset.open("train")
    images = np.stack([records[i].image for i in range(len(records))]) // 2
    path = saved(tmp_path / "made.npz", root, images=images, labels=records.labels, ids=np.arange(len(records)))
    changed = {"eval__num_samples_per_class": 5, "eval__num_samples": 50, "eval__batch_size": 4}
    p = of(tmp_path / "run", root, eval__metrics="fd,paired", eval__images=path, **changed)
    found = open_images(str(path), p.dataset.classes, p.transform.shape)
    report = evaluate.of_subject(p, subjects.given(p, found), {"step": None})
    assert report.scores.figures["fd"].n_gen == 50 and report.scores.figures["rmse"].n_gen == 15


def test_all_of_no_checkpoints_is_an_error(tmp_path, capsys):
    assert main_jax.main(arguments(tmp_path / "run", **QUIET | {"eval__metrics": "()", "train__steps": 1})) == 0
    for path in (tmp_path / "run/checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    argv = ["--mode=eval", f"--workdir={tmp_path / 'run'}", "--config.eval.step=all", "--config.eval.metrics=fd"]
    assert main_jax.main([*argv, "--config.eval.extractor=pixels"]) == 5
    assert "no checkpoint latest; there are: none" in capsys.readouterr().err


def test_with_fewer_pairs_than_classes_the_seed_says_of_which(tmp_path):
    """Both sides take the same ones, and not those of the lowest labels."""
    changed = {"eval__metrics": "lpips", "eval__pairs": 4, "eval__num_samples_per_class": 2}
    p = program(tmp_path / "run", **QUIET | changed)
    figures = evaluate.report(p, weights(p), 0).scores.figures
    taken = {
        side: {c for c in range(10) if (one := figures.get(f"{side}/class/{c}")) and (one.n_gen or one.n_real)}
        for side in ("lpips", "lpips_real")
    }
    assert len(taken["lpips"]) == 4 and taken["lpips"] == taken["lpips_real"] != set(range(4))
