import json
import threading

import pytest

from diffusion.data.skipped import Skipped
from diffusion.errors import DataError


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def bad(skipped, *records, split="train"):
    for i in records:
        skipped.leave_out(split, i, f"é{i}.png", f"é{i}.png: not a readable image")


def test_each_record_is_listed_and_told_once(tmp_path, capsys):
    skipped = Skipped(limit=9)
    skipped.keep_in(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    bad(skipped, 3, 1, 3)
    bad(skipped, 3, split="test")
    bad(skipped, 3)
    assert lines(tmp_path / "run" / "skipped.jsonl") == [
        {"split": split, "record": i, "name": f"é{i}.png", "reason": f"é{i}.png: not a readable image"}
        for split, i in (("train", 3), ("train", 1), ("test", 3))
    ]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert said[1] == "train record 1 is left out (2 so far, at most 9): é1.png: not a readable image"


def test_nothing_is_written_before_there_is_a_folder(tmp_path):
    skipped = Skipped(limit=9)
    bad(skipped, 1, 2)
    assert list(tmp_path.iterdir()) == []
    skipped.keep_in(tmp_path)
    assert [line["record"] for line in lines(tmp_path / "skipped.jsonl")] == [1, 2]


def test_another_start_goes_on_with_the_list(tmp_path, capsys):
    first, second = Skipped(limit=4), Skipped(limit=4)
    first.keep_in(tmp_path)
    bad(first, 1, 2)
    bad(second, 2, 3)
    second.keep_in(tmp_path)
    bad(second, 1, 4)
    assert [line["record"] for line in lines(tmp_path / "skipped.jsonl")] == [1, 2, 3, 4] and len(second) == 4
    assert "2 records were left out before" in capsys.readouterr().out
    with pytest.raises(DataError, match="5 records cannot be read, data.max_skipped allows 4"):
        bad(second, 5)


def test_a_line_that_a_kill_cut_is_written_anew(tmp_path):
    first, second = Skipped(limit=9), Skipped(limit=9)
    first.keep_in(tmp_path)
    bad(first, 1, 2)
    path = tmp_path / "skipped.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    second.keep_in(tmp_path)
    bad(second, 2)
    assert [line["record"] for line in lines(path)] == [1, 2]


def test_each_process_has_its_list_and_counts_those_of_all_before(tmp_path):
    several = [Skipped(limit=9, process=i) for i in range(3)]
    for i, each in enumerate(several):
        each.keep_in(tmp_path)
        bad(each, i, 7)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["skipped.1.jsonl", "skipped.2.jsonl", "skipped.jsonl"]
    alone = Skipped(limit=9)
    alone.keep_in(tmp_path)
    bad(alone, 0, 1, 2, 7, 8)
    assert [line["record"] for line in lines(tmp_path / "skipped.jsonl")] == [0, 7, 8] and len(alone) == 5


class TestLimit:
    def test_one_more_is_an_error_that_names_the_list(self, tmp_path):
        skipped = Skipped(limit=2)
        skipped.keep_in(tmp_path)
        bad(skipped, 1, 2, 1, 2)
        with pytest.raises(DataError) as refused:
            bad(skipped, 3)
        said = str(refused.value)
        assert said.startswith("3 records cannot be read, data.max_skipped allows 2; all are listed in ")
        assert str(tmp_path / "skipped.jsonl") in said and "é3.png: not a readable image" in said
        assert [line["record"] for line in lines(tmp_path / "skipped.jsonl")] == [1, 2, 3]
        with pytest.raises(DataError):
            bad(skipped, 1)

    def test_without_a_folder_it_names_the_last(self):
        with pytest.raises(DataError, match=r"nothing was written\. .*é0.png.*é1.png"):
            bad(Skipped(limit=1), 0, 1)

    def test_the_list_of_before_counts(self, tmp_path):
        first = Skipped(limit=9)
        first.keep_in(tmp_path)
        bad(first, 1, 2, 3)
        with pytest.raises(DataError, match="3 records cannot be read, data.max_skipped allows 2"):
            Skipped(limit=2).keep_in(tmp_path)


def test_a_list_that_is_none_is_named(tmp_path):
    (tmp_path / "skipped.jsonl").write_text("hello\n")
    with pytest.raises(DataError, match="skipped.jsonl: not a list of left-out records"):
        Skipped(limit=2).keep_in(tmp_path)


def test_names_that_are_no_unicode(tmp_path, capsys):
    skipped = Skipped(limit=2)
    skipped.keep_in(tmp_path)
    name = b"\xff\xe2\x80\xa8.png".decode("utf-8", "surrogateescape")
    skipped.leave_out("train", 1, name, f"{name}: broken")
    again = Skipped(limit=2)
    again.keep_in(tmp_path)
    again.leave_out("train", 1, name, f"{name}: broken")
    assert len((tmp_path / "skipped.jsonl").read_bytes().splitlines()) == 1


def test_from_many_threads_each_once(tmp_path):
    skipped = Skipped(limit=200)
    skipped.keep_in(tmp_path)
    together = threading.Barrier(8)

    def meet():
        together.wait(30)
        bad(skipped, *range(100))

    threads = [threading.Thread(target=meet) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(line["record"] for line in lines(tmp_path / "skipped.jsonl")) == list(range(100))
