"""A split as a JSON file: what a run leaves, and what a person may write by hand."""

import json
from collections.abc import Mapping
from typing import Any

from diffusion.data.duplicates import duplicates
from diffusion.data.listing import SPLITS, Listing

VERSION = 1


def text(listing: Listing) -> str:
    """The file, a line a path. File names that are no UTF-8 survive as escapes."""
    found = duplicates(listing)
    body = {
        "version": VERSION,
        "drawn": dict(listing.drawn),
        "classes": listing.classes,
        "counts": listing.counts(),
        "duplicates": {
            "across": [{place.path: place.split for place in places} for places in found.across.values()],
            "within": found.within,
        },
        "splits": {split: dict(files) for split, files in listing.splits.items()},
    }
    return json.dumps(body, indent=1) + "\n"


def parsed(content: str) -> Listing:
    """What a file says. Only "splits" must be there: train and test, and val if wanted.

    Each holds {path: sha256, or "" if unknown}, or a list of paths. What else a run writes may be missing.

    Raises:
      ValueError: it is none, or contradicts itself.
    """
    body = json.loads(content, object_pairs_hook=_once)
    if not isinstance(body, dict) or not isinstance(body.get("splits"), dict):
        raise ValueError('it has no object "splits"')
    if body.get("version", VERSION) != VERSION:
        raise ValueError(f"it is of version {body['version']!r}; this program knows version {VERSION}")
    splits = {split: _files(split, body["splits"][split]) for split in SPLITS if split in body["splits"]}
    if unknown := set(body["splits"]) - set(SPLITS):
        raise ValueError(f"it has a split {min(unknown)!r}; there may be {', '.join(SPLITS)}")
    if lacking := [split for split in ("train", "test") if not splits.get(split)]:
        raise ValueError(f"it has no files in {lacking[0]!r}; train and test are needed")
    where: dict[str, str] = {}
    for split, files in splits.items():
        if both := [path for path in files if path in where]:
            raise ValueError(f"{both[0]} is in {where[both[0]]!r} and in {split!r}")
        where |= dict.fromkeys(files, split)
    classes, drawn = body.get("classes", []), body.get("drawn", {})
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes) and isinstance(drawn, dict)):
        raise ValueError('"classes" must be a list of names, and "drawn" an object')
    return Listing(tuple(classes), splits, drawn)


def _files(split: str, value: Any) -> dict[str, str]:
    if isinstance(value, list) and all(isinstance(path, str) for path in value):
        found = _once([(path, "") for path in value])
    elif isinstance(value, Mapping):
        found = dict(value)
    else:
        raise ValueError(f"split {split!r} is neither a list of paths nor an object of paths and hashes")
    if wrong := [path for path, content in found.items() if not isinstance(content, str)]:
        raise ValueError(f'the hash of {wrong[0]} is no text; give its sha256, or ""')
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON itself lets the last of two equal names win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found
