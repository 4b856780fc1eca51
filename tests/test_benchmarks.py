"""Benchmarks run, and their tables have a place; nothing here looks at a time."""

import re

import pytest

from benchmarks import contest_shapes, performance
from benchmarks.contest import OURS, rows
from benchmarks.contest_worker import Worker
from tests.conftest import REPO

TASK = {"batch": 8, "dtype": "float32", "device": "cpu", "sampler_steps": 2, "side": 64}


@pytest.mark.parametrize("name", performance.TABLES)
def test_every_table_has_one_place_in_the_page(name):
    page = (REPO / "docs" / "performance.md").read_text()
    there = performance.replaced(page, name, "a table")
    assert re.search(rf"<!-- {name} -->\n\na table\n<!-- end of {name} -->", there)
    assert performance.replaced(there, name, "a table") == there
    with pytest.raises(ValueError, match=f"2 places '<!-- {name} -->"):
        performance.replaced(page + page, name, "a table")


@pytest.mark.parametrize("shape", ["tiny_unet", "tiny_dit"])
def test_this_program_s_side_of_the_contest_works(shape, tmp_path):
    with Worker("benchmarks.contest_jax", {**TASK, "shape": shape}, tmp_path / "log") as ours:
        assert ours.about["parameters"] > 10_000 and ours.about["flops_per_image"] > 0
        for work in ("train", "sample", "memory"):
            (found,) = ours.work(work)
            assert found > 0


def test_a_side_that_cannot_work_says_where_it_said_why(tmp_path):
    with pytest.raises(RuntimeError, match="ended with status 1; what it said: .*log"):
        Worker("benchmarks.contest_jax", {**TASK, "shape": "none"}, tmp_path / "log")
    assert "KeyError: 'none'" in (tmp_path / "log").read_text()


def test_a_row_is_measured_by_the_best_of_the_others():
    about = {"parameters": 2_000_000, "flops_per_image": 10**9}
    result = {
        "task": {**TASK, "shape": "dit"},
        "work": "train",
        "about": {OURS: about, "eager": about, "compile": about},
        "seconds": {"eager": [2.0, 4.0, 2.0], "compile": [1.0, 2.0, 1.0], OURS: [0.5, 1.0, 0.6]},
        "bytes": {OURS: 10**9, "eager": 2 * 10**9, "compile": 3 * 10**9},
    }
    found = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows(result, peak=20e9)]
    assert [cells[3] for cells in found] == ["**this program**", "PyTorch eager", "PyTorch compile"]
    assert found[0] == ["train", "dit 2.00M", "8", "**this program**", "600", "13.3", "0.50", "13", "67%", "1.0"]
    assert [cells[6] for cells in found] == ["0.50", "2.00", "1.00"]


def test_both_sides_name_the_same_nets():
    for name, shape in contest_shapes.SHAPES.items():
        ours, theirs = shape["ours"], shape["theirs"]
        if theirs["kind"] == "dit":
            assert all(ours[f"net.dit.{field}"] == theirs[field] for field in ("patch", "d", "depth", "heads")), name
        else:
            channels = [ours["net.unet.channels"] * m for m in ours["net.unet.mults"]]
            assert channels == theirs["block_out_channels"] and ours["net.unet.blocks"] == theirs["layers_per_block"]
            attends = [i for i, kind in enumerate(theirs["down_block_types"]) if kind.startswith("Attn")]
            assert attends == list(ours["net.unet.attention"]), name
