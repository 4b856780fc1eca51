"""split.json of a run: written once, compared at every start, and what each change of the folder says."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import main_jax
from diffusion import splits
from diffusion.errors import DataError
from tests.tiny import arguments, program

SMALL = {
    "data__source": "folder",
    "data__size": -1,
    "data__batch_size": 8,
    "data__threads": 0,
    "train__steps": 2,
    "checkpoint__every": 1,
    "sample__every": 0,
    "eval__metrics": "()",
    "log__every": 1,
}
PER_CLASS = {"a": 10, "b": 6}


def make(root):
    rng = np.random.default_rng(0)
    for name, n in PER_CLASS.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (8 + i % 2, 9), np.uint8)).save(root / name / f"{i}.png")
    return root


def run(workdir, root, *said, **changed):
    return main_jax.main([*arguments(workdir, **(SMALL | {"data__root": root} | changed)), *said])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder that holds the data and a run on it, and what the run said."""
    base = tmp_path_factory.mktemp("splits")
    assert run(base / "run", make(base / "set")) == 0
    return base


@pytest.fixture
def begun(finished, tmp_path):
    """A copy of it."""
    for name in ("run", "set"):
        shutil.copytree(finished / name, tmp_path / name)
    return tmp_path


def again(base, **changed):
    """The same command once more, on data that lies elsewhere."""
    return run(base / "run", base / "set", **({"resume__allow": "data.root"} | changed))


def listed(base):
    return json.loads((base / "run" / "split.json").read_text())


def first(base, split, of="a"):
    """The first file of a split that is of a class."""
    return next(path for path in listed(base)["splits"][split] if path.startswith(of))


class TestWritten:
    def test_it_holds_what_a_person_asks(self, finished):
        body = listed(finished)
        assert body["drawn"] == {"seed": 0, "val_fraction": 0.15, "test_fraction": 0.15}
        assert body["classes"] == ["a", "b"]
        assert body["counts"] == {"train": {"a": 6, "b": 4}, "val": {"a": 2, "b": 1}, "test": {"a": 2, "b": 1}}
        dataset = program(finished / "other", **(SMALL | {"data__root": finished / "set"})).dataset
        for split, files in body["splits"].items():
            assert files == dataset.open(split).contents and len(files) == dataset.sizes[split]

    def test_describe_and_build_write_nothing_and_say_what_is_derived(self, finished, tmp_path, capsys):
        said = [*arguments(tmp_path / "run", **(SMALL | {"data__root": finished / "set"})), "--mode=describe"]
        assert main_jax.main(said) == 0
        out = capsys.readouterr().out
        assert "a 10, b 6 images of 8x9 to 9x9 pixels, L: taken as 8x8x1" in out
        assert f"{tmp_path}/run/split.json" in out and list(tmp_path.iterdir()) == []

    def test_the_same_files_go_on_and_it_stays(self, begun, capsys):
        path = begun / "run" / "split.json"
        before = path.stat().st_mtime_ns
        assert run(begun / "run", begun / "set", resume__allow="data.root") == 0
        assert "This run is finished" in capsys.readouterr().out and path.stat().st_mtime_ns == before


def add(base):
    shutil.copy(base / "set" / "a" / "0.png", base / "set" / "b" / "zz.png")


def remove(base):
    (base / "set" / first(base, "test")).unlink()


def change(base):
    path = base / "set" / first(base, "val")
    path.write_bytes(path.read_bytes() + b"\0")


def rename(base):
    path = base / "set" / first(base, "train", "b")
    path.rename(path.with_stem(path.stem + "_"))


def drop_class(base):
    shutil.rmtree(base / "set" / "b")


CHANGES = {  # what is done to the folder, and what is said
    "added": (add, "  1 new: b/zz.png"),
    "removed": (remove, "  1 missing: {test}"),
    "changed": (change, "  1 changed: {val}"),
    "renamed": (rename, "  1 missing: {train}\n  1 new: "),
    "a class less": (drop_class, "  6 missing: b/"),
}


@pytest.mark.parametrize(("damage", "said"), CHANGES.values(), ids=CHANGES)
def test_a_folder_that_changed_is_refused_by_the_files_names(begun, capsys, damage, said):
    names = {"test": first(begun, "test"), "val": first(begun, "val"), "train": first(begun, "train", "b")}
    before = {path: path.stat().st_mtime_ns for path in (begun / "run").rglob("*")}
    damage(begun)
    assert again(begun) == 4
    heard = capsys.readouterr().err
    assert "the files of set are not those that this run was begun with, by " in heard and "split.json" in heard
    assert said.format(**names) in heard and "restore them, take another workdir" in heard
    assert "Traceback" not in heard and "fingerprint" not in heard
    assert {path: path.stat().st_mtime_ns for path in (begun / "run").rglob("*")} == before


def test_another_seed_is_named_before_the_files_that_it_moves(begun, capsys):
    assert again(begun, data__split_seed=1) == 4
    assert "data.split_seed: saved 0, asked 1" in (heard := capsys.readouterr().err) and "moved" not in heard
    hidden = begun / "run" / "config.json"
    hidden.rename(hidden.with_suffix(".away"))
    assert again(begun, data__split_seed=1) == 4
    assert " moved to another split: a/" in capsys.readouterr().err


def test_changes_that_are_allowed_make_it_anew(begun):
    change(begun)
    assert again(begun, resume__allow="data", train__steps=3) == 0
    assert listed(begun)["splits"]["val"] == program(begun / "x", **_set(begun)).dataset.open("val").contents
    assert again(begun, resume__allow="data.root", train__steps=3) == 0


