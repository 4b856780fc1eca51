import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.nets.classifier import Classifier


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 12, 3), (32, 32, 3)])
def test_features_and_logits_of_any_size(shape):
    model = Classifier(classes=5)
    x = jnp.zeros((2, *shape))
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    features, logits = jax.eval_shape(model.apply, params, x)
    assert (features.shape, logits.shape) == ((2, 128), (2, 5))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, features, logits))} == {jnp.dtype("float32")}
    assert set(params) == {"params"}


def test_too_small_an_image():
    with pytest.raises(ValueError, match="at least 8 x 8; got 8 x 7"):
        Classifier(3).init(jax.random.key(0), jnp.zeros((1, 8, 7, 1)))


def test_an_images_features_depend_on_it_alone():
    model = Classifier(classes=3)
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), x)
    apply = jax.jit(model.apply)
    features, logits = apply(params, x)
    moved, _ = apply(params, x.at[1:].add(0.5))
    np.testing.assert_allclose(moved[0], features[0], rtol=1e-6)
    assert not np.allclose(moved[1], features[1])
    head = params["params"]["head"]
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"][None], rtol=1e-5, atol=1e-6)
