"""The digits as PNG folders: what is known without them, how they are written, and what may be there already."""

import os
import re

import numpy as np
import pytest

from diffusion.data import digits_folder as module
from diffusion.data.digits import DIGITS_PER_CLASS, load_digits
from diffusion.data.digits_folder import digits_folder
from diffusion.data.folder import folder
from diffusion.data.images import decode
from diffusion.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits") / "digits"
    digits_folder(str(root), 0).open("train").fingerprint  # noqa: B018  (writes it)
    return root


def test_what_is_known_without_files_is_true_of_them(written):
    known, walked = digits_folder(str(written), 0), folder(str(written), 0)
    assert (known.sizes, known.classes) == (walked.sizes, walked.classes)
    assert known.image_shape == walked.open("train")[0].image.shape
    for split in walked.sizes:
        ours, theirs = known.open(split), walked.open(split)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert len(ours) == len(theirs) and ours.fingerprint == theirs.fingerprint and ours.name(3) == theirs.name(3)
        np.testing.assert_array_equal(ours[3].image, theirs[3].image)
    assert known.listing() == walked.listing()


def test_three_classes_are_cut_before_the_split_and_images_are_scikit_learns(written):
    counts = [len(list(folder.iterdir())) for folder in sorted(written.iterdir())]
    assert counts == [60 if digit in (3, 5, 8) else n for digit, n in enumerate(DIGITS_PER_CLASS)]
    assert digits_folder(str(written), 0).sizes == {"train": 1006, "val": 216, "test": 216}
    images, labels = load_digits()
    for digit in (0, 3):
        for path in (written / str(digit)).iterdir():
            found = decode(path, str(path))
            np.testing.assert_array_equal(found, images[labels == digit][int(path.stem)])


def test_nothing_is_written_before_a_record_or_the_files_are_asked_for(tmp_path):
    dataset = digits_folder(str(tmp_path / "a" / "digits"), 0)
    assert len(dataset.open("val").labels) == dataset.sizes["val"] == 216 and list(tmp_path.iterdir()) == []
    dataset.listing()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["digits"]


def test_the_draw_is_the_seeds_and_another_class_does_not_move_it():
    three = module._numbers(("3",), 60, 0)[3]
    assert three[:6].tolist() == [0, 4, 11, 18, 20, 21]
    np.testing.assert_array_equal(three, module._numbers(("3", "5"), 60, 0)[3])
    assert not np.array_equal(three, module._numbers(("3",), 60, 1)[3])
    assert set(module._numbers(("3",), 30, 0)[3]) < set(three)


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    rename, both = os.rename, []

    def second(whole, base):
        if not both:
            both.append(base)
            digits_folder(str(base), 0).listing()  # by another one, meanwhile
        rename(whole, base)

    monkeypatch.setattr(os, "rename", second)
    assert digits_folder(str(tmp_path / "digits"), 0).open("train")[0].image.shape == (8, 8, 1)
    assert both and [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_crash_leaves_no_half_set(tmp_path, monkeypatch):
    save, count = module.Image.Image.save, iter(range(100))

    def fail(image, path):
        if next(count) == 50:
            raise OSError(28, "No space left on device", str(path))
        save(image, path)

    with monkeypatch.context() as patched:
        patched.setattr(module.Image.Image, "save", fail)
        with pytest.raises(OSError, match="No space"):
            digits_folder(str(tmp_path / "digits"), 0).listing()
    assert list(tmp_path.iterdir()) == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("wrong", "problem"),
        [
            ({"cut": ("ten",)}, "^cut names 'ten', which is none of 0, 1"),
            ({"kept": 2}, r"^kept is 2; it must lie in \[3, 174\]"),
            ({"kept": 175}, "^kept is 175"),
            ({"val_fraction": 1.0}, "^val_fraction is 1.0"),
        ],
    )
    def test_fields(self, wrong, problem):
        with pytest.raises(ValueError, match=problem):
            digits_folder("somewhere", 0, **wrong)

    def test_no_root(self):
        with pytest.raises(ConfigError, match="data.root: is empty; .*{workdir}/digits"):
            digits_folder("", 0)

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "digits").write_text("mine")
        with pytest.raises(ConfigError, match="data.root: .*digits is not a folder"):
            digits_folder(str(tmp_path / "digits"), 0).listing()

    def test_another_set_is_there(self, written):
        assert digits_folder(str(written), 0).listing()
        with pytest.raises(DataError, match="is not the 1378 digits .*: 60 are none of them: 3/"):
            digits_folder(str(written), 0, kept=40).listing()
        with pytest.raises(DataError, match=re.escape(str(written)) + ".* are missing: 3/.* are none of them: 3/"):
            digits_folder(str(written), 1).listing()
