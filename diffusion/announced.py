"""A line before a compilation: a program that compiles for minutes looks like one that hangs."""

import functools
from collections.abc import Callable
from typing import Any

from diffusion.progress import say


def announced(what: str, program: Callable[..., Any]) -> Callable[..., Any]:
    """A jitted function that is called with one shape; its first call, which compiles it, is announced."""
    said = False

    @functools.wraps(program)
    def call(*given: Any) -> Any:
        nonlocal said
        if not said:
            said = True
            say(f"Compiling {what} …")
        return program(*given)

    return call
