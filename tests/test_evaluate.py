"""Whole evaluations: counts, keys, devices and batches, what is kept and what is refused."""

import csv
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import main_jax
from diffusion import beside, drawn_rows, evaluate, evaluations, networks, reference, subjects
from diffusion.data.split import stratified
from diffusion.errors import ConfigError
from diffusion.extractors import EXTRACTORS
from diffusion.given_images import open_images
from diffusion.metrics import METRICS, measure
from diffusion.writers import MultiWriter
from tests.evaluated import NO_CLASSIFIER, QUIET, digits_of, stand_in, write_npz
from tests.tiny import arguments, log, program, state_print

SMALL, MIDDLE, LARGE = 9, 31, 750  # of which a fifth is held out: 7, 25 and 600 are trained on
SIZES = {0: SMALL, 1: MIDDLE, 4: LARGE}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """An npz of three classes of very different sizes."""
    return write_npz(tmp_path_factory.mktemp("uneven") / "uneven.npz", SIZES)


def of(workdir, root, **changed):
    """A program that evaluates on an npz without training anything."""
    plain = {"data__source": "npz", "data__root": root, "eval__num_samples_per_class": 100, **NO_CLASSIFIER}
    return program(workdir, **QUIET | plain | changed)


def weights(p, seed=0):
    return p.diffusion.net.init(jax.random.key(seed))


def test_classes_of_7_25_and_600_have_their_counts_flags_and_figures(tmp_path, uneven, capsys):
    p = of(tmp_path / "run", uneven)
    params = {"ema": weights(p)}
    another = tmp_path / "run/cache/evaluation-0123456789abcdef"  # of one that is at work here, or was interrupted
    another.mkdir(parents=True)
    values = evaluations.evaluation(p, params, 0, MultiWriter([]), lambda: None).values
    said = capsys.readouterr().out
    body = json.loads((tmp_path / "run/eval/step_00000000.json").read_text())
    rows = list(csv.DictReader((tmp_path / "run/eval/step_00000000_classes.csv").read_text().splitlines()))
    assert body["counts"] == {"0": 7, "1": 25, "2": 100} and body["requested_per_class"] == 100
    assert [(row["class"], row["n_real"], row["n_gen"], row["flag"]) for row in rows] == [
        *(("0", "7", "7", "unreliable"), ("1", "25", "25", ""), ("2", "100", "100", ""))
    ]
    assert all(float(row["fd"]) > 0 and float(row["fd_se"]) > 0 and row["kid_x1e3"] for row in rows)
    assert [int(row["n_floor"]) for row in rows] == [3, 12, 100], "of 600 reals two disjoint hundreds are drawn"
    assert values["eval/fd/classes"] == 2 and values["eval/fd/class/0"] == float(rows[0]["fd"])
    for line in (
        "class 0: 7 images a side instead of the 100 requested (unreliable",
        "class 1: 25 images a side instead",
    ):
        assert said.count(line) == 1
    assert "class 2:" not in said
    assert (tmp_path / "run/eval/step_00000000_images.png").exists(), "fewer images than the grid has room for"
    assert list((tmp_path / "run/cache").glob("evaluation-*")) == [another], "its own is gone"


def test_the_same_images_and_figures_on_any_devices_and_in_any_batch(tmp_path, uneven):
    """FD is equal to 1e-5 of the trace; every planned image is compared exactly once."""
    found = {}
    for devices, batch in [(1, 13), (2, 32), (8, 256), (2, 7)]:
        p = of(tmp_path / f"on{devices}{batch}", uneven, mesh__data=devices, eval__batch_size=batch)
        report = evaluate.report(p, weights(p), 0)
        plan, made = report.compared.plan, report.compared.made["pixels/features"]
        found[devices, batch] = report.values, made, plan
    values, made, plan = found.pop((1, 13))
    assert len(made) == 132 and len({*zip(plan.label.tolist(), plan.index.tolist(), strict=True)}) == 132
    trace = 2 * made.var(axis=0).sum()
    for other, other_made, other_plan in found.values():
        np.testing.assert_array_equal(other_plan.label, plan.label)
        np.testing.assert_array_equal(other_plan.index, plan.index)
        np.testing.assert_allclose(other_made, made, atol=2e-2)  # one step of uint8 is 4e-3
        for name in ("eval/fd", "eval/fd/class/0", "eval/fd/class/2", "eval/fd/mean"):
            assert abs(other[name] - values[name]) < 1e-5 * trace


