"""Bad input through the command: what it says, the status it exits with, and what stands in the workdir."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import main_jax
from diffusion import feed
from diffusion.data import folder as folder_source
from tests.tiny import arguments, log, program, state_print

SMALL = {
    "data__source": "folder",
    "data__size": 8,
    "data__channels": 1,
    "data__folder__val_fraction": 0,
    "data__batch_size": 8,
    "data__threads": 0,
    "train__steps": 10,
    "val__every": 0,
    "sample__every": 0,
    "eval__metrics": "()",
}
CLASSES, EACH, PER_EPOCH = "abcdefghij", 4, 30
WITH_EVALUATION = {
    "eval__metrics": "('fd','kid','accuracy')",
    "eval__every": 5,
    "eval__reference_split": "test",
    "eval__classifier__steps": 5,
    "val__every": 4,
}


@pytest.fixture
def data(tmp_path):
    """Ten classes of four pictures, of which three are trained on: four batches an epoch, the last one of six."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(EACH):
            Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def run(workdir, data, **changed):
    return main_jax.main(arguments(workdir, **(SMALL | {"data__root": data} | changed)))


def split_files(data, split):
    return folder_source.folder(str(data), 0, val_fraction=0.0).open(split).files


def listed(workdir, name="skipped.jsonl"):
    path = workdir / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def states(workdir, data, **changed):
    return state_print(workdir, **(SMALL | {"data__root": data} | changed))


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


def drop_folders(folder):
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


REFUSED = {  # what is done to the data, and what is said
    "an empty folder": (lambda d: shutil.rmtree(d) or d.mkdir(), "{d}: no class folders; it must hold one folder"),
    "no folder": (shutil.rmtree, "data.root: {d} does not exist; give the path of the folder of class folders"),
    "no class folders": (
        lambda d: (d / "a" / "0.png").rename(d / "0.png") and drop_folders(d),
        "{d}: no class folders;",
    ),
    "a class without images": (lambda d: emptied(d / "b"), "{d}/b: no images; a class folder holds .png"),
    "a file of another kind": (
        lambda d: (d / "b" / "0.png").write_text("hello"),
        "{d}/b/0.png: not a readable image (its content is none of: PNG",
    ),
    "a truncated image": (lambda d: cut(d / "b" / "0.png"), "{d}/b/0.png: not a readable image"),
    "zero bytes": (lambda d: (d / "b" / "0.png").write_bytes(b""), "{d}/b/0.png: not a readable image"),
    "floating-point pixels": (
        lambda d: Image.new("F", (8, 8), 0.5).save(d / "b" / "0.png", "TIFF"),
        "{d}/b/0.png: not a readable image (floating-point pixels have no known range; save it with 8 bits",
    ),
    "a dangling link": (lambda d: (d / "b" / "z.png").symlink_to("gone"), "{d}/b/z.png: no file, or a link"),
}


