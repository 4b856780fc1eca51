import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.guidance import THRESHOLDS, cfg, compose, interval, known_pixels, rescale, spherical
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


GUIDED = NULL_X0 + 3.0 * (X0 - NULL_X0)


AT = 2 / 3  # sigma / alpha at T
INTERVALS = [(0.0, 0.0, True), (0.5, 0.0, True), (0.7, 0.0, False), (0.0, 0.5, False), (0.5, 0.7, True)]
INTERVALS += [(AT + 1e-4, 0.7, False), (0.1, AT - 1e-4, False)]


@pytest.mark.parametrize("low, high, guided", INTERVALS)
def test_guidance_in_an_interval(low, high, guided):
    """Outside, the answer is the condition's to the bit."""
    p = run(cfg(answering(X0), answering(NULL_X0), 3.0, interval(PROCESS, low, high)))
    alone = run(answering(X0))
    if guided:
        np.testing.assert_allclose(p.x0, GUIDED, atol=1e-5)
    else:
        np.testing.assert_array_equal(p.x0, alone.x0)
        np.testing.assert_array_equal(p.eps, alone.eps)


def test_pure_noise_lies_beyond_every_interval_with_an_end():
    denoise = cfg(answering(X0), answering(NULL_X0), 3.0, interval(PROCESS, 0.0, 1e9))
    np.testing.assert_array_equal(denoise(jnp.asarray(X_T), jnp.float32(1.0)).x0, X0)
    endless = cfg(answering(X0), answering(NULL_X0), 3.0, interval(PROCESS, 0.5, 0.0))
    np.testing.assert_allclose(endless(jnp.asarray(X_T), jnp.float32(1.0)).x0, GUIDED, atol=1e-5)


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescale_is_lins(phi):
    """Lin 2023, eq. 15 and 16, an image at a time, over all of its axes, with n - 1."""
    p = run(cfg(answering(X0, mark=jnp.ones(1)), answering(NULL_X0), 3.0, rescale(PROCESS, phi=phi)))
    wanted = []
    for guided, condition in zip(GUIDED.astype(np.float64), X0.astype(np.float64), strict=True):
        rescaled = guided * condition.std(ddof=1) / guided.std(ddof=1)
        wanted.append(phi * rescaled + (1 - phi) * guided)
    np.testing.assert_allclose(p.x0, np.stack(wanted), atol=2e-5)
    np.testing.assert_allclose(0.6 * p.x0 + 0.4 * p.eps, X_T, atol=1e-5)
    assert set(p.extra) == {"mark"}


def test_corrections_act_in_their_order():
    given = answering(X0), answering(NULL_X0), 3.0
    outside = run(cfg(*given, rescale(PROCESS, phi=1.0), interval(PROCESS, 5.0, 0.0)))
    np.testing.assert_array_equal(outside.x0, X0)
    inside = run(cfg(*given, rescale(PROCESS, phi=1.0), interval(PROCESS, 0.0, 5.0)))
    np.testing.assert_array_equal(inside.x0, run(cfg(*given, rescale(PROCESS, phi=1.0))).x0)


def test_conditions_with_a_scale_each():
    """u + 2 (a - u) + .5 (b - u); corrections see the answer to all of them."""
    a, b, whole = (RANDOM.standard_normal(X0.shape).astype(np.float32) for _ in range(3))
    given = answering(whole), answering(NULL_X0), [(answering(a), 2.0), (answering(b), 0.5)]
    wanted = NULL_X0 + 2.0 * (a - NULL_X0) + 0.5 * (b - NULL_X0)
    p = run(compose(*given))
    np.testing.assert_allclose(p.x0, wanted, atol=1e-5)
    np.testing.assert_allclose(0.6 * p.x0 + 0.4 * p.eps, X_T, atol=1e-5)
    np.testing.assert_array_equal(run(compose(*given, interval(PROCESS, 5.0, 0.0))).x0, whole)