def test_real_features_are_read_once_and_under_their_fingerprint(tmp_path, uneven, monkeypatch):
    p = of(tmp_path / "run", uneven, eval__cache=tmp_path / "shared")
    first = evaluate.report(p, weights(p), 0).values
    (kept,) = (tmp_path / "shared").glob("reference-train-pixels-32-*.npz")

    monkeypatch.setattr(reference, "_read", lambda *_: pytest.fail("read again"))
    again = of(tmp_path / "other", uneven, eval__cache=tmp_path / "shared")
    assert evaluate.report(again, weights(again), 0).values == first
    with pytest.raises(pytest.fail.Exception, match="read again"):  # another size of the images
        other = of(tmp_path / "third", uneven, eval__cache=tmp_path / "shared", data__size=16)
        evaluate.report(other, weights(other), 0)
    monkeypatch.undo()
    kept.write_bytes(kept.read_bytes()[:-40])
    third = of(tmp_path / "fourth", uneven, eval__cache=tmp_path / "shared")
    assert evaluate.report(third, weights(third), 0).values == first, "a damaged file is made again"
    assert len(list((tmp_path / "shared").iterdir())) == 1


def test_reals_with_unreadable_records_are_read_once_as_well(tmp_path, monkeypatch):
    """Of a run that leaves records out; one that does not wants them all."""
    images, labels = digits_of({0: 20, 1: 20})
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / f"set/{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / f"set/{label}/{i:02}.png")
    changed = {"data__source": "folder", "data__size": 8, "data__channels": 1, "eval__cache": tmp_path / "shared"}
    changed |= {"data__folder__val_fraction": 0, "data__folder__test_fraction": 0.2}
    broken = of(tmp_path / "any", tmp_path / "set", **changed).dataset.open("train").name(3)
    (tmp_path / "set" / broken).write_bytes(b"no image")
    p = of(tmp_path / "run", tmp_path / "set", **changed, data__on_error="skip")
    first = evaluate.report(p, weights(p), 0)
    assert first.body["reference"]["left_out"] == 1 and first.body["reference"]["n"] == 31
    monkeypatch.setattr(reference, "_read", lambda *_: pytest.fail("read again"))
    again = of(tmp_path / "again", tmp_path / "set", **changed, data__on_error="skip")
    assert evaluate.report(again, weights(again), 0).values == first.values
    strict = of(tmp_path / "strict", tmp_path / "set", **changed)
    with pytest.raises(pytest.fail.Exception, match="read again"):
        evaluate.report(strict, weights(strict), 0)


def test_reference_features_of_another_run_must_have_been_made_alike(tmp_path, uneven, capsys):
    p = of(tmp_path / "run", uneven)
    first = evaluate.report(p, weights(p), 0).values
    (kept,) = (tmp_path / "run/cache").glob("reference-*.npz")
    same = of(tmp_path / "same", uneven, eval__reference=kept)
    assert evaluate.report(same, weights(same), 0).values == first
    assert not list((tmp_path / "same/cache").glob("reference-*")), "nothing was read"
    other = of(tmp_path / "other", uneven, eval__reference=kept, data__size=16, data__split_seed=1)
    with pytest.raises(ConfigError, match=r"(?s)eval\.reference: .*content_sha256: .*image_shape: there \[8, 8, 1\]"):
        evaluate.report(other, weights(other), 0)


@pytest.mark.parametrize(("text", "wanted"), [("2", [0, 0, 100]), ("0,2", [7, 0, 100])])
def test_some_classes_are_evaluated(tmp_path, uneven, text, wanted):
    p = of(tmp_path / "run", uneven, eval__classes=text)
    report = evaluate.report(p, weights(p), 0)
    assert report.compared.plan.per_class.tolist() == wanted
    assert [row.name for row in report.scores.rows] == [str(c) for c, n in enumerate(wanted) if n]


