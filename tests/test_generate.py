"""Which images are drawn, and that an image depends on its class and index alone."""

import jax
import numpy as np
import pytest

from diffusion.errors import ConfigError
from diffusion.generate import asked_labels, images
from diffusion.plan import indices
from tests.tiny import program

NAMES = ("cat", "dog", "7", "owl")
ASKED = [  # sample.classes, sample.num, the labels
    ("", 6, [0, 1, 2, 3, 0, 1]),
    ("3,3,1", 5, [3, 3, 1, 3, 3]),
    ("3,3,1", 2, [3, 3]),
    ("dog", 2, [1, 1]),
    (" owl , 0 ", 3, [3, 0, 3]),
    ("7", 1, [2]),
    ("3:2,0:1", 64, [3, 3, 0]),
    ("cat:1, owl:2,", 64, [0, 3, 3]),
    ("dog:1,dog:1", 64, [1, 1]),
]
REFUSED = [  # sample.classes, what is said
    ("bird", "'bird' is not a class; they are cat, dog, 7, owl"),
    ("4", "'4' is not a class"),
    ("-1", "'-1' is not a class"),
    ("3,dog:2", "'3' has no count"),
    ("3:two", "'3' has no count"),
    ("3:-1", "'3' has no count"),
    ("3:²", "'3' has no count"),
    ("3:0", "'3' has no count"),
    ("bird:2", "'bird' is not a class"),
]


@pytest.mark.parametrize("classes, num, labels", ASKED)
def test_asked_labels(classes, num, labels):
    assert asked_labels(classes, num, NAMES).tolist() == labels


def test_a_name_comes_before_an_index():
    assert asked_labels("1,3,0", 3, ("1", "2", "3")).tolist() == [0, 2, 0]


def test_without_labels_there_is_one_class():
    assert asked_labels("", 3, ()).tolist() == [0, 0, 0]
    assert asked_labels("0:2", 64, ()).tolist() == [0, 0]


@pytest.mark.parametrize("classes, said", REFUSED)
def test_classes_that_are_not_there_are_refused(classes, said):
    with pytest.raises(ConfigError) as refused:
        asked_labels(classes, 8, NAMES)
    assert str(refused.value).startswith("sample.classes: ") and said in str(refused.value)


def test_an_index_counts_the_images_of_its_class():
    assert indices(np.array([3, 3, 0, 3, 0])).tolist() == [0, 1, 0, 2, 1]
    assert indices(np.array([], int)).tolist() == []


LABEL = np.array([0, 1, 2, 3, 4, 4, 4, 0, 9, 5, 6])
INDEX = np.array([0, 0, 0, 0, 0, 1, 2, 1, 0, 3, 0])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Images of (LABEL, INDEX) by devices, batch, order, seed and purpose; with random weights, none of them 0."""
    workdir = tmp_path_factory.mktemp("drawn")
    made = {}

    def draw(devices, batch, order, seed=0, purpose="sample", sampler="ddpm"):
        shape = (devices, batch, sampler)
        if shape not in made:
            made[shape] = program(
                workdir, mesh__data=devices, eval__batch_size=batch, sampler__name=sampler, sampler__steps=3
            )
        p = made[shape]
        leaves, tree = jax.tree.flatten(jax.eval_shape(lambda: p.diffusion.net.init(jax.random.key(0))))
        rng = np.random.default_rng(0)
        params = tree.unflatten([rng.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves])
        found = np.empty((len(LABEL), 8, 8, 1), np.uint8)
        found[order] = images(p, params, LABEL[order], INDEX[order], seed=seed, purpose=purpose)
        return found

    return draw


@pytest.fixture(scope="module")
def reference(drawn):
    found = drawn(1, 4, np.arange(11))
    assert found.std() > 10, "pictures of something"
    return found


def same(a, b):
    """Equal, but for pixels that rounding puts on the other side of a half."""
    apart = np.abs(a.astype(int) - b.astype(int))
    return apart.max() <= 1 and np.mean(apart > 0) < 0.02


@pytest.mark.parametrize("devices, batch", [(2, 6), (8, 16)])
def test_devices_and_batches_do_not_matter(drawn, reference, devices, batch):
    assert same(drawn(devices, batch, np.arange(11)), reference)


def test_the_order_asked_in_does_not_matter(drawn, reference):
    assert same(drawn(1, 4, np.arange(11)[::-1]), reference)


def test_seed_purpose_class_and_index_do(drawn, reference):
    assert not same(drawn(1, 4, np.arange(11), seed=1), reference)
    assert not same(drawn(1, 4, np.arange(11), purpose="evaluate"), reference)
    assert len({image.tobytes() for image in reference}) == len(reference)
