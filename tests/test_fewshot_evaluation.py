"""Evaluations of a run on sets: groups, supports that stay the same, what is shown, and other data sets."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import main_jax
from diffusion import drawn_rows, evaluate, supports
from diffusion.build import build
from diffusion.config import override
from diffusion.errors import ConfigError
from diffusion.eval_sheets import ClassImages
from diffusion.evaluations import each_side, set_columns
from tests.evaluated import write_npz
from tests.fewshot_runs import SEEN, SETS, UNSEEN
from tests.nets.tiny_nets import stirred
from tests.test_writers import events
from tests.tiny import arguments, log, program

RUN = SETS | {"val__every": 0, "sample__every": 0, "train__steps": 4, "eval__every": 2, "checkpoint__every": 2}
STEPS = (2, 4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("fewshot") / "run"
    assert main_jax.main(arguments(workdir, **RUN, log__tensorboard=True)) == 0
    return workdir


@pytest.fixture
def mine(finished, tmp_path):
    """A copy of the run, for a test that writes into it."""
    return shutil.copytree(finished, tmp_path / "run")


def of(workdir, **changed):
    """A program on sets whose weights nobody trains."""
    return program(workdir, **RUN | changed)


def weights(p):
    return stirred(jax.eval_shape(p.diffusion.net.init, jax.random.key(0)))


def evaluated(workdir, *said):
    return main_jax.main(["--mode=eval", f"--workdir={workdir}", *(f"--config.{text}" for text in said)])


def body(workdir, name):
    return json.loads((workdir / f"eval/step_{name}.json").read_text())


class TestFigures:
    def test_every_evaluation_has_figures_of_classes_and_of_both_groups(self, finished):
        lines = {line["step"]: line for line in log(finished) if "eval/fd" in line}
        assert set(lines) == set(STEPS)
        for step, line in lines.items():
            for metric in ("fd", "kid_x1e3"):
                names = [f"class/{digit}" for digit in range(10)] + ["group/in", "group/out"]
                assert all(np.isfinite(line[f"eval/{metric}/{name}"]) for name in names)
            rows = list(csv.DictReader((finished / f"eval/step_{step:08d}_classes.csv").read_text().splitlines()))
            assert sorted(row["class"] for row in rows if row["class"].isdecimal()) == list("0123456789")
            assert all(row["n_gen"] == row["n_real"] == "3" for row in rows if row["class"].isdecimal())

    def test_groups_hold_the_classes_seen_and_the_others(self, tmp_path):
        p = of(tmp_path / "run")
        found = evaluate.report(p, weights(p), 0).compared
        assert found.groups == {"in": list(SEEN), "out": list(UNSEEN)}

    def test_they_do_not_hang_on_the_batch(self, tmp_path):
        found = []
        for batch in (32, 7):
            p = of(tmp_path / f"by{batch}", eval__batch_size=batch)
            report = evaluate.report(p, weights(p), 0)
            found.append((report.compared.plan, report.compared.made["pixels/features"]))
        (plan, made), (other_plan, other) = found
        np.testing.assert_array_equal(plan.label, other_plan.label)
        np.testing.assert_array_equal(plan.index, other_plan.index)
        np.testing.assert_allclose(made, other, atol=2e-2)  # one step of uint8 is 4e-3
        assert len(made) == 30


class TestSupports:
    def test_both_evaluations_of_a_run_show_the_same_and_say_which(self, finished):
        first, last = (body(finished, f"{step:08d}")["support"] for step in STEPS)
        assert first == last
        assert first | {"content_sha256": ""} == {
            "dataset": "digits", "split": "test", "size": 5, "shared_by": 6, "seed": 0, "content_sha256": ""
        }  # fmt: skip
        _, sheets = pictures(finished)
        assert sheets["eval/support"][2] == sheets["eval/support"][4]
        assert sheets["eval/real"][2] == sheets["eval/real"][4]
        assert sheets["eval/generated"][2] != sheets["eval/generated"][4]

    def test_another_start_of_the_program_draws_the_same_sets(self, tmp_path):
        label, index = np.repeat(np.arange(10), 12), np.tile(np.arange(12), 10)
        one, two = (supports.of_split(of(tmp_path / name), 0).of(label, index) for name in "ab")
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.valid, two.valid)
        assert one.valid.all() and one.images.shape == (120, 5, 8, 8, 1)
        for sets in np.split(one.images, 10):  # 12 images of a class, of which six share a set
            assert len({images.tobytes() for images in sets[:6]}) == len({images.tobytes() for images in sets[6:]}) == 1
            assert sets[0].tobytes() != sets[6].tobytes()

    @pytest.mark.parametrize(("split", "size"), [("train", 0), ("test", 2), ("test_unseen", 0)])
    def test_the_split_and_the_size_are_as_asked(self, tmp_path, split, size):
        p = of(tmp_path / "run", eval__support_split=split, eval__support_size=size)
        records = p.dataset.open(split)
        there = {records[int(i)].image.tobytes() for i in np.flatnonzero(records.labels == 3)}
        shown = supports.of_split(p, 0).shown(3, 0)
        assert len(shown) == (size or 5) and {image.tobytes() for image in shown} <= there
        about = supports.about(p)["support"]
        assert (about["split"], about["size"]) == (split, size or 5)

    def test_supports_are_among_what_decides_an_evaluation(self, tmp_path):
        """An evaluation that was interrupted does not go on with images of other sets."""
        asked = [{}, {"support_split": "train"}, {"support_size": 2}, {"seed": 1}]
        abouts = [supports.about(of(tmp_path / "run", **{f"eval__{k}": v for k, v in one.items()})) for one in asked]
        assert len({json.dumps(about) for about in abouts}) == 4

    def test_a_class_without_a_support_is_named_before_anything_is_drawn(self, mine, capsys):
        assert evaluated(mine, "eval.support_split=test_seen") == 2
        said = capsys.readouterr().err
        assert "eval.support_split: test_seen has no image of 3, 6, 9 to condition on" in said
        assert "leave these classes out with eval.classes" in said
        assert evaluated(mine, "eval.support_split=test_seen", "eval.classes=0,1") == 0
        assert body(mine, "00000004")["counts"] == {"0": 3, "1": 3}

    def test_training_is_refused_likewise(self, tmp_path, capsys):
        assert main_jax.main(arguments(tmp_path / "run", **RUN, eval__support_split="test_unseen")) == 2
        assert "test_unseen has no image of 0, 1, 2, 4, 5, …" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def pictures(workdir):
    """({name: {step: (h, w)}}, {name: {step: encoded}}) of the run's TensorBoard files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loaded = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"images": 0}).Reload()
    found = {tag: {e.step: e.encoded_image_string for e in loaded.Images(tag)} for tag in loaded.Tags()["images"]}
    return events(workdir)[1], found


