"""A row of a table by its name in the config, and errors that name the field."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion.errors import ConfigError
from diffusion.tables import rows


def choose(table: Mapping[str, Callable], section: str, c: ConfigDict, field: str, *given: Any) -> Any:
    """The row that ``c[field]`` names, called with what the program hands over and the row's own fields."""
    known(table, f"{section}.{field}", c[field])
    return row(table, section, c, c[field], *given)


def row(table: Mapping[str, Callable], section: str, c: ConfigDict, name: str, *given: Any) -> Any:
    # another table of the section may have a row of this name, with fields of its own
    keywords = dict(c[name]) if rows({name: table[name]}) else {}
    try:
        return table[name](*given, **keywords)
    except ValueError as error:
        raise _refused(f"{section}.{name}", keywords, error) from error


def known(table: Iterable[str], field: str, name: str) -> None:
    if name not in table:
        raise ConfigError(field, f"{name!r} is not one of: {', '.join(table)}")


def check_seed(field: str, seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ConfigError(field, f"is {seed}; it must lie in [0, 2**32)")


def section(name: str, kind: Callable, values: Mapping[str, Any]) -> Any:
    try:
        return kind(**dict(values))
    except ValueError as error:
        raise _refused(name, values, error) from error


def _refused(section: str, fields: Mapping[str, Any], error: ValueError) -> ConfigError:
    """The error with the whole name of the field that its message begins with."""
    first, _, rest = str(error).partition(" ")
    field = first.rstrip(":")
    return ConfigError(f"{section}.{field}", rest) if field in fields else ConfigError(section, str(error))


def fields_of(kind: Any) -> list[str]:
    return list(kind.__dataclass_fields__)
