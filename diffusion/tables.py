"""A choice is a dict literal ``{name: row}``; a row's keyword-only parameters are its config fields."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def rows(table: Mapping[str, Callable[..., Any]]) -> dict[str, dict[str, Any]]:
    """The config of every row: its keyword-only parameters and their defaults.

    Positional parameters are what the program hands to a row; keyword-only ones are the user's.
    A row without keywords has no sub-dict.
    """
    found = {name: _keywords(row) for name, row in table.items()}
    return {name: keywords for name, keywords in found.items() if keywords}


def _keywords(row: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(row).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
