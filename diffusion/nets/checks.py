"""Refusals that several rows share; a message begins with the name of the bad field."""

from collections.abc import Iterable


def at_least(least: int, **given: float) -> None:
    for field, value in given.items():
        if value < least:
            raise ValueError(f"{field} is {value}; it must be {least} or more")


def one_of(allowed: Iterable[str], **given: str) -> None:
    for field, name in given.items():
        if name not in allowed:
            raise ValueError(f"{field} is {name!r}; it is one of: {', '.join(allowed)}")


def divides_the_image(size: int, **given: int) -> None:
    """Each must be a positive divisor of the side of a square image."""
    at_least(1, **given)
    for field, value in given.items():
        if size % value:
            raise ValueError(f"{field} is {value}; it must divide the image size, {size}")
