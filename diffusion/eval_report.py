"""What an evaluation leaves behind: one JSON, one CSV with a row per class, one table on the console."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.metrics import Aggregate, ClassRow, Scores

SCHEMA = 1
COLUMNS = {  # CSV column -> field of ClassRow
    ("class" if f.name == "name" else f.name): f.name for f in fields(ClassRow) if f.name != "reason"
}
NUMBER = 9  # width of a number on the console


def scores_report(scores: Scores, prefix: str = "eval/") -> dict[str, Any]:
    """The part of the JSON that comes from the metrics.

    Returns:
      {"metrics": {prefixed name: value or None}, "reasons": {prefixed name: why it is None},
      "classes": [the CSV's columns], "class_reasons": {class: why figures are None},
      "aggregates": {figure: Aggregate's fields}, "pooled": {"n", "balanced"}}.
    """
    return {
        "metrics": {prefix + name: value for name, value in scores.values.items()},
        "reasons": {prefix + name: reason for name, reason in scores.reasons.items()},
        "classes": [{column: getattr(row, name) for column, name in COLUMNS.items()} for row in scores.rows],
        "class_reasons": {row.name: row.reason for row in scores.rows if row.reason},
        "aggregates": {name: asdict(total) for name, total in scores.aggregates.items()},
        "pooled": {"n": scores.n, "balanced": scores.balanced},
    }


def write_report(path_json: Path, path_csv: Path, report: Mapping[str, Any], rows: Sequence[ClassRow]) -> None:
    """Writes both files, each whole or not at all, and makes their folders.

    Args:
      report: anything JSON holds: metrics, counts, extractor, fingerprint, seeds, step, weights hash. It gets
        ``"schema": 1``; numbers that are not finite become null with an entry in ``"reasons"``.
      rows: of the CSV; without any (an unlabelled set) it holds the header alone.
    """
    found: dict[str, str] = {}
    body = _finite(dict(report), "", found)
    body = {"schema": SCHEMA} | body | {"reasons": body.get("reasons", {}) | found}
    _replace(path_json, json.dumps(body, indent=2, allow_nan=False) + "\n")
    _replace(path_csv, csv_text(rows))


def csv_text(rows: Sequence[ClassRow]) -> str:
    """The CSV: a header, then a line per class; a figure that is None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(getattr(row, name)) for name in COLUMNS.values()] for row in rows)
    return out.getvalue()


def console_table(
    rows: Sequence[ClassRow],
    aggregates: Mapping[str, Aggregate],
    extractor: str,
    accuracy: Mapping[str, float] | None = None,
) -> str:
    """A fixed-width table, the worst class first, with the aggregates below.

    Args:
      aggregates: by figure, as in ``Scores``.
      extractor: stands in the header, ``FD[cls-digits-1a2b3c4d]``; "FID[...]" for Inception features.
      accuracy: share of each class read as asked, in [0, 1], by class.
    """
    distance = "FID" if extractor.startswith("inception") else "FD"
    width = max([5, *(len(row.name) for row in rows)])
    heads = ["n", distance, "± se", "floor", "excess", "KIDe3", "± se"] + (["asked"] if accuracy else [])
    lines = [f"{distance}[{extractor}]: lower is better; floor: real against real; excess: above that floor"]
    lines.append(f"{'class':<{width}}" + "".join(f"{head:>{NUMBER}}" for head in heads))
    for row in sorted(rows, key=lambda row: -math.inf if row.fd is None else row.fd, reverse=True):
        figures = [row.fd, row.fd_se, row.fd_floor, row.fd_excess, row.kid_x1e3, row.kid_se]
        line = f"{row.name:<{width}}{row.n_gen:>{NUMBER}}" + "".join(_number(figure) for figure in figures)
        line += _share(accuracy.get(row.name)) if accuracy else ""
        lines.append(f"{line}  {row.flag}".rstrip())
    lines += [_line(name, total) for name, total in aggregates.items()]
    return "\n".join(lines)


def announcements(rows: Sequence[ClassRow], requested: int) -> list[str]:
    """One line for each class that is compared with fewer images than were asked for."""
    return [
        f"class {row.name}: {row.n_gen} images a side instead of the {requested} requested"
        + (f" ({row.flag}: read its KID, it is left out of the aggregates)" if row.flag else "")
        for row in rows
        if row.n_gen < requested
    ]


def _line(name: str, total: Aggregate) -> str:
    over = f"over {total.classes} of {total.of} classes"
    if total.mean is None:
        return f"{name}: no aggregate, {over} (the others have fewer than 20 images)"
    error = "" if total.se is None else f" ± {total.se:.3g}"
    worst = ", ".join(f"{label} {value:.3g}" for label, value in total.worst)
    return f"{name}: mean {total.mean:.4g}{error}, median {total.median:.4g} {over}; worst: {worst}"


def _number(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.3f'):>{NUMBER}}"


def _share(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.1%'):>{NUMBER}}"


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


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)
