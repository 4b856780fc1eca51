import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from diffusion.eval_report import csv_text, scores_report, write_report
from diffusion.metrics import ClassRow, Features, measure

ROWS = (
    ClassRow("ant", 30, 30, 1.25, 0.1, 15, 2.5, 2.25, 0.25, 3.5, 0.5),
    ClassRow("bee", 7, 7, 9.0, 2.0, 3, 8.0, 7.5, 0.5, -1.5, 2.5, flag="unreliable"),
    ClassRow("cat", 1, 1, flag="unreliable", reason="1 images a side: a distance needs 2"),
    ClassRow("long-named dog", 30, 30, 2.75, 0.1, 15, 2.5, 2.25, 0.25, 3.5, 0.5),
)
HEADER = (
    "class,n_real,n_gen,fd,fd_se,n_floor,fd_half,fd_floor,fd_excess,kid_x1e3,kid_se,"
    "density,coverage,coverage_expected,flag"
)


def test_csv_has_a_row_per_class():
    lines = csv_text(ROWS).splitlines()
    assert lines[0] == HEADER
    assert lines[1] == "ant,30,30,1.25,0.1,15,2.5,2.25,0.25,3.5,0.5,,,,"
    assert lines[3] == "cat,1,1,,,,,,,,,,,,unreliable"
    assert [row["class"] for row in csv.DictReader(csv_text(ROWS).splitlines())] == [row.name for row in ROWS]


def test_report_is_whole_json_without_nan(tmp_path):
    path_json, path_csv = tmp_path / "eval" / "step_00000010.json", tmp_path / "eval" / "classes.csv"
    report = {
        "step": np.int64(10),
        "metrics": {"eval/fd": math.nan, "eval/kid": np.float32(0.5), "eval/x": None, "eval/y": np.inf},
        "reasons": {"eval/x": "too few"},
        "seeds": (1, 2),
    }
    write_report(path_json, path_csv, report, ROWS)
    text = path_json.read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found["schema"] == 2 and found["step"] == 10 and found["seeds"] == [1, 2]
    assert found["metrics"] == {"eval/fd": None, "eval/kid": 0.5, "eval/x": None, "eval/y": None}
    assert found["reasons"] == {
        "eval/x": "too few",
        "metrics.eval/fd": "the value was nan",
        "metrics.eval/y": "the value was inf",
    }
    assert path_csv.read_text() == csv_text(ROWS)
    assert sorted(path.name for path in path_json.parent.iterdir()) == ["classes.csv", "step_00000010.json"]
    assert math.isnan(report["metrics"]["eval/fd"])


def test_a_failed_write_leaves_the_old_report(tmp_path):
    path_json, path_csv = tmp_path / "a.json", tmp_path / "a.csv"
    write_report(path_json, path_csv, {"step": 1}, ())
    with pytest.raises(TypeError):
        write_report(path_json, path_csv, {"step": object()}, ())
    assert json.loads(path_json.read_text())["step"] == 1
    assert path_csv.read_text() == HEADER + "\n"


def test_scores_become_a_report():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [25, 1])
    sides = (Features(rng.normal(size=(26, 3)), labels, "e") for _ in range(2))
    scores = measure(*sides, ("ant", "bee"), ("fd", "vendi"), groups={"all": [0, 1]})
    report = scores_report(scores)
    assert report["metrics"]["eval/fd/class/ant"] == scores.rows[0].fd
    assert report["metrics"]["eval/fd/class/bee"] is None and "eval/fd/class/bee" in report["reasons"]
    assert report["errors"]["eval/fd/class/ant"] == scores.rows[0].fd_se and "eval/fd/class/bee" not in report["errors"]
    assert report["n"]["eval/fd"] == [26, 26] and report["n"]["eval/vendi"] == [26, None]
    assert report["n"]["eval/fd/group/all"] == [26, 26] and not any("/class/" in name for name in report["n"])
    assert list(report["classes"][0]) == list(report["groups"][0]) == HEADER.split(",")
    assert [row["class"] for row in report["groups"]] == ["all"]
    assert report["class_reasons"].keys() == {"bee"}
    assert report["aggregates"]["fd"]["of"] == 2
    assert report["pooled"] == {"n": 26, "balanced": False, "equal_n": None}
    assert report["networks"] == {"fd": "e", "vendi": "e"}
    assert json.loads(json.dumps(report, allow_nan=False))


def test_every_key_of_a_report_is_explained():
    rng = np.random.default_rng(0)
    scores = measure(*(Features(rng.normal(size=(4, 3)), None, "e") for _ in range(2)), (), ("fd",))
    page = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text()
    keys = {
        cell for row in page.splitlines() if row.startswith("| `") for cell in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert {"schema", *scores_report(scores)} <= keys
    assert HEADER.replace(",", ", ") in " ".join(page.split())