def test_one_condition_with_its_scale_is_cfg():
    one = run(compose(answering(X0), answering(NULL_X0), [(answering(X0), 3.0)]))
    np.testing.assert_allclose(one.x0, run(cfg(answering(X0), answering(NULL_X0), 3.0)).x0, atol=1e-6)


def test_known_pixels_stay():
    mask = RANDOM.random((3, 6, 5, 1)) < 0.5
    p = run(known_pixels(PROCESS, jnp.asarray(NULL_X0), jnp.asarray(mask))(answering(X0)))
    np.testing.assert_array_equal(p.x0, np.where(mask, NULL_X0, X0))
    np.testing.assert_allclose(0.6 * p.x0 + 0.4 * p.eps, X_T, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_way_between_two_noises_lies_on_the_sphere(share):
    a, b = X_T.astype(np.float64), NULL_X0.astype(np.float64)
    b *= np.sqrt(np.sum(a**2, axis=(1, 2, 3), keepdims=True) / np.sum(b**2, axis=(1, 2, 3), keepdims=True))
    found = np.asarray(spherical(jnp.float32(a), jnp.float32(b), jnp.full(3, share)), np.float64)
    length, to_a = (np.linalg.norm(v.reshape(3, -1), axis=1) for v in (a, found))
    np.testing.assert_allclose(to_a, length, rtol=1e-5)
    whole, part = (np.arccos(np.sum(a * v, axis=(1, 2, 3)) / length**2) for v in (b, found))
    np.testing.assert_allclose(part, share * whole, atol=1e-3)


def test_between_a_noise_and_itself_there_is_nothing():
    np.testing.assert_allclose(spherical(jnp.asarray(X_T), jnp.asarray(X_T), jnp.full(3, 0.3)), X_T, rtol=1e-6)


@pytest.mark.parametrize("make, message", [
    (lambda: interval(PROCESS, -1.0, 2.0), "interval is"), (lambda: interval(PROCESS, 3.0, 2.0), "low < high"),
    (lambda: rescale(PROCESS, phi=1.5), "rescale is 1.5"),
])  # fmt: skip
def test_illegal_corrections_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


LINEAR = Process(SCHEDULES["decoupled"](), TARGETS["decoupled_linear"]())
Y, NULL_Y = (RANDOM.standard_normal((3, 6, 5, 6)).astype(np.float32) for _ in range(2))


def three_headed(y):
    return lambda x_t, t: LINEAR.predict(jnp.asarray(y), x_t, t)


OF_THREE = {  # name: (denoiser, w of K in u + w (c - u))
    "cfg": (cfg(three_headed(Y), three_headed(NULL_Y), 3.0), 3.0),
    "a scale each": (
        compose(three_headed(Y), three_headed(NULL_Y), [(three_headed(Y), 2.0), (three_headed(Y), 0.5)]),
        2.5,
    ),
    "rescaled": (cfg(three_headed(Y), three_headed(NULL_Y), 3.0, rescale(LINEAR, phi=0.7)), 3.0),
    "outside the interval": (cfg(three_headed(Y), three_headed(NULL_Y), 3.0, interval(LINEAR, 50.0, 0.0)), 1.0),
    **{name: (THRESHOLDS[name](LINEAR)(three_headed(Y)), 1.0) for name in THRESHOLDS},
    "known pixels": (known_pixels(LINEAR, jnp.asarray(X0), X_T[..., :1] > 0)(three_headed(Y)), 1.0),
}


@pytest.mark.parametrize("name", OF_THREE)
def test_a_third_variable_is_part_of_the_line(name):
    denoise, w = OF_THREE[name]
    p = run(denoise)
    alpha, sigma, kappa = 1 - T, T**0.5, 0.5 * T * (T - 1)
    np.testing.assert_allclose(alpha * p.x0 + sigma * p.eps + kappa * p.extra["K"], X_T, atol=3e-5)
    np.testing.assert_allclose(p.extra["K"], NULL_Y[..., 4:] + w * (Y[..., 4:] - NULL_Y[..., 4:]), atol=1e-5)
