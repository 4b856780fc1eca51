"""A folder that appears whole or not at all."""

import pytest

from diffusion.data import unfinished


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def partial(tmp_path):
    found = unfinished.partial_of(tmp_path / "folder")
    found.mkdir()
    (found / unfinished.LOCK).touch()
    assert unfinished.go_on(found, {"a": 1}) == []
    return found


def test_what_is_whole_is_kept_under_the_same_plan(partial):
    (partial / "one").touch()
    (partial / ".two").touch()  # of a program that was killed
    assert unfinished.go_on(partial, {"a": 1}) == ["one"]
    assert names(partial) == [".lock", "one", "plan.json"]


@pytest.mark.parametrize("plan", ['{"a": 2}', "{", None])
def test_what_belongs_to_another_plan_is_deleted(partial, plan):
    (partial / "one").touch()
    (partial / "plan.json").unlink() if plan is None else (partial / "plan.json").write_text(plan)
    assert unfinished.go_on(partial, {"a": 1}) == []
    assert names(partial) == [".lock", "plan.json"]


def test_a_file_that_breaks_off_leaves_nothing(partial):
    with pytest.raises(KeyboardInterrupt), unfinished.whole_file(partial / "one") as writing:
        writing.write_text("half")
        raise KeyboardInterrupt
    assert names(partial) == [".lock", "plan.json"]


@pytest.mark.parametrize("empty", [True, False])
def test_it_appears_with_its_files_alone(partial, tmp_path, empty):
    with unfinished.whole_file(partial / "one") as writing:
        writing.write_text("all")
    if empty:
        (tmp_path / "folder").mkdir()
    unfinished.put_in_place(tmp_path / "folder")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["one"]
