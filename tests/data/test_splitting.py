"""A split that is drawn, and one that a file says."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion.data.folder import folder
from diffusion.data.split_file import text
from diffusion.data.splitting import Splitting
from diffusion.errors import DataError


@pytest.fixture
def letters(tmp_path):
    """Two classes of eight images of their own."""
    for i in range(16):
        path = tmp_path / "set" / "ab"[i // 8] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), i).save(path)
    return tmp_path / "set"


def files_of(dataset):
    return {split: list(dataset.open(split).contents) for split in dataset.sizes}


def written(path: Path, splits, **more) -> str:
    path.write_text(json.dumps({"splits": splits, **more}))
    return str(path)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"test_fraction": 0.0}, "^test_fraction is 0.0; a share"),
        ({"test_fraction": 1.0}, "^test_fraction is 1.0"),
        ({"val_fraction": -0.1}, "^val_fraction is -0.1; a share from 0"),
        ({"val_fraction": 0.85}, "^val_fraction is 0.85; .* with test_fraction=0.15 lies below 1"),
        ({"val_fraction": float("nan")}, "^val_fraction is nan"),
        ({"duplicates": "drop"}, "^duplicates is 'drop'; it must be one of: report, raise"),
    ],
)
def test_fields_that_cannot_be(letters, wrong, problem):
    with pytest.raises(ValueError, match=problem):
        folder(str(letters), 0, **wrong)


def test_two_runs_share_a_split_whatever_their_seeds(letters, tmp_path):
    first = folder(str(letters), 0)
    (tmp_path / "split.json").write_text(text(first.listing()))
    assert files_of(folder(str(letters), 1)) != files_of(first)
    again = folder(str(letters), 1, split=str(tmp_path / "split.json"))
    assert files_of(again) == files_of(first) and again.sizes == first.sizes
    assert again.listing().splits == first.listing().splits
    assert again.listing().drawn == {"file": str(tmp_path / "split.json")}


def test_a_split_made_by_hand_needs_no_hashes_and_no_val(letters, tmp_path):
    files = files_of(folder(str(letters), 0))
    by_hand = {"train": files["val"] + files["train"], "test": files["test"][::-1]}
    dataset = folder(str(letters), 0, split=written(tmp_path / "mine.json", by_hand))
    assert files_of(dataset) == {"train": sorted(by_hand["train"], key=place), "test": files["test"]}
    assert dataset.validation_splits == {"": "test"}
    labels = dataset.open("train").labels
    assert [path[0] for path in files_of(dataset)["train"]] == ["ab"[label] for label in labels]


def place(path):
    return tuple(path.split("/"))


class TestWhatDoesNotFit:
    @pytest.fixture
    def said(self, letters, tmp_path):
        """What is said of the right split after a change."""
        files = files_of(folder(str(letters), 0))

        def refused(change, **more):
            change(files)
            with pytest.raises(ValueError) as error:
                folder(str(letters), 0, split=written(tmp_path / "mine.json", files, **more))
            return str(error.value)

        return refused

    def test_a_file_that_is_not_there(self, said):
        assert "1 of its files are not there: a/99.png" in said(lambda files: files["val"].append("a/99.png"))

    def test_a_path_that_leads_out(self, said):
        assert "1 of its files are not there: ../x.png" in said(lambda files: files["val"].append("../x.png"))

    def test_files_that_are_not_in_it(self, said):
        assert said(lambda files: files["train"].remove("b/15.png")).endswith("1 files are not in it: b/15.png")

    def test_other_classes(self, said):
        assert "is of the classes a, c; " in said(lambda _: None, classes=["a", "c"])

    def test_a_class_without_training_images(self, said):
        def move(files):
            files["test"] += [path for path in files["train"] if path[0] == "b"]
            files["train"] = [path for path in files["train"] if path[0] == "a"]

        assert said(move).endswith("has no file of class 'b' in 'train'")


def test_a_missing_file_and_a_folder_that_is_split_already(letters, tmp_path):
    with pytest.raises(ValueError, match="^split: .*nowhere.json is no split file .*No such file"):
        folder(str(letters), 0, split=str(tmp_path / "nowhere.json"))
    for split in ("train", "test"):
        (tmp_path / "halves" / split).mkdir(parents=True)
        (tmp_path / "halves" / split / "a").symlink_to(letters / "a")
    with pytest.raises(ValueError, match="^split: is mine.json, but .*halves holds train/ and is split already"):
        folder(str(tmp_path / "halves"), 0, split="mine.json")


def test_hashes_in_a_given_file_must_be_those_of_the_files(letters, tmp_path):
    listing = folder(str(letters), 0).listing()
    (tmp_path / "split.json").write_text(text(listing))
    Image.new("L", (4, 4), 200).save(letters / "a" / "3.png")
    dataset = folder(str(letters), 0, split=str(tmp_path / "split.json"))
    with pytest.raises(DataError, match=r"split.json: 1 files are not those that it was made of.*: a/3.png; restore"):
        dataset.listing()


def test_hashes_are_of_the_bytes(letters):
    contents = folder(str(letters), 0).open("train").contents
    for path, content in contents.items():
        assert content == hashlib.sha256((letters / path).read_bytes()).hexdigest()


def test_the_draw_of_a_seed_is_that_of_the_labels():
    labels = np.repeat(np.arange(2, dtype=np.int32), 8)
    found = Splitting(0, 0.25, 0.25, "", "report").parts([str(i) for i in range(16)], labels, ("a", "b"), "set")
    assert found["val"].tolist() == [2, 6, 10, 13] and found["test"].tolist() == [1, 3, 9, 12]
