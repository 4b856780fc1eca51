"""The script that writes sets for few-shot generation: which classes go where, and what is left behind."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffusion.data.archive import arrays
from diffusion.data.fewshot import fewshot
from diffusion.data.records import ArrayRecords, Dataset, opener
from diffusion.errors import DataError
from scripts import fewshot_sets, make_fewshot
from scripts.fewshot_sets import by_class, omniglot
from scripts.make_fewshot import REPO, main, write

SUPERCLASSES = [f"super {i:02d}" for i in range(20)]


def records(labels, shape=(4, 4, 3), first=0) -> ArrayRecords:
    """Images whose pixels all say their number."""
    numbers = (np.arange(first, first + len(labels)) % 256).astype(np.uint8)
    return ArrayRecords(np.broadcast_to(numbers[:, None, None, None], (len(labels), *shape)), np.array(labels), True)


def prepared(monkeypatch, splits, classes):
    """TFDS holds a set: split to labels by key; images are as ``records`` makes them."""
    asked = []

    def tfds(root, seed, *, name, label_key="label"):
        asked.append((root, name))
        made = {split: (lambda x=x: records(x[label_key], (8, 8, 3), 200)) for split, x in splits.items()}
        return Dataset(name, tuple(classes[label_key]), {}, None, opener(made))

    monkeypatch.setattr(fewshot_sets, "tfds", tfds)
    return asked


class TestByClass:
    def test_records_of_all_parts_in_order(self):
        found = by_class([records([0, 1, 2, 1]), records([1, 3], first=9)], {1: "one", 3: "three"}, lambda x: x // 2)
        assert {name: x[:, 0, 0, 0].tolist() for name, x in found.items()} == {"one": [0, 1, 4], "three": [5]}
        assert all(x.shape[1:] == (4, 4, 3) and x.dtype == np.uint8 for x in found.values())

    def test_a_class_without_records_and_differing_sizes_are_named(self):
        with pytest.raises(DataError, match="class 'four' has no image"):
            by_class([records([0])], {0: "zero", 4: "four"}, lambda x: x)
        with pytest.raises(DataError, match=r"record 1: is \(1, 4, 3\), others of class 'zero' are \(0, 4, 3\)"):
            by_class([records([0, 0])], {0: "zero"}, lambda x: x[: x[0, 0, 0]])


class TestWrite:
    CONTENT = {s: {f"{s} {c}": records([0] * 3).images for c in ("file", "a/b")} for s in ("train", "val", "test")}

    def test_what_is_written_is_read(self, tmp_path):
        paths = write(tmp_path / "new", "x", self.CONTENT)
        assert [path.name for path in paths] == ["train_x.npz", "val_x.npz", "test_x.npz"]
        dataset = fewshot(str(tmp_path / "new"), 0, name="x")
        assert dataset.class_splits == {"train": (0, 1), "val": (2, 3), "test": (4, 5)}
        assert dataset.classes[:2] == ("train a/b", "train file")
        for path in paths:
            split = path.name.partition("_")[0]
            found = arrays(path)
            assert found.keys() == self.CONTENT[split].keys()
            assert all(np.array_equal(found[name], x) for name, x in self.CONTENT[split].items())
        assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths)

    def test_the_same_content_gives_the_same_bytes(self, tmp_path):
        one, two = (write(tmp_path / folder, "x", self.CONTENT) for folder in "ab")
        assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]

    def test_a_new_set_leaves_nothing_of_the_old(self, tmp_path):
        write(tmp_path, "x", self.CONTENT)
        write(tmp_path, "y", self.CONTENT)
        write(tmp_path, "x", {split: self.CONTENT[split] for split in ("train", "test")})
        assert fewshot(str(tmp_path), 0, name="x").class_splits.keys() == {"train", "test"}
        assert fewshot(str(tmp_path), 0, name="y").class_splits.keys() == {"train", "val", "test"}

    def test_what_could_not_be_read_is_not_written(self, tmp_path):
        before = [p.read_bytes() for p in write(tmp_path, "x", self.CONTENT)]
        for bad in (self.CONTENT | {"test": self.CONTENT["train"]}, {"train": self.CONTENT["train"]}):
            with pytest.raises(DataError):
                write(tmp_path, "x", bad)
        assert [(tmp_path / f"{s}_x.npz").read_bytes() for s in ("train", "val", "test")] == before
        assert len(list(tmp_path.iterdir())) == 3

    @pytest.mark.parametrize("after", [0, 1, 2])
    def test_a_crash_between_files_leaves_no_set_that_could_be_taken_for_one(self, tmp_path, monkeypatch, after):
        write(tmp_path, "x", self.CONTENT)
        done, replace = [], make_fewshot.os.replace

        def crash(source, target):
            if len(done) == after:
                raise KeyboardInterrupt
            done.append(replace(source, target))

        monkeypatch.setattr(make_fewshot.os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, "x", self.CONTENT)
        assert not (tmp_path / "train_x.npz").exists()
        assert {p.name for p in tmp_path.iterdir()} <= {"val_x.npz", "test_x.npz"}


def test_digits_from_the_command_line(tmp_path):
    command = [sys.executable, "scripts/make_fewshot.py", "digits", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path / 'out' / 'train_digits.npz'}: 6 classes, 1083 images of 8x8x1\n" in done.stdout
    dataset = fewshot(str(tmp_path / "out"), 0)
    assert dataset.classes == tuple("0123456789") and sum(dataset.sizes.values()) == 1797
    assert dataset.class_splits == {"train": (0, 1, 2, 3, 4, 5), "val": (6, 7), "test": (8, 9)}
    from diffusion.data.sources import digits

    assert dataset.open("test").labels.tolist() == sorted(digits("", 0).open("test").labels.tolist())


class TestCifar100:
    FINE = [f"class {i:02d}" for i in range(100)]

    def of(self, monkeypatch, superclass, coarse=SUPERCLASSES):
        """Two images a class in train and one in test; ``superclass`` is of a fine label."""
        labels = {"train": np.tile(np.arange(100), 2), "test": np.arange(100)}
        splits = {s: {"label": x, "coarse_label": np.array([superclass(k) for k in x])} for s, x in labels.items()}
        return prepared(monkeypatch, splits, {"label": self.FINE, "coarse_label": coarse})

    def test_superclasses_are_shared_out_as_in_fc100(self, tmp_path, monkeypatch):
        asked = self.of(monkeypatch, lambda k: k % 20)
        assert main(["cifar100", "--root=there", f"--out={tmp_path}"]) == 0
        assert set(asked) == {("there", "cifar100")}
        dataset = fewshot(str(tmp_path), 0, name="cifar100")
        found = {
            split: {int(dataset.classes[label][-2:]) % 20 for label in labels}
            for split, labels in dataset.class_splits.items()
        }
        assert found["val"] == {8, 11, 13, 16} and found["test"] == {0, 7, 12, 14}
        assert found["train"] == set(range(20)) - found["val"] - found["test"]
        assert [len(labels) for labels in dataset.class_splits.values()] == [60, 20, 20]
        assert sum(dataset.sizes.values()) == 300 and dataset.image_shape == (8, 8, 3)
        images = arrays(tmp_path / "test_cifar100.npz")["class 07"][:, 0, 0, 0]
        assert images.tolist() == [207, 51, 207], "both of train, then that of test"

    def test_other_counts_and_other_names_are_refused(self, tmp_path, monkeypatch, capsys):
        self.of(monkeypatch, lambda k: 0 if k == 1 else k % 20)
        assert main(["cifar100", f"--out={tmp_path / 'out'}"]) == 2
        assert "59 classes are of the superclasses of train, not 60; no set was written" in capsys.readouterr().err
        self.of(monkeypatch, lambda k: k % 20, SUPERCLASSES[::-1])
        assert main(["cifar100", f"--out={tmp_path / 'out'}"]) == 2
        assert "20 in alphabetical order are required" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


class TestOmniglot:
    NAMES = [f"character {i:04d}" for i in range(1623)]

    def of(self, monkeypatch, background=964):
        splits = {"train": {"label": np.arange(background)}, "test": {"label": np.arange(964, 1623)}}
        return prepared(monkeypatch, splits, {"label": self.NAMES})

    def test_background_is_trained_on_and_evaluation_is_never_seen(self, monkeypatch):
        self.of(monkeypatch)
        monkeypatch.setattr(fewshot_sets, "by_class", lambda parts, names, change: dict.fromkeys(names.values()))
        found = omniglot("", 0)
        assert found.keys() == {"train", "test"}
        assert list(found["train"]) == self.NAMES[:964] and list(found["test"]) == self.NAMES[964:]
        one, again, other = (omniglot("", seed, val_classes=97) for seed in (0, 0, 1))
        assert list(one["val"]) == list(again["val"]) != list(other["val"])
        for each in (one, other):
            assert [len(each[split]) for split in ("train", "val", "test")] == [867, 97, 659]
            assert sorted([*each["train"], *each["val"]]) == self.NAMES[:964]
            assert list(each["test"]) == self.NAMES[964:]

    def test_ink_is_bright_and_paper_is_0(self):
        page = np.full((105, 105, 3), 255, np.uint8)
        page[30:75, 30:75] = 0
        image = fewshot_sets._ink(28)(page)
        assert image.shape == (28, 28, 1) and image.dtype == np.uint8
        assert image[:6].max() == 0 and image[11:17, 11:17].min() == 255

    def test_other_counts_and_dark_paper_are_refused(self, tmp_path, monkeypatch, capsys):
        self.of(monkeypatch, background=963)
        assert main(["omniglot", f"--out={tmp_path}"]) == 2
        assert "963 classes in train, not 964" in capsys.readouterr().err
        self.of(monkeypatch)
        assert main(["omniglot", f"--out={tmp_path}", "--val_classes=964"]) == 2
        assert "val_classes: is 964; 0 to 963" in capsys.readouterr().err
        assert main(["omniglot", f"--out={tmp_path}"]) == 2
        assert "record 56: is dark in the main; dark ink on bright paper" in capsys.readouterr().err


class TestMiniImageNet:
    def files(self, folder, **changed):
        for split, count in {"train": 64, "val": 16, "test": 20}.items():
            images = records([0] * 2 * count, (8, 8, 3)).images
            members = {f"{split} {i:02d}": [i, i + count] for i in range(count)}
            content = {"image_data": np.ascontiguousarray(images), "class_dict": members} | changed
            (folder / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content))

    def test_the_cache_is_read(self, tmp_path):
        self.files(tmp_path)
        assert main(["miniimagenet", f"--root={tmp_path}", f"--out={tmp_path}", "--size=4"]) == 0
        dataset = fewshot(str(tmp_path), 0)
        assert [len(labels) for labels in dataset.class_splits.values()] == [64, 16, 20]
        assert dataset.image_shape == (4, 4, 3) and sum(dataset.sizes.values()) == 200
        assert arrays(tmp_path / "val_miniimagenet.npz")["val 03"][:, 0, 0, 0].tolist() == [3, 19]

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"class_dict": {"a": [0]}}, "class_dict does not give every image one class"),
            ({"class_dict": {"a": list(range(128))}}, "holds 1 classes, not 64"),
            ({"class_dict": 3}, "a dict of image_data"),
            ({"image_data": np.zeros((128, 8, 8, 3))}, r"image_data is float64[128, 8, 8, 3]"),
        ],
    )
    def test_other_content_is_refused(self, tmp_path, capsys, changed, said):
        self.files(tmp_path, **changed)
        assert main(["miniimagenet", f"--root={tmp_path}", f"--out={tmp_path}"]) == 2
        assert said in capsys.readouterr().err and not list(tmp_path.glob("*.npz"))


def save(path, value, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)


def test_celeba_is_split_by_the_number_of_the_identity(tmp_path, capsys):
    people = [30, 4, 100, 21, 5, 6, 7, 8, 9, 10]
    lines = []
    for number, person in enumerate([*people, *people, 3]):
        save(tmp_path / "img_align_celeba" / f"{number:06d}.png", person)
        lines.append(f"{number:06d}.png {person}")
    (tmp_path / "identity_CelebA.txt").write_text("\n".join(lines) + "\n")
    call = ["celeba", f"--root={tmp_path}", f"--out={tmp_path / 'out'}", "--size=4"]
    assert main([*call, "--least=2"]) == 0
    dataset = fewshot(str(tmp_path / "out"), 0)
    assert dataset.classes == ("4", "5", "6", "7", "8", "9", "10", "21", "30", "100") and dataset.image_shape == (
        4,
        4,
        3,
    )
    assert dataset.class_splits == {"train": (0, 1, 2, 3, 4, 5, 6), "val": (7,), "test": (8, 9)}
    first = dataset.open("train")[0]
    assert first.image.max() == int(dataset.classes[first.label])
    assert main(call) == 2 and "least: is 20, and 0 identities" in capsys.readouterr().err
    (tmp_path / "identity_CelebA.txt").write_text("../secret.png 1\n")
    assert main(call) == 2 and "goes up by .." in capsys.readouterr().err


def test_folders_of_class_folders(tmp_path, capsys):
    for split, name, n in [("train", "cat", 2), ("train", "dog", 1), ("test", "owl", 3)]:
        for i in range(n):
            save(tmp_path / "set" / split / name / f"{i}.png", i, (6 + i, 9))
    call = ["folders", f"--root={tmp_path / 'set'}", f"--out={tmp_path}"]
    assert main([*call, "--size=5", "--channels=1", "--name=pets"]) == 0
    dataset = fewshot(str(tmp_path), 0, name="pets")
    assert (dataset.classes, dataset.image_shape) == (("cat", "dog", "owl"), (5, 5, 1))
    assert main([*call, "--size=0"]) == 2
    assert "1.png: is (9, 7, 3), others of class 'cat' are (9, 6, 3); give a size" in capsys.readouterr().err
    assert main([*call, "--size=-1"]) == 2 and "size: is -1" in capsys.readouterr().err


def test_a_pickle_of_the_name_is_left_alone(tmp_path, capsys):
    (tmp_path / "train_digits.pkl").write_bytes(b"mine")
    assert main(["digits", f"--out={tmp_path}"]) == 2
    assert "train_digits.pkl is there already; remove it, or give another --name" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["train_digits.pkl"]
    assert main(["digits", f"--out={tmp_path}", "--name=mine"]) == 0
    assert main(["digits", f"--out={tmp_path}", "--name=../mine"]) == 2
    assert "name: '../mine' cannot be a part of a file's name" in capsys.readouterr().err


def test_a_set_that_is_not_prepared_says_how(tmp_path, capsys):
    assert main(["cifar100", f"--root={tmp_path}", f"--out={tmp_path / 'out'}"]) == 2
    assert "cifar100 is not prepared under" in capsys.readouterr().err and not (tmp_path / "out").exists()
