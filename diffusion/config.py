"""From a command line to a checked ConfigDict: files, overrides, types. What fields mean is ``build``'s business."""

import ast
import difflib
import importlib.util
import json
import math
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from diffusion.errors import ConfigError

HOME = Path(__file__).resolve().parent.parent  # where configs/ lies
# what a command may say over a finished run's own config
LAID_OVER = (
    *("sample", "sampler", "eval", "mesh", "log", "cluster", "compile", "posthoc", "usefulness"),
    "ema.use",
)


def load(spec: str, default: ConfigDict) -> ConfigDict:
    """Call the ``get_config`` of ``PATH.py`` or ``PATH.py:ARGUMENT`` and check it against the default.

    A path that is not there is looked for beside the program, so ``configs/digits.py`` is found from any folder.

    Raises:
      ConfigError: no such file, a file that fails, or a field that the default does not have or has with another type.
    """
    name, _, argument = spec.partition(":")
    path = _config_file(name)
    module_spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        values = (module.get_config(argument) if argument else module.get_config()).to_dict()
    except ConfigError:
        raise
    except Exception as error:  # a user's file may fail in any way
        raise ConfigError("--config", f"{_line(path, error)} does not make a config: {_said(error)}") from error
    return checked(values, default)


def _config_file(name: str) -> Path:
    path = Path(name) if Path(name).is_file() else HOME / name
    if not path.is_file():
        there = [str(p) for p in Path(name).parent.glob("*.py")] + [
            f"configs/{p.name}" for p in HOME.glob("configs/*.py")
        ]
        near = difflib.get_close_matches(name, there, n=1)
        raise ConfigError("--config", f"there is no file {name}" + (f"; did you mean {near[0]}?" if near else ""))
    if path.suffix != ".py":
        raise ConfigError("--config", f"{name} is not a Python file; a JSON config runs as configs/from_json.py:{name}")
    return path


def _line(path: Path, error: Exception) -> str:
    """path:line of the file's last part in a failure."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines = [error.lineno]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def from_json(path: Path, default: ConfigDict, field: str = "--config") -> ConfigDict:
    """The resolved config that a run left behind.

    Args:
      field: what the user gave to name the file.

    Raises:
      ConfigError: not a file, not JSON, or not a config of this program.
    """
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(field, f"there is no {path}; train first, or name the run's folder") from None
    except (OSError, ValueError) as error:
        raise ConfigError(field, f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(field, f"{path} does not hold a config: its sections must be one JSON object")
    return checked(values, default)


def checked(values: Mapping[str, Any], default: ConfigDict) -> ConfigDict:
    """A locked copy of ``default`` with ``values`` laid over it, every field checked."""
    config = ConfigDict(default.to_dict())
    for path, value in _leaves(values):
        set_field(config, path, value, default)
    return config.lock()


def override(config: ConfigDict, assignments: Sequence[str], default: ConfigDict | None = None) -> ConfigDict:
    """Lay ``a.b=value`` texts over an unlocked config, whose types are those of ``default``, or else its own."""
    like = ConfigDict((default or config).to_dict())
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(path, f"no value given; write --config.{path}=VALUE")
        set_field(config, path, text, like, parse=True)
    return config


def set_field(config: ConfigDict, path: str, value: Any, like: ConfigDict, parse: bool = False) -> None:
    """Set one field by its dotted path, keeping the field's type.

    Args:
      like: a config with the same fields; its values give the types.
      parse: ``value`` is text from a command line.

    Raises:
      ConfigError: there is no such field, or the value does not fit its type.
    """
    section, typed, names = config, like, path.split(".")
    for depth, name in enumerate(names):
        here = ".".join(names[:depth])
        if not isinstance(typed, ConfigDict):
            raise ConfigError(path, f"{here} is a value, not a section")
        if name not in typed:
            raise ConfigError(path, _no_such_field(here, name, typed))
        typed = typed[name]
        if depth < len(names) - 1 and isinstance(typed, ConfigDict):
            section = section[name]
    if isinstance(typed, ConfigDict):
        raise ConfigError(path, f"this is a section; its fields are {_fields(typed)}")
    section[names[-1]] = _fit(path, typed, _parse(path, typed, value) if parse else value)


def _no_such_field(section: str, name: str, there: ConfigDict) -> str:
    near = difflib.get_close_matches(name, list(there), n=1)
    prefix = f"{section}." if section else ""
    guess = f" did you mean {prefix}{near[0]}?" if near else ""
    return f"there is no such field;{guess} {section or 'the config'} has {_fields(there)}"


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
        return _parse_tuple(path, text.strip(), texts=not old or isinstance(old[0], str))
    try:
        number = float(text.replace("_", "")) if isinstance(old, float) or "e" in text.lower() else int(text)
    except ValueError:
        raise ConfigError(path, f"{text!r} is not {_kind(old)}") from None
    return int(number) if isinstance(old, int) and float(number).is_integer() else number


def _parse_tuple(path: str, text: str, texts: bool = False) -> tuple[Any, ...]:
    """The items of 3 or 1,2 or (1, 2) or [] or a,b or ('a', 'b'); ``texts``: a bare 0.10 stays the text it is."""

    def item(part: str) -> Any:
        try:
            found = ast.literal_eval(part)
        except (ValueError, SyntaxError):
            return part
        return part if texts and isinstance(found, (int, float)) else found

    whole, bare = item(text), text
    if isinstance(whole, (tuple, list)):
        if not texts or all(isinstance(part, str) for part in whole):
            return tuple(whole)
        bare = text.strip("()[]")
    elif text.startswith(("(", "[")):
        raise ConfigError(path, f"{text!r} is not a list; write --config.{path}=a,b or '(1, 2)'")
    return tuple(item(part.strip()) for part in bare.split(",") if part.strip())


def _fit(path: str, old: Any, value: Any) -> Any:
    """``value`` in the type of ``old``, or a ConfigError; an int passes for a float, never the other way round.

    A list's items have the type of the old one's; a list that is empty by default holds text.
    """
    if isinstance(old, tuple) and isinstance(value, (tuple, list)):
        return tuple(_fit(path, old[0] if old else "", item) for item in value)
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
