"""The same bytes in more than one file."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from diffusion.data.listing import Listing, class_of

NAMED = 3  # contents that a report names


class Place(NamedTuple):
    """A file, by its path, and the split that it is in."""

    path: str
    split: str


class Duplicates(NamedTuple):
    """What is there more than once.

    Attributes:
      across: files of the same bytes that are not all of one split and one class, by their sha256.
      within: files that are copies of another one of their own split and class.
    """

    across: dict[str, list[Place]]
    within: int


def duplicates(listing: Listing) -> Duplicates:
    """Of all files whose hash is known, in the listing's order."""
    places: dict[str, list[Place]] = defaultdict(list)
    for split, files in listing.splits.items():
        for path, content in files.items():
            places[content].append(Place(path, split))
    places.pop("", None)
    homes = {content: {(place.split, class_of(place.path)) for place in found} for content, found in places.items()}
    across = {content: found for content, found in places.items() if len(homes[content]) > 1}
    return Duplicates(across, sum(len(found) - len(homes[content]) for content, found in places.items()))


def report(found: Duplicates) -> str:
    """What a person should know of them; "" where there are none."""
    lines = []
    if found.across:
        splits = _several(found, lambda place: place.split)
        classes = _several(found, lambda place: class_of(place.path))
        first = "; ".join(_equal(places) for places in list(found.across.values())[:NAMED])
        more = "; …" * (len(found.across) > NAMED)
        where = f"in two splits ({splits} times) or in two classes ({classes} times)"
        lines.append(f"the same bytes lie {where}: {first}{more}")
    if found.within:
        lines.append(f"{found.within} files are copies of another one of their own split and class")
    return "; and ".join(lines)


def _several(found: Duplicates, of: Callable[[Place], str]) -> int:
    """Contents of several ``of``."""
    return sum(len({of(place) for place in places}) > 1 for places in found.across.values())


def _equal(places: list[Place]) -> str:
    return " = ".join(f"{path} ({split})" for path, split in places[:NAMED]) + " = …" * (len(places) > NAMED)
