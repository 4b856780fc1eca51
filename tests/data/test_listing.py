"""Lists of files by split: what differs between two, what is there twice, and the file that holds one."""

import json

import pytest

from diffusion.data.duplicates import duplicates, report
from diffusion.data.listing import Listing, differences, said
from diffusion.data.split_file import parsed, text

SPLITS = {"train": {"cat/1.png": "a", "cat/2.png": "b", "dog/1.png": "c"}, "val": {"dog/2.png": "d"}, "test": {}}


def listing(drawn=None, **splits):
    return Listing(("cat", "dog"), SPLITS | splits, drawn or {"seed": 0})


class TestDifferences:
    def test_a_list_does_not_differ_from_itself(self):
        assert differences(listing(), listing()) == {}

    @pytest.mark.parametrize(
        ("now", "found"),
        [
            ({"val": {}}, {"missing": ["dog/2.png"]}),
            ({"test": {"cat/9.png": "z"}}, {"new": ["cat/9.png"]}),
            ({"val": {"dog/2.png": "z"}}, {"changed": ["dog/2.png"]}),
            ({"val": {"dog/2.png": ""}}, {}),
            (
                {"val": {}, "test": {"dog/2.png": "d"}},
                {"moved to another split": ["dog/2.png (val, now test)"]},
            ),
            ({"val": {"dog/3.png": "d"}}, {"missing": ["dog/2.png"], "new": ["dog/3.png"]}),
        ],
    )
    def test_each_kind_by_name(self, now, found):
        assert differences(listing(), listing(**now)) == found

    def test_the_first_five_are_named_and_all_counted(self):
        many = {f"cat/{i}.png": "z" for i in range(10, 17)}
        lines = said(differences(listing(), listing(test=many, val={}))).splitlines()
        assert lines[0] == "  1 missing: dog/2.png"
        assert lines[1] == "  7 new: " + ", ".join(list(many)[:5]) + ", …"


class TestDuplicates:
    def test_across_splits_and_classes_and_within(self):
        found = duplicates(
            listing(
                train={
                    "cat/1.png": "a",
                    "cat/2.png": "a",
                    "cat/3.png": "b",
                    "dog/1.png": "c",
                    "cat/4.png": "f",
                    "dog/4.png": "f",
                },
                val={"cat/5.png": "c"},
                test={"cat/6.png": "a", "dog/6.png": "b", "dog/7.png": ""},
            )
        )
        assert {content: [place.path for place in places] for content, places in found.across.items()} == {
            "a": ["cat/1.png", "cat/2.png", "cat/6.png"],
            "b": ["cat/3.png", "dog/6.png"],
            "c": ["dog/1.png", "cat/5.png"],
            "f": ["cat/4.png", "dog/4.png"],
        }
        assert found.within == 1
        told = report(found)
        assert "in two splits (3 times) or in two classes (3 times)" in told
        assert "cat/1.png (train) = cat/2.png (train) = cat/6.png (test)" in told
        assert "1 files are copies of another one of their own split and class" in told

    def test_none(self):
        assert report(duplicates(listing())) == ""

    def test_unknown_hashes_are_no_duplicates(self):
        assert duplicates(listing(val={"dog/2.png": ""}, test={"dog/3.png": ""})).across == {}


class TestFile:
    def test_it_comes_back(self):
        whole = listing(test={"cat/\udcff é.png": "a"})
        body = json.loads(text(whole))
        assert body["counts"] == {
            "train": {"cat": 2, "dog": 1},
            "val": {"cat": 0, "dog": 1},
            "test": {"cat": 1, "dog": 0},
        }
        assert body["duplicates"] == {"across": [{"cat/1.png": "train", "cat/\udcff é.png": "test"}], "within": 0}
        assert parsed(text(whole).encode().decode()) == whole

    def test_the_least_that_a_person_must_write(self):
        found = parsed('{"splits": {"train": ["cat/1.png"], "test": ["cat/2.png"]}}')
        assert found.splits == {"train": {"cat/1.png": ""}, "test": {"cat/2.png": ""}} and found.classes == ()

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("", "Expecting value"),
            ("[]", 'no object "splits"'),
            ('{"version": 2, "splits": {}}', "version 2; this program knows version 1"),
            ('{"splits": {"train": ["a/1.png"]}}', "no files in 'test'"),
            ('{"splits": {"train": [], "test": ["a/1.png"]}}', "no files in 'train'"),
            ('{"splits": {"train": ["a/1.png"], "test": ["a/2.png"], "dev": []}}', "a split 'dev'; there may be train"),
            ('{"splits": {"train": ["a/1.png"], "test": ["a/1.png"]}}', "a/1.png is in 'train' and in 'test'"),
            ('{"splits": {"train": ["a/1.png", "a/1.png"], "test": ["a/2.png"]}}', "'a/1.png' stands there twice"),
            ('{"splits": {"train": {"a/1": "", "a/1": ""}, "test": ["a/2.png"]}}', "'a/1' stands there twice"),
            ('{"splits": {"train": "a/1.png", "test": ["a/2.png"]}}', "'train' is neither a list"),
            ('{"splits": {"train": {"a/1.png": 3}, "test": ["a/2.png"]}}', "hash of a/1.png is no text"),
            ('{"classes": "ab", "splits": {"train": ["a/1"], "test": ["a/2"]}}', "must be a list of names"),
        ],
    )
    def test_what_is_no_split_is_refused(self, content, problem):
        with pytest.raises(ValueError, match=problem):
            parsed(content)
