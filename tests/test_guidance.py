import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.guidance import THRESHOLDS, cfg
from diffusion.process import TARGETS, Process
from diffusion.schedules import SCHEDULES
from diffusion.types import Prediction

PROCESS = Process(SCHEDULES["flow"](), TARGETS["x0"]())
T = 0.4  # on the flow schedule alpha = .6, sigma = .4
RANDOM = np.random.default_rng(0)
X_T, X0, NULL_X0 = (s * RANDOM.standard_normal((3, 6, 5, 2)).astype(np.float32) for s in (1, 1, 1))
X0 *= np.array([0.2, 1.0, 4.0], np.float32).reshape(3, 1, 1, 1)  # inside [-1, 1], around it, far beyond


def answering(x0, **extra):
    def denoise(x_t, t):
        return Prediction(jnp.asarray(x0), (x_t - 0.6 * x0) / 0.4, extra)

    return denoise


def run(denoise) -> Prediction:
    return jax.tree.map(np.asarray, denoise(jnp.asarray(X_T), jnp.float32(T)))


SCALES = {  # name: (w, the x0 it leads to)
    "1 is the condition alone": (1.0, X0),
    "0 is the null alone": (0.0, NULL_X0),
    "beyond 1 it exaggerates": (3.5, NULL_X0 + 3.5 * (X0 - NULL_X0)),
    "one per image": (
        np.array([0.0, 1.0, 2.0], np.float32),
        np.stack([NULL_X0[0], X0[1], 2 * X0[2] - NULL_X0[2]]),
    ),
}


@pytest.mark.parametrize("name", SCALES)
def test_classifier_free_guidance(name):
    w, wanted = SCALES[name]
    p = run(cfg(answering(X0, mark=jnp.ones(1)), answering(NULL_X0), w))
    np.testing.assert_allclose(p.x0, wanted, atol=1e-5)
    np.testing.assert_allclose(p.eps, (X_T - 0.6 * wanted) / 0.4, atol=5e-5)
    assert set(p.extra) == {"mark"}


def imagen(x0: np.ndarray, quantile: float, maximum: float) -> np.ndarray:
    found = []
    for image in x0.astype(np.float64):
        s = min(max(np.quantile(np.abs(image), quantile, method="linear"), 1.0), maximum)
        found.append(np.clip(image, -s, s) / s)
    return np.stack(found)


CASES = {  # name: (threshold, keywords, the x0 it leads to)
    "none": ("none", {}, X0),
    "clip": ("clip", {}, np.clip(X0, -1, 1)),
    "clip at 2": ("clip", {"limit": 2.0}, np.clip(X0, -2, 2)),
    "dynamic": ("dynamic", {}, imagen(X0, 0.995, 3.0)),
    "dynamic at .9": ("dynamic", {"quantile": 0.9, "maximum": 100.0}, imagen(X0, 0.9, 100.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_thresholds(name):
    threshold, keywords, wanted = CASES[name]
    p = run(THRESHOLDS[threshold](PROCESS, **keywords)(answering(X0, mark=jnp.ones(1))))
    np.testing.assert_allclose(p.x0, wanted, atol=1e-5)
    np.testing.assert_allclose(0.6 * p.x0 + 0.4 * p.eps, X_T, atol=1e-5)
    assert set(p.extra) == {"mark"}


def test_dynamic_is_not_the_clip():
    clipped, dynamic = (run(THRESHOLDS[name](PROCESS)(answering(X0))).x0 for name in ("clip", "dynamic"))
    np.testing.assert_array_equal(dynamic[0], X0[0])
    assert np.abs(dynamic[2] - clipped[2]).max() > 0.3


def test_behind_a_clip_dynamic_does_nothing():
    clipped = THRESHOLDS["clip"](PROCESS)(answering(X0))
    both = THRESHOLDS["dynamic"](PROCESS)(clipped)
    np.testing.assert_array_equal(run(both).x0, run(clipped).x0)


ILLEGAL = {  # name: (threshold, keywords, what the message says)
    "a clip at 0": ("clip", {"limit": 0.0}, "limit is 0"),
    "dynamic that is the clip": ("dynamic", {"maximum": 1.0}, "must exceed 1.*threshold=clip"),
    "dynamic below the clip": ("dynamic", {"maximum": 0.5}, "must exceed 1"),
    "quantile 0": ("dynamic", {"quantile": 0.0}, r"\(0, 1\]"),
    "quantile in percent": ("dynamic", {"quantile": 99.5}, r"\(0, 1\]"),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal_keywords_are_refused(name):
    threshold, keywords, message = ILLEGAL[name]
    with pytest.raises(ValueError, match=message):
        THRESHOLDS[threshold](PROCESS, **keywords)