@pytest.mark.parametrize(("damage", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_found_before_step_0_is_exit_2_and_writes_nothing(tmp_path, data, capsys, damage, said):
    damage(data)
    assert run(tmp_path / "run", data, **WITH_EVALUATION) == 2
    heard = capsys.readouterr().err
    assert said.format(d=data) in heard and heard.startswith("main_jax.py: ") and "Traceback" not in heard
    assert not (tmp_path / "run").exists()


def test_an_archive_with_the_wrong_names_is_exit_2(tmp_path, capsys):
    np.savez(tmp_path / "set.npz", x=np.zeros((4, 8, 8, 1), np.uint8), y=np.zeros(4, int))
    assert run(tmp_path / "run", tmp_path / "set.npz", data__source="npz") == 2
    heard = capsys.readouterr().err
    assert f"{tmp_path / 'set.npz'}: no array 'images'; there are: x, y. It must hold images uint8 [n h w c]" in heard
    assert not (tmp_path / "run").exists()


def breaks_at(monkeypatch, path, change, reads: int) -> None:
    """The file is changed, on disk, when so many pictures have been read."""
    decode, count = folder_source.decode, iter(range(10**9))

    def damaging(source, name):
        if next(count) == reads:
            change(path)
        return decode(source, name)

    monkeypatch.setattr(folder_source, "decode", damaging)


@pytest.mark.parametrize(
    "change", [cut, pytest.param(lambda path: path.unlink(), marks=pytest.mark.slow, id="removed")]
)
def test_damage_during_the_run_is_exit_1_with_a_healthy_state_and_repaired_it_goes_on(
    tmp_path, data, capsys, monkeypatch, change
):
    path = split_files(data, "train")[0]
    whole = path.read_bytes()
    with monkeypatch.context() as patched:
        breaks_at(patched, path, change, reads=8 + PER_EPOCH)  # a batch before step 0, an epoch
        assert run(tmp_path / "run", data) == 1
    heard = capsys.readouterr().err
    assert f"{path}: not a readable image" in heard and "Traceback" not in heard and "data.on_error=skip" in heard
    step = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert 4 <= step < 8, "in the second epoch"
    path.write_bytes(whole)
    assert run(tmp_path / "run", data) == 0
    assert run(tmp_path / "straight", data) == 0
    assert states(tmp_path / "run", data) == states(tmp_path / "straight", data)
    assert log(tmp_path / "run") == log(tmp_path / "straight")


@pytest.mark.slow
def test_a_run_that_met_damage_goes_on_with_skip(tmp_path, data, monkeypatch):
    path = split_files(data, "train")[0]
    with monkeypatch.context() as patched:
        breaks_at(patched, path, cut, reads=8 + PER_EPOCH)
        assert run(tmp_path / "run", data) == 1
    assert run(tmp_path / "run", data, data__on_error="skip") == 4, "the set is not what it was"
    assert run(tmp_path / "run", data, data__on_error="skip", resume__allow="('data',)") == 0
    assert [line["name"] for line in listed(tmp_path / "run")] == [str(path)]


class TestSkip:
    @pytest.mark.parametrize("threads", [0, pytest.param(4, marks=pytest.mark.slow)])
    def test_it_is_listed_once_and_resumes_to_the_same_state(self, tmp_path, data, capsys, threads):
        bad = sorted([*split_files(data, "train")[2:4], split_files(data, "test")[9]])
        for path in bad:
            cut(path)
        options = {"data__on_error": "skip", "data__threads": threads, **WITH_EVALUATION}
        assert run(tmp_path / "straight", data, **options) == 0
        said = capsys.readouterr().out
        for steps in (5, 10):
            assert run(tmp_path / "cut", data, **(options | {"train__steps": steps})) == 0
        for workdir in (tmp_path / "straight", tmp_path / "cut"):
            lines = listed(workdir)
            assert sorted(line["name"] for line in lines) == sorted(map(str, bad))
            assert {line["split"] for line in lines} == {"train", "test"}
            assert all(line["reason"].startswith(f"{line['name']}: not a readable") for line in lines)
        assert states(tmp_path / "cut", data, **options)[0] == states(tmp_path / "straight", data, **options)[0]
        report = json.loads((tmp_path / "straight" / "eval" / "step_00000010.json").read_text())
        assert (report["reference"]["n"], report["reference"]["left_out"]) == (9, 1)
        assert list(report["counts"].values()) == [1] * 9 + [0], "as many are drawn as real ones were read"
        for word in ("is left out (3 so far, at most 100)", "1 of its records cannot be read", "skipped.jsonl"):
            assert word in said, word

    def test_above_the_limit_it_is_exit_2_before_step_0(self, tmp_path, data, capsys):
        for path in split_files(data, "train")[:3]:
            cut(path)
        options = {"data__on_error": "skip", "data__max_skipped": 2, "eval__metrics": WITH_EVALUATION["eval__metrics"]}
        assert run(tmp_path / "run", data, **options) == 2
        heard = capsys.readouterr().err
        assert "3 records cannot be read, data.max_skipped allows 2; nothing was written" in heard
        assert not (tmp_path / "run").exists()

    def test_above_the_limit_during_the_run_it_is_exit_1_and_a_higher_limit_goes_on(self, tmp_path, data, capsys):
        for path in split_files(data, "test"):  # which the first validation reads
            cut(path)
        options = {
            "data__on_error": "skip",
            "val__every": 4,
        }
        assert run(tmp_path / "run", data, data__max_skipped=2, **options) == 1
        heard = capsys.readouterr().err
        assert (
            f"3 records cannot be read, data.max_skipped allows 2; all are listed in {tmp_path}/run/skipped.jsonl"
            in heard
        )
        assert max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()) == 4
        assert len(listed(tmp_path / "run")) == 3
        Image.new("L", (8, 8)).save(split_files(data, "test")[0])
        assert run(tmp_path / "run", data, data__max_skipped=20, **options) == 4, "a file is not what it was"
        assert run(tmp_path / "run", data, data__max_skipped=20, resume__allow="data", **options) == 0
        assert len(listed(tmp_path / "run")) == 10

    @pytest.mark.slow
    def test_a_batch_without_a_readable_record_does_not_end_the_run(self, tmp_path, data):
        fields = SMALL | {"data__root": data}
        batches = feed.loader(program(tmp_path / "run", **fields), "train", training=True)
        files = split_files(data, "train")
        for i in batches.batch(7).id[:6]:
            cut(files[i])
        assert run(tmp_path / "run", data, data__on_error="skip") == 0
        assert len(listed(tmp_path / "run")) == 6
