"""What a checkpoint holds, in words: the shape and type of every leaf, and a seal over it all."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from diffusion.leaves import by_path

Manifest = dict[str, dict[str, Any]]


class Damaged(Exception):
    """Something in a checkpoint is not what was written; the message says what."""


def manifest(tree: Any) -> Manifest:
    """``{path: {"shape": [...], "dtype": "float32"}}`` of arrays or of their abstract shapes."""
    return {path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for path, leaf in by_path(tree).items()}


def mismatches(saved: Manifest, wanted: Manifest) -> list[str]:
    """One line per leaf that is missing, unexpected or of another shape or type; empty when they fit."""
    missing = [f"missing     {path}: wanted {_say(wanted[path])}" for path in sorted(set(wanted) - set(saved))]
    unexpected = [f"unexpected  {path}: saved {_say(saved[path])}" for path in sorted(set(saved) - set(wanted))]
    both = sorted(path for path in set(saved) & set(wanted) if saved[path] != wanted[path])
    mismatched = [f"mismatched  {path}: saved {_say(saved[path])}, wanted {_say(wanted[path])}" for path in both]
    return missing + unexpected + mismatched


def _say(leaf: Mapping[str, Any]) -> str:
    return f"{leaf['dtype']}[{' '.join(map(str, leaf['shape']))}]"


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A line for every key of two fingerprints, plain JSON, that is not the same."""
    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return [f"{key}: there {_short(found.get(key))}, here {_short(wanted.get(key))}" for key in keys]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as plain JSON beside its sha256.

    Raises:
      ValueError, TypeError: the body holds something JSON cannot say (a NaN, an array).
    """
    plain = json.loads(_canonical(body))
    return {"seal": _sha256(plain), "body": plain}


def unsealed(text: str, name: str = "its metadata") -> dict[str, Any]:
    """The body inside a sealed JSON text. Raises Damaged when a single meaningful character differs."""
    try:
        found = json.loads(text)
        seal, body = found["seal"], found["body"]
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{name} is not readable ({type(error).__name__})") from error
    if seal != _sha256(body):
        raise Damaged(f"{name} does not match its checksum")
    return body


def json_sha256(value: Any) -> str:
    """sha256 in hex of a JSON value, whatever the order of its keys."""
    return _sha256(json.loads(_canonical(value)))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _sha256(plain: Any) -> str:
    return hashlib.sha256(_canonical(plain).encode()).hexdigest()
