"""What may change between a saved run and its resume, as data, and the refusal of everything else."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusion.errors import ConfigError, MismatchError

Difference = tuple[str, Any, Any]

ABSENT = "<absent>"

# A section ends in a dot, a field of any section begins with one, the rest are whole names. The last three lines speak
# of what an unreadable record does from here on and of how this command starts, not of what was trained.
FREE = (
    *("log.", "eval.", "sample.", "mesh."),
    ".every",
    *("train.max_minutes", "train.patience", "train.debug", "checkpoint.keep_every"),
    *("data.on_error", "data.max_skipped"),
    *("data.encodings", "encode."),  # what they hold is compared, with the data
    *("resume.", "checkpoint.resume", "cluster.", "compile.", "bench.", "posthoc.", "usefulness."),
    "ema.snapshot_every",
)


def is_free(path: str, *, depends_on_steps: bool) -> bool:
    """Whether a field may differ on resume; ``train.steps`` may where the rate does not depend on it."""
    if path == "train.steps":
        return not depends_on_steps
    return any(
        path.startswith(rule) if rule.endswith(".") else path.endswith(rule) if rule.startswith(".") else path == rule
        for rule in FREE
    )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"optim.lr": value}`` of a nested config."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        path = f"{prefix}{name}"
        found.update(flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return found


def config_differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], free: Callable[[str], bool]
) -> list[Difference]:
    """(path, saved, wanted) of every field that differs and is not free, by path.

    Lists equal tuples, 1 equals 1.0, True does not equal 1; a field that one side lacks reads `ABSENT`.
    """
    old, new = flat(saved), flat(wanted)
    pairs = [(path, old.get(path, ABSENT), new.get(path, ABSENT)) for path in sorted({*old, *new})]
    return [pair for pair in pairs if not free(pair[0]) and _plain(pair[1]) != _plain(pair[2])]


def completed(saved: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A config that an older version wrote, with the fields that came later at their defaults: those change nothing."""
    return {
        **saved,
        **{
            name: completed(saved.get(name, {}), value) if isinstance(value, Mapping) else saved.get(name, value)
            for name, value in defaults.items()
        },
    }


def check_config(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], *, depends_on_steps: bool, allow: Sequence[str] = ()
) -> list[Difference]:
    """The differences that ``resume.allow`` lets through, for the caller to say aloud and to log.

    Raises:
      ConfigError: ``allow`` names no field or section of either config.
      MismatchError: a field differs that may not; every such field stands there with both values.
    """
    fields = {*flat(saved), *flat(wanted)}
    for name in allow:
        if not any(_covers(name, path) for path in fields):
            raise ConfigError("resume.allow", f"{name!r} is not a field of the config")
    found = config_differences(saved, wanted, lambda path: is_free(path, depends_on_steps=depends_on_steps))
    refused = [d for d in found if not any(_covers(name, d[0]) for name in allow)]
    if refused:
        lines = "\n".join(f"  {path}: saved {_say(old)}, asked {_say(new)}" for path, old, new in refused)
        names = ", ".join(f'"{path}"' for path, _, _ in refused)
        raise MismatchError(
            "this run was started with another config, and these fields may not change on resume:\n"
            f"{lines}\ntake another workdir, go back to the saved values, or allow it knowingly: "
            f"--config.resume.allow=({names},)"
        )
    return found


def _covers(name: str, path: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _say(value: Any) -> str:
    return value if value is ABSENT else repr(value)


def _plain(value: Any) -> tuple[bool, Any]:
    return isinstance(value, bool), json.loads(json.dumps(value))
