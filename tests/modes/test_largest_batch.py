"""The search for the largest batch, on made-up compilers."""

import pytest

from diffusion.modes.largest_batch import COMPILATIONS, largest_batch

SPACE = 10_000


def line(batch):
    return 500 + 7 * batch


def padded(batch):
    """In steps, as a compiler that pads."""
    return 500 + 7 * 128 * -(-batch // 128)


def hopeless(batch):
    """That no memory is left for the compilation of what is far too large is no answer."""
    return line(batch) if line(batch) < 1.2 * SPACE else None


@pytest.mark.parametrize("needs, largest", [(line, 1357), (padded, 1280), (hopeless, 1357)])
@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("first", [8, 1000])
def test_it_is_found_within_a_few_percent(needs, largest, multiple, first):
    asked = []
    found = largest_batch(lambda batch: asked.append(batch) or needs(batch), (first, needs(first)), multiple, SPACE)
    assert found.compilations == len(asked) == len(set(asked)) <= COMPILATIONS
    assert all(batch % multiple == 0 for batch in asked)
    assert found.bytes_per_device == needs(found.batch_size) <= SPACE
    assert 0.9 * largest < found.batch_size <= largest
    assert found.too_large is None or found.batch_size < found.too_large


def test_a_line_takes_few_compilations():
    assert largest_batch(line, (64, line(64)), 2, SPACE).compilations <= 3


def test_where_not_even_the_smallest_fits():
    found = largest_batch(lambda batch: 2 * SPACE + batch, (64, 2 * SPACE + 64), 8, SPACE)
    assert found.batch_size == found.bytes_per_device == 0 and found.too_large <= 64