def _set(base):
    return SMALL | {"data__root": base / "set"}


@pytest.mark.parametrize("content", ["", "{}", '{"version": 9, "splits": {}}', "half"])
def test_a_damaged_or_foreign_list_is_refused_whether_begun_or_not(begun, capsys, content):
    path = begun / "run" / "split.json"
    path.write_text(path.read_text()[:99] if content == "half" else content)
    for workdir in (begun / "run", begun / "new"):
        workdir.mkdir(exist_ok=True)
        (workdir / "split.json").write_bytes(path.read_bytes())
        assert run(workdir, begun / "set", resume__allow="data.root") == 4
        assert "split.json is damaged, or of another program (" in (heard := capsys.readouterr().err)
        assert "remove it" in heard
    assert [p.name for p in (begun / "new").iterdir()] == ["split.json"]


def test_without_a_checkpoint_files_may_change(begun, capsys):
    """A run that broke off before its first save has trained on nothing that anybody keeps."""
    shutil.rmtree(begun / "run" / "checkpoints")
    add(begun)
    splits.check(program(begun / "run", **_set(begun)), begun=False)
    splits.write(program(begun / "run", **_set(begun)))
    assert "b/zz.png" in str(listed(begun)["splits"]) and "split.json: train 11 (a 6, b 5)" in capsys.readouterr().out


def test_an_evaluation_looks_too(begun, capsys):
    remove(begun)
    config = json.loads((begun / "run" / "config.json").read_text())
    config["data"]["root"], config["eval"]["metrics"] = str(begun / "set"), ["fd"]
    (begun / "run" / "config.json").write_text(json.dumps(config))
    assert main_jax.main(["--mode=eval", f"--workdir={begun / 'run'}"]) == 4
    assert "  1 missing: a/" in capsys.readouterr().err


class TestDuplicates:
    @pytest.fixture
    def doubled(self, begun):
        """Copies across splits and across classes, and one within."""
        for name, of in {"b/x.png": first(begun, "test"), "a/y.png": first(begun, "train")}.items():
            shutil.copy(begun / "set" / of, begun / "set" / name)
        return begun

    def test_they_are_said_once_and_listed(self, doubled, caplog):
        p = program(doubled / "new", **_set(doubled))
        splits.check_duplicates(p)
        splits.write(p)
        (record,) = caplog.records
        body = json.loads((doubled / "new" / "split.json").read_text())
        across = body["duplicates"]["across"]
        assert record.message.startswith("set: the same bytes lie in two splits (")
        assert any("b/x.png" in files for files in across)
        assert all(f"{path} ({split})" in record.message for files in across for path, split in files.items())

    def test_they_may_be_refused(self, doubled, capsys):
        assert run(doubled / "new", doubled / "set", data__folder__duplicates="raise") == 2
        heard = capsys.readouterr().err
        assert "set: the same bytes lie in two splits" in heard and "b/x.png (" in heard
        assert "remove all but one of each, or take duplicates=report" in heard and not (doubled / "new").exists()

    def test_a_set_without_any_says_nothing(self, begun, caplog):
        splits.check_duplicates(program(begun / "new", **(_set(begun) | {"data__folder__duplicates": "raise"})))
        assert caplog.records == []


def test_a_file_that_may_not_be_read_is_exit_2(begun, capsys, monkeypatch):
    def refuse(path):
        raise DataError(f"{path}: cannot be read")

    monkeypatch.setattr("diffusion.data.hashes.sha256", refuse)
    assert run(begun / "new", begun / "set") == 2
    assert "png: cannot be read" in capsys.readouterr().err and not (begun / "new").exists()


def test_the_workdir_takes_its_place_in_the_root(tmp_path):
    p = program(tmp_path / "run", data__source="digits_folder", data__root="{workdir}/digits", eval__metrics="()")
    assert p.config["data"]["root"] == "{workdir}/digits" and not (tmp_path / "run").exists()
    splits.write(p)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["digits", "split.json"]
    assert json.loads((tmp_path / "run" / "split.json").read_text())["counts"]["train"]["3"] == 42


def test_a_run_keeps_the_shape_that_it_derived(begun):
    """Later images of other sizes change the folder's median, not what the run draws."""
    saved = json.loads((begun / "run" / "config.json").read_text())["data"]
    assert (saved["size"], saved["channels"]) == (8, 1)
    for i in range(40):
        Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(begun / "set" / "a" / f"late{i}.png")
    fields = SMALL | {"data__root": begun / "set"}
    assert program(begun / "run", **fields).transform.shape == (24, 24, 3), "a fresh run would take these"
    kept = program(begun / "run", **fields | {"data__size": saved["size"], "data__channels": saved["channels"]})
    assert kept.transform.shape == (8, 8, 1)


def test_drawing_looks_too(begun, capsys):
    (begun / "set" / "a" / "0.png").unlink()
    config = begun / "run" / "config.json"
    values = json.loads(config.read_text())
    values["data"]["root"] = str(begun / "set")
    config.write_text(json.dumps(values))
    before = sorted(path.name for path in (begun / "run").iterdir())
    assert main_jax.main(["--mode=sample", f"--workdir={begun / 'run'}", "--config.sample.num=1"]) == 4
    assert "a/0.png" in capsys.readouterr().err
    assert sorted(path.name for path in (begun / "run").iterdir()) == before