def test_groups_and_equal_counts(tmp_path, uneven):
    p = of(tmp_path / "run", uneven, eval__groups="rare:0,1;common:2", eval__equal_n=True)
    report = evaluate.report(p, weights(p), 0)
    assert report.compared.plan.per_class.tolist() == [7, 7, 7]
    assert {"eval/fd/group/rare", "eval/fd/group/common"} <= set(report.values)


def test_pooled_images_are_matched_by_class(tmp_path, uneven):
    p = of(tmp_path / "run", uneven, eval__num_samples=100)
    found = evaluate.report(p, weights(p), 0)
    plan, network = found.compared.plan, found.compared.streamed[0]
    made, real = found.compared.made_features(network, plan.of_pool)[0], found.compared.real_features(network)
    assert np.bincount(made.labels).tolist() == plan.pooled.tolist() == [1, 4, 95]
    wanted = measure(made, real, p.dataset.classes, ("fd", "kid"), seed=p.eval.seed)
    assert found.scores.values["fd"] == wanted.values["fd"] and found.scores.n == 100
    assert found.scores.values["kid_x1e3"] == wanted.values["kid_x1e3"]
    assert found.scores.rows[2].n_gen == 100 and found.body["pooled_is"] == "in the data's class shares"


def test_an_unlabelled_set_has_pooled_figures_alone(tmp_path):
    root = write_npz(tmp_path / "plain.npz", {3: 50}, labelled=False)
    p = of(tmp_path / "run", root, cond__names="()", eval__num_samples=30, sampler__guidance_scale=1.0)
    report = evaluate.report(p, weights(p), 0)
    assert report.scores.rows == () and report.body["counts"] == {"all": 30}
    assert not [name for name in report.values if "class" in name] and report.values["eval/fd"] > 0


def test_evaluation_does_not_disturb_training(tmp_path):
    """The same state, to the bit, with an evaluation at every step and with none at all."""
    states = []
    for every, metrics in ((1, "fd"), (0, "()")):
        changed = QUIET | NO_CLASSIFIER | {"eval__metrics": metrics, "eval__every": every, "train__steps": 4}
        assert main_jax.main(arguments(tmp_path / f"run{every}", **changed)) == 0
        states.append(state_print(tmp_path / f"run{every}", **changed)[0])
    assert states[0] == states[1]


