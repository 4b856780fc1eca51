"""Python's frames in one chunk."""

import resource
import sys

import pytest

from diffusion.frames import SLOTS, in_one_chunk


def test_a_function_is_the_same_with_more_room():
    more = 1

    def plain(a, b=2, *rest, key=4):
        """Says so."""
        return a, b, rest, key, more

    roomy = in_one_chunk(plain)
    assert roomy(1) == (1, 2, (), 4, 1) and roomy(1, 3, 5, key=6) == (1, 3, (5,), 6, 1)
    assert (roomy.__name__, roomy.__doc__, roomy.__kwdefaults__) == (plain.__name__, "Says so.", {"key": 4})
    assert roomy.__code__.co_stacksize > SLOTS > plain.__code__.co_stacksize


def test_calls_go_as_deep_as_python_lets_them():
    deep = lambda n: n and 1 + deep(n - 1)  # noqa: E731
    assert in_one_chunk(deep)(500) == 500
    with pytest.raises(RecursionError):
        in_one_chunk(deep)(sys.getrecursionlimit() + 1)


def test_what_is_raised_inside_arrives():
    with pytest.raises(ZeroDivisionError):
        in_one_chunk(lambda: 1 // 0)()


def test_no_call_maps_memory():
    """In a chunk of 16 KiB there is a depth at which every call does; where none does, `in_one_chunk` can go."""
    assert most_faults() >= CALLS and in_one_chunk(most_faults)() < CALLS / 10


CALLS = 300


def most_faults():
    """Page faults of so many calls, at the depth where they are most."""
    return max(faults_at(depth) for depth in range(300))


def faults_at(depth):
    if depth:
        return faults_at(depth - 1)
    before = page_faults()
    for _ in range(CALLS):
        one_call(1, 2, 3)
    return page_faults() - before


def one_call(a, b, c):
    return a


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
