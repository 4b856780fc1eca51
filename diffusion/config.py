"""From a command line to a checked ConfigDict: files, overrides, types. What fields mean is ``build``'s business."""

import ast
import difflib
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion.errors import ConfigError

LAID_OVER = (
    "sample",
    "sampler",
    "eval",
    "mesh",
    "log",
)  # what a command may say over a finished run's own config


def load(spec: str, default: ConfigDict) -> ConfigDict:
    """Call the ``get_config`` of ``PATH.py`` or ``PATH.py:ARGUMENT`` and check it against the default.

    Raises:
      ConfigError: no such file, no ``get_config``, or a field that the default does not have or has with another type.
    """
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        near = difflib.get_close_matches(path, [str(p) for p in sorted(Path(path).parent.glob("*.py"))], n=1)
        raise ConfigError("--config", f"there is no file {path}" + (f"; did you mean {near[0]}?" if near else ""))
    if not path.endswith(".py"):
        raise ConfigError("--config", f"{path} is not a Python file; a JSON config runs as configs/from_json.py:{path}")
    module_spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        found = module.get_config(argument) if argument else module.get_config()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError("--config", f"{path} does not make a config: {' '.join(str(error).split())}") from error
    return checked(found.to_dict(), default)


def from_json(path: Path, default: ConfigDict) -> ConfigDict:
    """The resolved config that a run left behind.

    Raises:
      ConfigError: not a file, not JSON, or not a config of this program.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError("--workdir", f"there is no {path}; train first, or name the run's folder") from None
    except json.JSONDecodeError as error:
        raise ConfigError("--config", f"{path} is not JSON: {error}") from error
    return checked(values, default)


def checked(values: Mapping[str, Any], default: ConfigDict) -> ConfigDict:
    """A locked copy of ``default`` with ``values`` laid over it, every field checked."""
    config = ConfigDict(default.to_dict())
    for path, value in _leaves(values):
        set_field(config, path, value)
    return config.lock()


def override(config: ConfigDict, assignments: Sequence[str]) -> ConfigDict:
    """Lay ``a.b=value`` texts over a config."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(path, f"no value given; write --config.{path}=VALUE")
        set_field(config, path, text, parse=True)
    return config


def set_field(config: ConfigDict, path: str, value: Any, parse: bool = False) -> None:
    """Set one field by its dotted path, keeping the field's type.

    Args:
      parse: ``value`` is text from a command line.

    Raises:
      ConfigError: there is no such field, or the value does not fit its type.
    """
    section, names = config, path.split(".")
    for depth, name in enumerate(names):
        here = ".".join(names[:depth])
        if not isinstance(section, ConfigDict):
            raise ConfigError(path, f"{here} is a value, not a section")
        if name not in section:
            raise ConfigError(path, _no_such_field(here, name, section))
        if depth < len(names) - 1:
            section = section[name]
    old = section[names[-1]]
    if isinstance(old, ConfigDict):
        raise ConfigError(path, f"this is a section; its fields are {_fields(old)}")
    section[names[-1]] = _fit(path, old, _parse(path, old, value) if parse else value)


def to_json(config: ConfigDict) -> str:
    """The resolved config as indented JSON."""
    return json.dumps(config.to_dict(), indent=2, allow_nan=False) + "\n"


def _no_such_field(section: str, name: str, there: ConfigDict) -> str:
    near = difflib.get_close_matches(name, list(there), n=1)
    prefix = f"{section}." if section else ""
    guess = f"; did you mean {prefix}{near[0]}?" if near else ""
    return f"there is no such field{guess} {section or 'the config'} has {_fields(there)}"


def _fields(section: ConfigDict) -> str:
    return ", ".join(section)


def _parse(path: str, old: Any, text: str) -> Any:
    if isinstance(old, str):
        return text
    if isinstance(old, bool):
        known = {"true": True, "false": False, "1": True, "0": False}
        if text.lower() not in known:
            raise ConfigError(path, f"{text!r} is neither true nor false")
        return known[text.lower()]
    if isinstance(old, tuple):
        return _parse_tuple(path, text)
    try:
        number = float(text.replace("_", "")) if isinstance(old, float) or "e" in text.lower() else int(text)
    except ValueError:
        raise ConfigError(path, f"{text!r} is not {_kind(old)}") from None
    return int(number) if isinstance(old, int) and float(number).is_integer() else number


def _parse_tuple(path: str, text: str) -> tuple[Any, ...]:
    def item(part: str) -> Any:
        try:
            return ast.literal_eval(part)
        except (ValueError, SyntaxError):
            return part

    whole = item(text.strip())
    if isinstance(whole, (tuple, list)):
        return tuple(whole)
    if whole != text.strip():
        return (whole,)
    if text.strip().startswith(("(", "[")):
        raise ConfigError(path, f"{text!r} is not a list; write --config.{path}=a,b or '(a, b)'")
    return tuple(item(part.strip()) for part in text.split(",") if part.strip())


def _fit(path: str, old: Any, value: Any) -> Any:
    """``value`` in the type of ``old``, or a ConfigError; an int passes for a float, never the other way round."""
    if isinstance(old, tuple) and isinstance(value, (tuple, list)):
        return tuple(value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(old):
        raise ConfigError(path, f"{value!r} is not {_kind(old)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(path, f"{value!r} is not a finite number")
    return value


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "a list"}
    return names[type(value)]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