class TestSheets:
    def test_trackers_get_support_generated_and_real_images_at_every_evaluation(self, finished):
        sizes, _ = pictures(finished)
        for name in ("support", "generated", "real", "sets"):
            assert set(sizes[f"eval/{name}"]) == set(STEPS)
        for step in STEPS:
            sheet = np.asarray(Image.open(finished / f"eval/step_{step:08d}_sets.png"))
            assert sheet.shape == sizes["eval/sets"][step]
            tiles = {name: sizes[f"eval/{name}"][step] for name in ("support", "generated", "real")}
            assert {height for height, _ in tiles.values()} == {6 * 50 + 2}, "three classes of each part"
            assert tiles["support"][1] - tiles["generated"][1] == 2 * 50, "five images beside three"
            assert tiles["generated"] == tiles["real"]

    @pytest.mark.parametrize(
        ("classes", "parts"),
        [
            ("", {"seen in training": ["0", "4", "8"], "never seen": ["3", "6", "9"]}),
            ("0,1,3", {"seen in training": ["0", "1"], "never seen": ["3"]}),
            ("3", {"never seen": ["3"]}),
            ("0", {"seen in training": ["0"]}),
        ],
    )
    def test_up_to_three_sets_of_each_part(self, tmp_path, classes, parts):
        p = of(tmp_path / "run", eval__classes=classes)
        compared = evaluate.report(p, weights(p), 0).compared
        found = drawn_rows.sets_of(compared)
        assert {title: [one.name for one in sets] for title, sets in found.items()} == parts
        for sets in found.values():
            for one in sets:
                self.check(p, compared, one)

    @staticmethod
    def check(p, compared, one: ClassImages):
        label = int(one.name)
        assert one.figure == "5 shown"
        np.testing.assert_array_equal(one.support, supports.of_split(p, 0).shown(label, 0))
        n = int(compared.plan.per_class[label])
        assert len(one.generated) == len(one.real) == n == 3, "as many as are compared"
        drawn = compared.subject.pictures(np.full(n, label), np.arange(n))
        np.testing.assert_array_equal(one.generated, drawn)
        records = p.dataset.open("train")
        real = {records[int(i)].image.tobytes() for i in np.flatnonzero(records.labels == label)}
        assert {image.tobytes() for image in one.real} <= real

    def test_without_classes_never_seen_there_is_one_part(self, tmp_path):
        p = of(tmp_path / "run", data__test_classes="()", eval__num_samples_per_class=8)
        found = drawn_rows.sets_of(evaluate.report(p, weights(p), 0).compared)
        assert list(found) == ["sets"] and [one.name for one in found["sets"]] == ["0", "4", "9"]
        assert all(len(one.generated) == len(one.real) == 6 for one in found["sets"]), "no more than share a set"
        assert set_columns(p) == {"support": 5, "generated": 6, "real": 6}

    def test_a_net_without_sets_shows_none(self, tmp_path):
        p = of(tmp_path / "run", cond__names="label")
        assert drawn_rows.sets_of(evaluate.report(p, weights(p), 0).compared) == {}

    def test_a_grid_for_each_side(self):
        def some(name, *counts):
            tiles = [np.full((n, 8, 8, 1), 10 * n, np.uint8) for n in counts]
            return ClassImages(name, "", tiles[2], tiles[1], tiles[0])

        assert each_side({}) == {}
        found = each_side({"a": [some("x", 5, 2, 3)], "b": [some("y", 4, 6, 1), some("z", 0, 1, 2)]})
        margin = found["support"].shape[1] - (5 * 50 + 2)
        assert margin > 0, "names of the classes"
        assert {side: sheet.shape for side, sheet in found.items()} == {
            "support": (3 * 50 + 2, margin + 5 * 50 + 2, 1),
            "generated": (3 * 50 + 2, margin + 6 * 50 + 2, 1),
            "real": (3 * 50 + 2, margin + 3 * 50 + 2, 1),
        }
        row = found["support"][100:, margin:]  # of the set without a support
        assert np.all(row[4:] == 255)
        nobody = each_side({"a": [some("z", 0, 1, 2)]})
        assert nobody["support"].shape[1] == margin + 50 + 2, "a white tile where no set has a support"


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    write_npz(folder / "shifted digits.npz", {0: 20, 1: 30, 5: 12})
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (40, 16, 20, 3), np.uint8)
    np.savez(folder / "large.npz", images=large, labels=np.arange(40) % 2)
    np.savez(folder / "bare.npz", images=large)
    (folder / "broken.npz").write_bytes((folder / "large.npz").read_bytes()[:-40])
    return folder


