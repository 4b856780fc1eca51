import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import keys
from diffusion.keys import STREAMS


def bits(key) -> tuple:
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_streams_of_seeds_never_meet():
    found = [bits(keys.stream(seed, purpose)) for seed, purpose in itertools.product(range(3), STREAMS)]
    assert len(set(found)) == 3 * len(STREAMS)


def test_a_stream_is_the_seed_and_the_place_of_its_purpose():
    # the places are part of every run's results: a purpose is appended, never moved
    assert STREAMS[:6] == ("init", "train", "validate", "evaluate", "sample", "grid")
    for place, purpose in enumerate(STREAMS):
        wanted = bits(jax.random.fold_in(jax.random.key(7), place))
        assert bits(keys.stream(7, purpose)) == bits(keys.of_purpose(jax.random.key(7), purpose)) == wanted


def test_an_unknown_purpose_is_refused():
    with pytest.raises(ValueError):
        keys.stream(0, "tarin")


def test_a_slot_has_its_key_wherever_it_stands():
    key = keys.stream(0, "train")
    whole = keys.per_slot(key, jnp.arange(8))
    assert jnp.issubdtype(whole.dtype, jax.dtypes.prng_key) and len({bits(k) for k in whole}) == 8
    part = keys.per_slot(key, jnp.asarray([5, 2]))
    assert [bits(k) for k in part] == [bits(whole[5]), bits(whole[2])]


def test_an_image_has_its_key_by_class_and_index():
    key = keys.stream(0, "sample")
    label, index = (jnp.asarray(a) for a in zip(*itertools.product(range(4), range(4)), strict=True))
    whole = keys.per_image(key, label, index)
    assert len({bits(k) for k in whole}) == 16, "class 1 image 2 is not class 2 image 1"
    again = keys.per_image(key, jnp.asarray([2]), jnp.asarray([1]))
    assert bits(again[0]) == bits(whole[9])
    assert bits(again[0]) == bits(jax.random.fold_in(jax.random.fold_in(key, 2), 1))
