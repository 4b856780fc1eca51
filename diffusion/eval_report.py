"""What an evaluation leaves behind in files: one JSON, and one CSV with a row per class."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.metrics import ClassRow, Scores

SCHEMA = 2
COLUMNS = {  # CSV column -> field of ClassRow
    ("class" if f.name == "name" else f.name): f.name for f in fields(ClassRow) if f.name != "reason"
}


def scores_report(scores: Scores, prefix: str = "eval/") -> dict[str, Any]:
    """The part of the JSON that comes from the metrics.

    Returns:
      {"metrics": {prefixed name: value or None}, "errors": {prefixed name: standard error}, "n": {prefixed name:
      [generated, real images or None]} but for figures of classes, "reasons": {prefixed name: why it is None},
      "classes": [the CSV's columns], "class_reasons": {class: why figures are None}, "groups": [the same columns],
      "aggregates": {figure: Aggregate's fields}, "pooled": {"n", "balanced", "equal_n"},
      "networks": {metric: whose features it was taken on}}.
    """
    return {
        "metrics": {prefix + name: value for name, value in scores.values.items()},
        "errors": {prefix + name: se for name, se in scores.errors.items()},
        "n": {prefix + name: list(n) for name, n in scores.counts.items() if "/class/" not in name},
        "reasons": {prefix + name: reason for name, reason in scores.reasons.items()},
        "classes": [_columns(row) for row in scores.rows],
        "class_reasons": {row.name: row.reason for row in scores.rows if row.reason},
        "groups": [_columns(row) for row in scores.groups],
        "aggregates": {name: asdict(total) for name, total in scores.aggregates.items()},
        "pooled": {"n": scores.n, "balanced": scores.balanced, "equal_n": scores.equal_n},
        "networks": dict(scores.extractors),
    }


def _columns(row: ClassRow) -> dict[str, Any]:
    return {column: getattr(row, name) for column, name in COLUMNS.items()}


def write_report(path_json: Path, path_csv: Path, report: Mapping[str, Any], rows: Sequence[ClassRow]) -> None:
    """Writes both files, each whole or not at all, and makes their folders.

    Args:
      report: anything JSON holds: metrics, counts, extractor, fingerprint, seeds, step, weights hash. It gets
        ``"schema": 2``; numbers that are not finite become null with an entry in ``"reasons"``.
      rows: of the CSV; without any (an unlabelled set) it holds the header alone.
    """
    found: dict[str, str] = {}
    body = _finite(dict(report), "", found)
    body = {"schema": SCHEMA} | body | {"reasons": body.get("reasons", {}) | found}
    replace_text(path_json, json.dumps(body, indent=2, allow_nan=False) + "\n")
    replace_text(path_csv, csv_text(rows))


def csv_text(rows: Sequence[ClassRow]) -> str:
    """The CSV: a header, then a line per class; a figure that is None is an empty cell."""
    return table_text(list(COLUMNS), ([getattr(row, name) for name in COLUMNS.values()] for row in rows))


def table_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV; a cell that is None or not finite is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(map(_cell, row) for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return repr(value) if isinstance(value, float) else value


def _finite(value: Any, path: str, found: dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item, f"{path}.{key}".lstrip("."), found) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, f"{path}.{i}", found) for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        found[path] = f"the value was {value}"
        return None
    return value


def replace_text(path: Path, text: str) -> None:
    """A file that is whole or as it was; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)