class TestOtherData:
    """``eval.data``: another set takes the place of the run's own."""

    @pytest.mark.parametrize(
        ("file", "name", "classes"), [("shifted digits", "shifted-digits", 3), ("large", "large", 2)]
    )
    def test_its_figures_and_files_stand_beside_the_runs_own(self, mine, others, file, name, classes):
        before = {path: path.read_bytes() for path in (mine / "eval").iterdir()}
        logged = len(log(mine))
        assert evaluated(mine, f"eval.data=npz:{others}/{file}.npz") == 0
        after = {path: path.read_bytes() for path in (mine / "eval").iterdir()}
        assert {path: after[path] for path in before} == before
        new = {path.name.removeprefix("step_00000004") for path in after if path not in before}
        assert {f"_on-{name}{ending}" for ending in (".json", "_classes.csv", "_sets.png", "_images.png")} <= new
        assert all(each.startswith(f"_on-{name}") for each in new)
        (line,) = log(mine)[logged:]
        own = {key for key in line if key != "step"}
        assert own and all(key.startswith(f"eval/on={name}/") for key in own)
        assert {f"eval/on={name}/fd", *(f"eval/on={name}/fd/class/{c}" for c in range(classes))} <= own
        found = body(mine, f"00000004_on-{name}")
        assert found["reference"]["dataset"] == found["support"]["dataset"] == file
        assert found["counts"] == {str(c): 3 for c in range(classes)}
        sizes, _ = pictures(mine)
        assert set(sizes[f"eval/on={name}/support"]) == {4} and set(sizes["eval/support"]) == set(STEPS)

    def test_curves_are_its_own(self, mine, others):
        assert evaluated(mine, "eval.step=all") == 0
        own = (mine / "eval/curve.csv").read_bytes()
        assert evaluated(mine, "eval.step=all", f"eval.data=npz:{others}/large.npz") == 0
        assert (mine / "eval/curve.csv").read_bytes() == own
        assert (mine / "eval/curve_on-large.csv").exists() and (mine / "eval/curve_on-large.png").exists()

    def test_its_images_are_drawn_from_its_sets_at_the_nets_size(self, mine, others):
        said = [f"eval.data=npz:{others}/large.npz", "sample.num=4", f"sample.out={mine}/drawn"]
        command = ["--mode=sample", f"--workdir={mine}", *(f"--config.{text}" for text in said)]
        assert main_jax.main(command) == 0
        found = np.load(mine / "drawn/samples.npz")
        assert found["labels"].tolist() == [0, 1, 0, 1] and found["set"].shape == (4, 5, 8, 8, 1)

    WRONG = {
        "one without classes": ("npz:{there}/bare.npz", "eval.data: bare has no classes, and the net is shown sets"),
        "a missing one": ("npz:{there}/gone.npz", "eval.data: {there}/gone.npz does not exist"),
        "no place": ("npz", "eval.data: is empty; give the path"),
        "an unknown source": ("zip:{there}", "eval.data: 'zip' is not one of: digits, tfds"),
        "a broken one": ("npz:{there}/broken.npz", "{there}/broken.npz: not a readable .npz file"),
        "one that is not prepared": ("tfds:nosuchset", "eval.data: nosuchset is not prepared"),
    }

    @pytest.mark.parametrize(("data", "problem"), WRONG.values(), ids=WRONG.keys())
    def test_what_cannot_be_is_one_line(self, finished, others, capsys, data, problem):
        assert evaluated(finished, f"eval.data={data.format(there=others)}") == 2
        said = capsys.readouterr().err
        assert problem.format(there=others) in said and "Traceback" not in said

    def test_it_is_refused_in_training_and_with_labels(self, tmp_path, others, capsys):
        other = {"eval__data": f"npz:{others}/large.npz"}
        assert main_jax.main(arguments(tmp_path / "run", **RUN | other)) == 2
        assert "eval.data: is what --mode=eval and sample take" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="^eval.data: has other classes than the net was trained on"):
            config = program(tmp_path / "run", **RUN | {"cond__names": "label"})
            evaluation_program(config, tmp_path, other["eval__data"])


def evaluation_program(of_run, workdir, data):
    """The program of an evaluation on another set."""
    from configs.from_json import get_config

    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(of_run.config))
    config = override(get_config(str(workdir / "config.json")).unlock(), [f"eval.data={data}"]).lock()
    return build(config, workdir, training=False)