def test_a_sweep_over_averages_and_scales(tmp_path):
    sweep = {"ema__name": "power", "ema__power__sigma_rels": "0.05,0.10", "eval__emas": "0.05,0.10"}
    changed = QUIET | NO_CLASSIFIER | sweep | {"eval__guidance_scales": "1.0,2.0"}
    assert main_jax.main(arguments(tmp_path / "run", **changed)) == 0
    (line,) = [line for line in log(tmp_path / "run") if "eval/fd" in line]
    swept = {name for name in line if name.startswith("eval/ema=") and name.endswith("/fd")}
    assert swept == {f"eval/ema={ema},guidance={scale}/fd" for ema in ("0.05", "0.10") for scale in (1, 2)}
    names = {path.name for path in (tmp_path / "run/eval").iterdir()}
    assert {"step_00000002.json", "step_00000002_ema-0.10_guidance-2.json", "sweep_00000002.csv"} <= names
    bodies = [
        json.loads((tmp_path / f"run/eval/step_00000002{name}.json").read_text())
        for name in ("", "_ema-0.10_guidance-2")
    ]
    assert [body["sampler"]["guidance_scale"] for body in bodies] == [1.5, 2.0]
    assert bodies[0]["weights"]["sha256"] != bodies[1]["weights"]["sha256"]
    points = list(csv.DictReader((tmp_path / "run/eval/sweep_00000002.csv").read_text().splitlines()))
    assert {(p["ema"], p["guidance_scale"]) for p in points if p["name"] == "fd"} == {
        *(("0.05", "1.5"), ("0.05", "1.0"), ("0.05", "2.0"), ("0.10", "1.0"), ("0.10", "2.0"))
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    changed = QUIET | NO_CLASSIFIER | {"train__steps": 3, "checkpoint__keep": 3}
    assert main_jax.main(arguments(workdir, **changed)) == 0
    return workdir


def test_every_checkpoint_in_one_command(trained):
    assert main_jax.main(["--mode=eval", f"--workdir={trained}", "--config.eval.step=all"]) == 0
    names = {path.name for path in (trained / "eval").iterdir()}
    assert {f"step_0000000{step}.json" for step in (1, 2, 3)} | {"curve.csv", "curve.png"} <= names
    rows = list(csv.DictReader((trained / "eval/curve.csv").read_text().splitlines()))
    assert [row["step"] for row in rows if row["name"] == "fd"] == ["1", "2", "3"]


def test_images_of_any_program_by_the_run_s_config_or_by_another(trained, tmp_path, uneven, capsys):
    """What the run draws, saved and evaluated as somebody else's, has the figures of the run's own evaluation."""
    draw = ["--mode=sample", f"--workdir={trained}", f"--config.sample.out={tmp_path}", "--config.sample.seed=7"]
    assert main_jax.main([*draw, "--config.sample.num=40"]) == 0
    path = tmp_path / "samples.npz"
    assert main_jax.main(["--mode=eval", f"--workdir={trained}", f"--config.eval.images={path}"]) == 0
    body = json.loads((trained / "eval/images_samples.json").read_text())
    assert body["counts"] == {str(digit): 3 for digit in range(10)} and body["images"]["n"] == 40
    assert "weights" not in body and body["step"] is None

    anew = [
        "--mode=eval",
        f"--workdir={tmp_path / 'anew'}",
        "--config=configs/digits.py",
        f"--config.eval.images={path}",
    ]
    assert main_jax.main([*anew, "--config.eval.num_samples_per_class=4"]) == 0
    body = json.loads((tmp_path / "anew/eval/images_samples.json").read_text())
    assert body["counts"] == {str(digit): 4 for digit in range(10)} and body["metrics"]["eval/accuracy"] is not None
    assert {path.name for path in (tmp_path / "anew").iterdir()} == {"eval", "cache"}
    capsys.readouterr()
    assert main_jax.main([*anew[:-1], "--config.eval.images=nowhere.npz"]) == 2
    assert "eval.images: there is no nowhere.npz" in capsys.readouterr().err


def test_the_real_images_themselves_score_zero(tmp_path, uneven):
    """As images of another program; the reference split in its own order, all of it."""
    arrays = dict(np.load(uneven))
    p = of(tmp_path / "run", uneven, eval__num_samples_per_class=10_000)
    kept = stratified(arrays["labels"], 0.2, 0)["train"]
    np.savez(tmp_path / "same.npz", images=arrays["images"][kept], labels=arrays["labels"][kept])
    found = open_images(str(tmp_path / "same.npz"), p.dataset.classes, p.transform.shape)
    report = evaluate.of_subject(p, subjects.given(p, found), {"step": None})
    assert [row.n_gen for row in report.scores.rows] == [7, 25, 600]
    trace = 2 * report.compared.made["pixels/features"].var(axis=0).sum()
    assert all(abs(row.fd) < 1e-9 * trace for row in report.scores.rows)


def test_images_without_labels_are_compared_with_the_whole_set(tmp_path, uneven):
    """The real images themselves, of all classes mixed, are as far from the reals as nothing; no class is made up."""
    arrays = dict(np.load(uneven))
    kept = stratified(arrays["labels"], 0.2, 0)["train"]
    np.savez(tmp_path / "plain.npz", images=arrays["images"][kept])
    p = of(tmp_path / "run", uneven, eval__num_samples=10_000, eval__metrics="fd,vendi", eval__equal_n=True)
    found = open_images(str(tmp_path / "plain.npz"), p.dataset.classes, p.transform.shape)
    report = evaluate.of_subject(p, subjects.given(p, found), {"step": None})
    assert report.body["counts"] == {"all": 632} and report.scores.rows == ()
    assert report.body["pooled_is"] == "over all images, without classes"
    assert not report.compared.classes_of(report.compared.reals("pixels")).any(), (
        "pairs of reals are of any classes too"
    )
    assert not [name for name in report.values if "class" in name]
    trace = 2 * report.compared.made["pixels/features"].var(axis=0).sum()
    assert abs(report.values["eval/fd"]) < 1e-9 * trace


NOT_GIVEN = [
    ({"eval__metrics": "fd,accuracy"}, r"eval.metrics: accuracy: .* holds no labels; take eval.metrics=fd$"),
    ({"eval__metrics": "clip_score"}, r"eval.metrics: clip_score: .* holds no prompts, nor classes to name$"),
    ({"eval__metrics": "paired"}, r"eval.metrics: paired: .* holds no ids of the images they stand for$"),
    ({"eval__metrics": "fd", "eval__groups": "a:0"}, r"eval.groups: .*plain.npz holds no labels"),
]


@pytest.mark.parametrize(("changed", "said"), NOT_GIVEN)
def test_what_images_without_labels_cannot_give_is_refused(tmp_path, uneven, changed, said):
    np.savez(tmp_path / "plain.npz", images=np.load(uneven)["images"][:9])
    p = of(tmp_path / "run", uneven, eval__images=tmp_path / "plain.npz", **changed)
    found = open_images(str(tmp_path / "plain.npz"), p.dataset.classes, p.transform.shape)
    with pytest.raises(ConfigError, match=said):
        subjects.given(p, found)


def test_ids_beyond_the_reference_split_are_refused(tmp_path, uneven):
    arrays = {name: array[:4] for name, array in np.load(uneven).items()}
    np.savez(tmp_path / "made.npz", **arrays, ids=np.array([0, 1, 631, 632]))
    p = of(tmp_path / "run", uneven, eval__metrics="paired", eval__images=tmp_path / "made.npz")
    found = open_images(str(tmp_path / "made.npz"), p.dataset.classes, p.transform.shape)
    with pytest.raises(ConfigError, match="ids count the 632 images of the train split from 0; one is 632"):
        subjects.given(p, found)


def test_too_few_images_are_refused_before_any_is_read(tmp_path, uneven):
    np.savez(tmp_path / "few.npz", **{name: array[:3] for name, array in np.load(uneven).items()})
    p = of(tmp_path / "run", uneven, eval__metrics="fd,precision_recall")
    found = open_images(str(tmp_path / "few.npz"), p.dataset.classes, p.transform.shape)
    with pytest.raises(ConfigError, match="precision_recall needs at least 4 images a side; 3 are compared"):
        evaluate.check(p, subjects.given(p, found))


REFUSED = [
    ({"eval__metrics": "fdd"}, "eval.metrics: 'fdd' is not one of"),
    ({"eval__extractor": "incption"}, "eval.extractor: 'incption' is not one of"),
    ({"eval__classes": "ten"}, "eval.classes: has 'ten', which is not a class"),
    ({"eval__num_classes": 11}, "eval.num_classes: is 11; there are 10 classes"),
    ({"eval__groups": "a:x"}, "eval.groups: has 'x'"),
    ({"eval__emas": "0.3"}, "eval.emas: '0.3' is not one of: ema"),
    ({"eval__guidance_scales": "big"}, "eval.guidance_scales: 'big' is not a number"),
    ({"eval__reference": "nowhere.npz"}, "eval.reference: there is no nowhere.npz"),
    ({"eval__prompt": "a digit", "eval__metrics": "fd"}, "eval.prompt: is 'a digit'"),
    ({"eval__metrics": "fid"}, "eval.inception.weights: "),
    ({"eval__metrics": "clip_score"}, "eval.clip.weights: "),
    ({"eval__metrics": "lpips", "eval__perceptual": "lpips"}, "eval.lpips.weights: "),
    ({"eval__metrics": "fd", "eval__cache": "/proc/nope"}, "eval.cache: /proc/nope cannot be written: "),
    ({"eval__metrics": "paired"}, "eval.metrics: paired compares images with the very ones they stand for"),
    ({"eval__metrics": "fd_infinity"}, "eval.metrics: fd_infinity needs at least 5000 images a side; 30 are compared"),
]


@pytest.mark.parametrize(("changed", "said"), REFUSED)
def test_what_cannot_be_computed_is_named_before_training(tmp_path, capsys, changed, said):
    assert main_jax.main(arguments(tmp_path / "run", **changed)) == 2
    err = capsys.readouterr().err
    assert said in err and not (tmp_path / "run").exists()


def test_missing_weights_are_said_before_a_classifier_is_trained(tmp_path):
    def never(given):
        raise AssertionError("trained in vain")

    def missing(given):
        raise ConfigError("eval.inception.weights", "are not there")

    p = of(tmp_path / "run", write_npz(tmp_path / "some.npz", {0: 20, 1: 20}))
    p = replace(p, extractors={"classifier": never, "perceptual": never, "inception": missing})
    with pytest.raises(ConfigError, match="eval.inception.weights: are not there"):
        networks.prepare(p)


def test_every_metric_names_its_figures_and_networks():
    for name, metric in METRICS.items():
        assert metric.figures, name
        assert metric.network in {"", "perceptual", *EXTRACTORS}, name


def with_networks(p, **networks):
    """The program with stand-ins for published networks, by row of EXTRACTORS."""
    return replace(p, extractors={**p.extractors, **{row: stand_in(name) for row, name in networks.items()}})


def test_metrics_of_several_networks_stand_in_one_report(tmp_path):
    """Inception's and CLIP's figures beside those of the evaluation's own network, each under its name."""
    metrics = "fd,fid,is,cmmd,clip_score,memorisation,memorisation_pixels,precision_recall,vendi"
    root = write_npz(tmp_path / "larger.npz", {0: 9, 1: 31, 4: 1300})
    p = of(tmp_path / "run", root, eval__metrics=metrics, eval__num_samples_per_class=30, eval__num_samples=1000)
    p = with_networks(p, inception="inception-stand-in", clip="clip-stand-in")
    report = evaluate.report(p, weights(p), 0)
    networks_ = report.body["networks"]
    assert networks_["fd"] == networks_["memorisation_pixels"] == "pixels-32" and networks_["fid"] == networks_["is"]
    assert networks_["fid"] == "inception-stand-in" and networks_["cmmd"] == networks_["clip_score"] == "clip-stand-in"
    for name in ("fd", "fid", "is", "cmmd_u", "cmmd_v", "clip_score", "memorisation_gap", "precision", "vendi"):
        assert report.values[f"eval/{name}"] is not None, name
    assert report.body["notes"]["clip_score"] == 'prompt "a photo of a {}"'
    assert len(report.scores.suspicious) > 0
    evaluations.publish(p, report, tmp_path / "run/eval/step", "Evaluation")
    names = {path.name for path in (tmp_path / "run/eval").iterdir()}
    assert {"step.json", "step_classes.csv", "step_classes.png", "step_images.png", "step_suspicious.png"} == names
    body = json.loads((tmp_path / "run/eval/step.json").read_text())
    assert set(body["extractors"]) == {"pixels", "inception", "clip"} == set(body["reference"]["fingerprints"])


def test_texts_follow_their_images(tmp_path, uneven):
    """An npz brings its prompts; the score is that of image and text side by side, in float64."""
    images, labels = (np.load(uneven)[name] for name in ("images", "labels"))
    prompts = np.array([f"number {i % 90 + 10}" for i in range(len(labels))])
    path = tmp_path / "made.npz"
    np.savez(path, images=images, labels=labels, prompts=prompts)
    p = of(tmp_path / "run", uneven, eval__metrics="clip_score", eval__images=path, eval__num_samples_per_class=1000)
    p = with_networks(p, clip="clip-stand-in")
    found = open_images(str(path), p.dataset.classes, p.transform.shape)
    report = evaluate.of_subject(p, subjects.given(p, found), {"step": None})
    assert [row.n_gen for row in report.scores.rows] == [7, 25, 600], "as many as there are reals"
    plan, subject = report.compared.plan, report.compared.subject
    net = stand_in("clip")(None)
    x = np.asarray(net.extract({}, subject.pictures(plan.label, plan.index))["features"], np.float64)
    texts = subject.prompts(plan.label, plan.index)
    y = np.asarray(net.text({}, net.tokenise(texts)), np.float64)
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert len(set(texts)) == 90 and report.values["eval/clip_score"] == pytest.approx(100 * cosine.mean(), rel=1e-6)


def test_published_statistics_are_one_more_distance(tmp_path, uneven):
    p = of(tmp_path / "run", uneven)
    first = evaluate.report(p, weights(p), 0)
    made = first.compared.made["pixels/features"].astype(np.float64)
    np.savez(tmp_path / "same.npz", mu=made.mean(0), sigma=np.cov(made, rowvar=False))
    np.savez(tmp_path / "small.npz", mu=made.mean(0)[:5], sigma=np.eye(5))
    again = of(tmp_path / "run", uneven, eval__reference=tmp_path / "same.npz")
    report = evaluate.report(again, weights(again), 0)
    assert abs(report.values["eval/fd_reference"]) < 1e-6 * made.var(axis=0).sum()
    assert report.values["eval/fd"] == first.values["eval/fd"]
    assert report.body["notes"]["fd_reference"].startswith("statistics of same.npz (")
    wrong = of(tmp_path / "run", uneven, eval__reference=tmp_path / "small.npz")
    with pytest.raises(ConfigError, match=r"eval\.reference: .*pixels-32 has 64 features"):
        evaluate.check(wrong)


def test_images_beside_the_ones_they_stand_for(tmp_path, uneven):
    """Each is its reference image plus one: RMSE 1 everywhere, PSNR 20 log10 255."""
    p = of(tmp_path / "run", uneven)
    records = p.dataset.open("train")
    ids = np.random.default_rng(0).permutation(len(records))[:60]
    reals = np.stack([records[int(i)].image for i in ids])
    labels = records.labels[ids]
    np.savez(
        tmp_path / "made.npz", images=np.where(reals < 255, reals + 1, 254).astype(np.uint8), labels=labels, ids=ids
    )
    changed = {"eval__metrics": "paired", "eval__images": tmp_path / "made.npz"}
    p = of(tmp_path / "run", uneven, **changed)
    found = open_images(str(tmp_path / "made.npz"), p.dataset.classes, p.transform.shape)
    report = evaluate.of_subject(p, subjects.given(p, found), {"step": None})
    assert report.values["eval/rmse"] == pytest.approx(1) and report.values["eval/rmse_pooled"] == pytest.approx(1)
    assert report.values["eval/psnr"] == pytest.approx(20 * np.log10(255))


def test_diversity_is_compared_with_that_of_real_pairs(tmp_path):
    """On the digits, whose own classifier gives the maps; equal images would be at 0."""
    metrics = {"eval__metrics": "lpips", "eval__pairs": 20, "eval__num_samples_per_class": 6}
    p = program(tmp_path / "run", **QUIET | metrics)
    report = evaluate.report(p, weights(p), 0)
    figures = report.scores.figures
    assert figures["lpips"].n_gen == figures["lpips_real"].n_real == 40, "two images a pair, two pairs of each class"
    assert figures["lpips"].n_real is None and figures["lpips_real"].n_gen == 0
    assert figures["lpips"].value > 0 and figures["lpips_real"].se > 0
    assert report.body["networks"]["lpips"].startswith("lpips-cls-digits-")


def test_suspicious_pairs_show_the_very_images(tmp_path, uneven, monkeypatch):
    """Copies of training images, of which the pool is a part: on both sides of the sheet stand the same pixels."""
    p = of(tmp_path / "run", uneven, eval__metrics="fd,memorisation", eval__num_samples=40)
    records = p.dataset.open("train")
    copies = np.stack([records[i].image for i in range(len(records))])
    np.savez(tmp_path / "copies.npz", images=copies, labels=records.labels)
    found = open_images(str(tmp_path / "copies.npz"), p.dataset.classes, p.transform.shape)
    report = evaluate.of_subject(p, subjects.given(p, found), {"step": None})
    assert report.compared.plan.of_pool.sum() == 40 < len(report.compared.plan.label)
    assert report.values["eval/memorisation_ratio_median"] == 0
    shown = []
    monkeypatch.setattr(drawn_rows, "pair_sheet", lambda *sides: shown.append(sides))
    drawn_rows.suspicious_pairs(report.compared, report.scores.suspicious)
    generated, nearest, words = shown[0]
    np.testing.assert_array_equal(generated, nearest)
    assert words == ["ratio 0.00"] * 16


def test_real_pairs_are_of_the_classes_that_are_evaluated(tmp_path):
    metrics = {"eval__metrics": "lpips", "eval__pairs": 6, "eval__num_samples_per_class": 6, "eval__classes": "3,5"}
    p = program(tmp_path / "run", **QUIET | metrics)
    compared = evaluate.report(p, weights(p), 0).compared
    for distances, labels in beside.distances(compared).values():
        assert labels.tolist() == [3, 3, 3, 5, 5, 5] and len(distances) == 6
