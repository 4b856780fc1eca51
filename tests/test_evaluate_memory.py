"""What an evaluation keeps: one copy of each network on the devices, features alone of the reals, no images."""

import gc
import weakref
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import main_jax
from diffusion import evaluate, networks, runs
from diffusion.metrics import distances
from diffusion.variants import drawing
from tests.evaluated import NO_CLASSIFIER, QUIET, stand_in
from tests.tiny import arguments, program

ODD = (1237,)  # a shape that nothing else has


def weights(p):
    return p.diffusion.net.init(jax.random.key(0))


def heavy(name):
    """A stand-in whose weights can be told among all arrays, and which has read the training images."""

    def make(given):
        given.train()
        return replace(stand_in(name)(given), frozen={"w": jnp.ones(ODD)})

    return make


def test_a_network_lies_once_on_the_devices_and_the_images_it_was_made_from_are_let_go(tmp_path, monkeypatch):
    splits, read = [], networks.labelled

    def noted(*args):
        found = read(*args)
        splits.append(weakref.ref(found))
        return found

    monkeypatch.setattr(networks, "labelled", noted)
    p = program(tmp_path / "run", **QUIET | NO_CLASSIFIER | {"eval__metrics": "fd,fid,clip_score"})
    p = replace(p, extractors={**p.extractors, "inception": heavy("inception-a"), "clip": heavy("clip-a")})
    evaluate.report(p, weights(p), 0)
    gc.collect()
    assert len(splits) == 1 and splits[0]() is None
    assert sum(array.shape == ODD for array in jax.live_arrays()) == 2, "one of each network"


def test_features_alone_are_kept_of_real_images(tmp_path):
    p = program(tmp_path / "run", **QUIET | NO_CLASSIFIER | {"eval__metrics": "fid"})
    p = replace(p, extractors={**p.extractors, "inception": stand_in("inception-stand-in")})
    evaluate.report(p, weights(p), 0)
    (path,) = (tmp_path / "run/cache").glob("reference-*.npz")
    assert set(np.load(path).files) == {"fingerprint", "features", "labels", "ids"}, "no logits"


def test_the_weaker_net_is_read_once_for_all_scales(tmp_path):
    weak = tmp_path / "weak"
    assert main_jax.main(arguments(weak, **QUIET | {"eval__metrics": "()", "train__steps": 1})) == 0
    p = program(tmp_path / "run", **QUIET | NO_CLASSIFIER | {"sampler__autoguidance": weak})
    first, second = (jax.tree.leaves(runs.weaker_weights(drawing(p, scale))) for scale in (2.0, 3.0))
    assert all(one is other for one, other in zip(first, second, strict=True))


def test_few_rows_at_once_where_they_are_long(monkeypatch):
    """A block of distances to a million training images is as large as one to a few thousand."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(40, 3))
    whole = distances.distances(x, y)
    monkeypatch.setattr(distances, "BLOCK", 200)
    parts = [part for part, _ in distances.chunks(x, y)]
    assert [part.stop - part.start for part in parts] == [5] * 10
    np.testing.assert_allclose(distances.distances(x, y), whole, rtol=1e-12)


def test_networks_see_as_many_images_at_a_time_as_are_drawn(tmp_path):
    """Not a training batch of them, which a large network may have no room for."""
    seen = set()

    def noting(given):
        one = stand_in("inception-stand-in")(given)

        def extract(frozen, images):
            seen.add(images.shape[0])
            return one.extract(frozen, images)

        return replace(one, extract=extract)

    p = program(tmp_path / "run", **QUIET | NO_CLASSIFIER | {"eval__metrics": "fid"})
    p = replace(p, extractors={**p.extractors, "inception": noting})
    evaluate.report(p, weights(p), 0)
    assert seen == {p.eval.batch_size} and p.eval.batch_size < p.loading.batch_size
