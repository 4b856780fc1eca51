"""Augmentation: what it does to pixels, what the net is told, and that nothing of it reaches a drawn image."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs.default import get_config
from diffusion import batch_losses, keys, train
from diffusion.augment import AUGMENTS, SYM6, Moves, edm, label, move, resample
from diffusion.batch_losses import Diffusion
from diffusion.build import build
from diffusion.config import override
from diffusion.ema import EMAS
from diffusion.errors import ConfigError
from diffusion.guidance import THRESHOLDS
from diffusion.lr_schedules import LR_SCHEDULES, plateau_state
from diffusion.mesh import make_mesh, put_replicated, put_rows
from diffusion.nets.codec import CODECS
from diffusion.nets.conditions import AUGMENT, AugmentLabel
from diffusion.nets.conditions import label as label_condition
from diffusion.nets.layers import Dense, dropout
from diffusion.nets.model import Net, make_net
from diffusion.objective import DENSITIES, WEIGHTINGS
from diffusion.optim import CLIPS, OPTIMIZERS, make_optimizer
from diffusion.process import TARGETS, Process
from diffusion.sample_step import Guidance, Held, Sampling, make_sample_step
from diffusion.samplers import GRIDS, SAMPLERS
from diffusion.schedules import SCHEDULES
from diffusion.state import create
from diffusion.steps import Optimiser, make_train_step
from diffusion.types import Batch
from tests.tiny import program, state_print

H, W = 24, 32
NOTHING = Moves(*(np.bool_(False),) * 2, *np.zeros(4, np.float32), np.zeros(2, np.float32))
MOVES = {
    "xflip": {"xflip": True},
    "yflip": {"yflip": True},
    "larger": {"scale": 1.5},
    "smaller": {"scale": -2.5},
    "turned": {"angle": 0.7},
    "turned far": {"angle": -2.6},
    "stretched": {"stretch": 1.2, "direction": 0.5},
    "shrunk": {"stretch": -1.6, "direction": 2.2},
    "shifted": {"shift": (0.7, -1.3)},
    "shifted far beyond the border": {"shift": (-9.0, 12.0)},
    "all": {
        "xflip": True,
        "yflip": True,
        "scale": -0.8,
        "angle": 1.9,
        "stretch": 1.1,
        "direction": -1,
        "shift": (1, 2),
    },
}


def moves(**done) -> Moves:
    return NOTHING._replace(**{name: np.asarray(value, getattr(NOTHING, name).dtype) for name, value in done.items()})


def waves(x, y, h=H, w=W):
    """Two channels of a smooth picture that is known between its pixels; it mirrors itself at its border."""
    u, v = math.pi * x / (w - 1), math.pi * y / (h - 1)
    return np.stack([np.cos(u) + np.cos(2 * v), np.cos(2 * u) * np.cos(v) - np.cos(u)], axis=-1) / 2


def undone(m: Moves, h=H, w=W):
    """Where every pixel's content was before the moves: each is taken back, the last one first."""
    x, y = np.meshgrid(np.arange(w) - (w - 1) / 2, np.arange(h) - (h - 1) / 2)
    z = (x - m.shift[0] * w / 8) + 1j * (y - m.shift[1] * h / 8)
    z *= np.exp(-1j * m.direction)
    z = z.real * 2.0 ** (-0.2 * m.stretch) + 1j * z.imag * 2.0 ** (0.2 * m.stretch)
    z *= np.exp(1j * m.direction)
    z *= np.exp(-1j * m.angle)
    z *= 2.0 ** (-0.2 * m.scale)
    x, y = (-z.real if m.xflip else z.real), (-z.imag if m.yflip else z.imag)
    return x + (w - 1) / 2, y + (h - 1) / 2


def noise(h=H, w=W, c=3, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (h, w, c)).astype(np.float32)


moved = jax.jit(move)
resampled = jax.jit(resample)


@pytest.mark.parametrize("done", MOVES)
def test_a_moved_picture_is_the_picture_at_the_places_before(done):
    """Bilinear on half pixels is off by (w / 2)^2 / 8 at a frequency w: here twice .003 at the most."""
    m = moves(**MOVES[done])
    whole = waves(*np.meshgrid(np.arange(W), np.arange(H))).astype(np.float32)
    got, wanted = moved(whole, m), waves(*undone(m))
    assert np.abs(wanted - whole).max() > 0.2, "the picture does not show this move"
    np.testing.assert_allclose(got, wanted, atol=0.006)


def test_nothing_and_flips_are_exact():
    image = noise()
    aside = {"direction": 1.0}  # of no stretch
    np.testing.assert_array_equal(moved(image, moves(**aside)), image)
    np.testing.assert_array_equal(moved(image, moves(xflip=True)), image[:, ::-1])
    np.testing.assert_array_equal(moved(image, moves(yflip=True, **aside)), image[::-1])
    np.testing.assert_array_equal(moved(image, moves(xflip=True, yflip=True)), image[::-1, ::-1])


@pytest.mark.parametrize("right, down", [(0, 0), (3, 0), (0, -5), (-20, 11)])
def test_whole_pixels_keep_every_frequency(right, down):
    """The taps are orthonormal: the fine grid gives back even white noise, with the mirrored border beyond."""
    image = noise()
    beyond = np.pad(image, ((H - 1, H - 1), (W - 1, W - 1), (0, 0)), mode="reflect")
    wanted = beyond[H - 1 - down :][:H, W - 1 - right :][:, :W]
    np.testing.assert_allclose(
        resampled(image, np.eye(2, dtype=np.float32), np.float32([right, down])), wanted, atol=5e-6
    )


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_of_a_smooth_picture(quarters):
    """Not of noise: the wavelet is nearly symmetric, not quite, so fine detail differs by its direction."""
    whole = waves(*np.meshgrid(np.arange(W), np.arange(W)), h=W).astype(np.float32)
    turned = moved(whole, moves(angle=quarters * math.pi / 2))
    np.testing.assert_allclose(turned, np.rot90(whole, -quarters), atol=0.004)


def test_the_fine_grid_keeps_contrast_between_pixels():
    """Half a pixel aside, stripes of 4 pixels would lose 29 % of their contrast to bilinear filtering alone."""
    x = np.arange(W)
    stripes = np.broadcast_to(np.cos(math.pi / 2 * x)[None, :, None], (H, W, 1)).astype(np.float32)
    got = np.asarray(resampled(stripes, np.eye(2, dtype=np.float32), np.float32([0.5, 0])))[0, 12:20, 0]
    contrast = np.hypot(*(2 / 8 * np.sum(got * f(math.pi / 2 * x[12:20])) for f in (np.cos, np.sin)))
    assert 0.9 < contrast < 1.1


def test_the_filter_is_the_wavelet_with_six_vanishing_moments():
    """Orthonormal to its even shifts, and blind to polynomials up to degree 5 after alternating signs."""
    taps = np.array(SYM6)
    even = [np.sum(taps[2 * m :] * taps[: len(taps) - 2 * m]) for m in range(6)]
    np.testing.assert_allclose(even, [1, 0, 0, 0, 0, 0], atol=1e-11)
    k = np.arange(12) - 5.5
    np.testing.assert_allclose([np.sum((-1) ** np.arange(12) * taps * k**q) for q in range(6)], 0, atol=1e-7)


def test_one_pixel_can_be_moved():
    image = np.full((1, 1, 3), 0.5, np.float32)
    np.testing.assert_allclose(moved(image, moves(**MOVES["all"])), image, atol=1e-6)


def test_the_label_in_numbers():
    m = moves(xflip=True, scale=-1.5, angle=0.5, stretch=-2, direction=0.3, shift=(0.25, -0.75))
    wanted = [1, 0, -1.5, math.cos(0.5) - 1, math.sin(0.5), -2 * math.cos(0.3), -2 * math.sin(0.3), 0.25, -0.75]
    np.testing.assert_allclose(label(m), wanted, rtol=1e-6)
    np.testing.assert_array_equal(label(moves(yflip=True, direction=1.0)), [0, 1, 0, 0, 0, 0, 0, 0, 0])


N = 4000


@functools.cache
def drawn(p: float, **of_p) -> np.ndarray:
    """Labels of so many images, of one pixel each."""
    images = jnp.zeros((N, 1, 1, 1))
    return np.asarray(jax.jit(edm(p=p, **of_p).apply)(jax.random.split(jax.random.key(1), N), images)[1], np.float64)


OPS = {"xflip": [0], "yflip": [1], "scale": [2], "rotate": [3, 4], "anisotropy": [5, 6], "translate": [7, 8]}


def done(labels, op):
    return np.any(labels[:, OPS[op]] != 0, axis=1)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("p, of_p", [(0.12, 1.0), (0.3, 1.5), (0.3, 0.0), (0.3, 4.0), (1.0, 1.0)])
def test_chances(op, p, of_p):
    """Within five deviations of the binomial; certain things are certain."""
    named = dict.fromkeys(("scale", "rotate", "anisotropy", "translate"), of_p)
    chance = {"xflip": 0.5, "yflip": 0.5 * p}.get(op, min(p * of_p, 1.0))
    share = done(drawn(p, **named), op).mean()
    assert abs(share - chance) <= 5 * math.sqrt(chance * (1 - chance) / N)


def test_operations_are_drawn_apart():
    """Products of any two chances, within five deviations."""
    labels, chances = drawn(0.3), dict.fromkeys(OPS, 0.3) | {"xflip": 0.5, "yflip": 0.15}
    for a in OPS:
        for b in set(OPS) - {a}:
            both = chances[a] * chances[b]
            share = (done(labels, a) & done(labels, b)).mean()
            assert abs(share - both) <= 5 * math.sqrt(both * (1 - both) / N), (a, b)


def test_how_far_images_are_moved():
    """Normal draws have a deviation of 1 within 5 / sqrt(2 n); angles fill the circle evenly."""
    labels = drawn(1.0)
    normal = [labels[:, 2], np.hypot(labels[:, 5], labels[:, 6]), labels[:, 7], labels[:, 8]]
    for values in normal:
        assert abs(math.sqrt(np.mean(values**2)) - 1) < 5 / math.sqrt(2 * N)
    for sine, cosine in ((labels[:, 4], labels[:, 3] + 1), (labels[:, 6], labels[:, 5])):
        counts = np.histogram(np.arctan2(sine, cosine), bins=8, range=(-math.pi, math.pi))[0]
        assert np.abs(counts - N / 8).max() < 5 * math.sqrt(N / 8)
    for values in (labels[:, 2], labels[:, 7], labels[:, 8]):
        assert abs(np.mean(values)) < 5 / math.sqrt(N)


def test_how_far_does_not_depend_on_the_other_operations():
    """Correlations of squares, and of angles twice around, within five deviations."""
    xflip, yflip, scale, cos, sin, x, y, *shift = drawn(1.0).T
    turn, direction = np.exp(2j * np.angle(cos + 1 + 1j * sin)), np.exp(2j * np.angle(x + 1j * y))
    signs = [shift[0] * shift[1], shift[0] * scale, shift[1] * scale]
    apart = [
        xflip,
        yflip,
        scale**2,
        np.hypot(x, y) ** 2,
        shift[0] ** 2,
        shift[1] ** 2,
        turn.real,
        direction.real,
        *signs,
    ]
    found = np.corrcoef(apart) - np.eye(len(apart))
    assert np.abs(found).max() < 5 / math.sqrt(N)
    assert np.abs(np.mean(signs, axis=1)).max() < 5 / math.sqrt(N)


def test_what_is_switched_off_is_off():
    assert not drawn(0.0).any()
    assert not done(drawn(1.0, xflip=False), "xflip").any() and not done(drawn(1.0, yflip=False), "yflip").any()
    assert [edm().mirrors, edm(xflip=False).mirrors, edm(p=0.0).mirrors] == [True, False, False]


def test_a_label_of_zeros_is_an_image_that_was_left_alone():
    images = np.stack([noise(8, 8, 1, seed) for seed in range(200)])
    after, labels = jax.jit(edm(p=0.3).apply)(jax.random.split(jax.random.key(3), 200), images)
    alone, same = ~np.any(labels, axis=1), np.all(after == images, axis=(1, 2, 3))
    assert 10 < alone.sum() < 190
    np.testing.assert_array_equal(alone, same)


@pytest.mark.parametrize("name", AUGMENTS)
def test_every_row_keeps_shape_and_type_and_takes_each_image_by_itself(name):
    a, images = AUGMENTS[name](), np.stack([noise(8, 8, 1, seed) for seed in range(6)])
    some = jax.random.split(jax.random.key(3), 6)
    after, labels = jax.jit(a.apply)(some, images)
    assert (after.shape, after.dtype, labels.shape) == (images.shape, images.dtype, (6, a.numbers))
    backwards = jax.jit(a.apply)(some[::-1], images[::-1])
    np.testing.assert_allclose(backwards[0][::-1], after, atol=1e-6)
    np.testing.assert_array_equal(backwards[1][::-1], labels)


CLASSES, SHAPE, ROWS = 3, (8, 8, 1), 8
PROCESS = Process(SCHEDULES["cosine"](), TARGETS["v"]())
OPTIMISER = Optimiser(
    make_optimizer(OPTIMIZERS["adamw"](), CLIPS["global_norm"]()),
    LR_SCHEDULES["constant"](1e-2, 10),
    EMAS["constant"](),
    ema_every=1,
    micro_batches=1,
    strict=0,
    max_loss=0.0,
)


class Backbone(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise, ports, keys):
        h = Dense(4, name="first")(x)
        if ports.vec is not None:
            h = h * jnp.tanh(Dense(4, name="cond")(ports.vec))[:, None, None, :]
        return Dense(1, name="last")(dropout(h, keys, 0.2, 0))


def tiny_net(augmented: bool, labelled: bool = True) -> Net:
    conditioners = {"label": label_condition(CLASSES, d=4)} if labelled else {}
    told = AugmentLabel(9) if augmented else None
    return make_net(Backbone(), conditioners, SHAPE, {"label": jnp.zeros(1, jnp.int32)}, told)


def diffusion(row=None, net=None) -> Diffusion:
    density, weighting = DENSITIES["stratified"](PROCESS), WEIGHTINGS["unit"]()
    net = net or tiny_net(row is not None)
    return Diffusion(net, PROCESS, density, weighting, CODECS["pixels"](), 0.4, 0.1, row or AUGMENTS["none"]())


def batch(n_valid: int = ROWS, rows: int = ROWS, x=None) -> Batch:
    x, valid = noise(*SHAPE, seed=0)[None] * np.ones((rows, 1, 1, 1), np.float32) if x is None else x, np.arange(rows)
    valid, labels = valid < n_valid, (valid % CLASSES).astype(np.int32)
    x[~valid], labels[~valid] = np.nan, 1_000_000
    return Batch(x, {"label": labels}, np.arange(rows, dtype=np.int32), valid)


def seen_by_the_net(row, x=None, drop=True):
    """What the net of one step is given: x, c_noise, cond, null, keys."""
    d, slot = diffusion(row), jnp.arange(ROWS)

    @jax.jit
    def seen(batch):
        found = []
        spy = replace(d.net, apply=lambda params, *given: found.extend(given) or given[0])
        batch_losses.batch_losses(
            replace(d, net=spy), {}, None, batch, jax.random.key(5), slot, jnp.asarray(ROWS), drop
        )
        return found

    return seen(batch(x=x))


def test_the_other_draws_stay_what_they_are():
    """On black images, which no move changes, the net sees the same bits."""
    black = np.zeros((ROWS, *SHAPE), np.float32)
    plain, augmented = seen_by_the_net(None, black), seen_by_the_net(edm(p=1.0), black)
    assert AUGMENT not in plain[2] and np.asarray(augmented[2][AUGMENT]).any(axis=1).all()
    for i in (0, 1, 3):
        jax.tree.map(np.testing.assert_array_equal, plain[i], augmented[i])
    np.testing.assert_array_equal(jax.random.key_data(plain[4]), jax.random.key_data(augmented[4]))


def test_the_keys_of_augmentation_are_none_of_the_others():
    key = jax.random.key(5)
    others = [jax.random.key_data(k).tolist() for k in jax.random.split(key, 64)]
    mine = jax.random.fold_in(key, batch_losses.AUGMENT_FOLD)
    assert jax.random.key_data(mine).tolist() not in others
    labels = seen_by_the_net(edm(p=1.0))[2][AUGMENT]
    wanted = jax.jit(edm(p=1.0).apply)(keys.per_slot(mine, jnp.arange(ROWS)), jnp.zeros((ROWS, *SHAPE)))[1]
    np.testing.assert_array_equal(labels, wanted)


def test_validation_sees_images_as_they_are():
    plain, augmented = seen_by_the_net(None, drop=False), seen_by_the_net(edm(p=1.0), drop=False)
    assert AUGMENT not in augmented[2]
    np.testing.assert_array_equal(plain[0], augmented[0])


@functools.cache
def weights(seed=0):
    """Of the net that is told, none of them 0."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(tiny_net(True).init, jax.random.key(0))
    return jax.tree.map(lambda a: rng.normal(0, 0.5, a.shape).astype(np.float32), shapes)


def trained(row, devices=1, parts=1, told=True, steps=2, **given):
    params = weights() if told else {name: value for name, value in weights().items() if name != "augment"}
    mesh, net = make_mesh(devices), tiny_net(told)
    step = make_train_step(diffusion(row, net), replace(OPTIMISER, micro_batches=parts), mesh)
    state = put_replicated(mesh, create(jax.tree.map(jnp.asarray, params), OPTIMISER.tx, plateau_state(), seed=3))
    words = put_rows(mesh, np.zeros(devices, np.int32))
    for _ in range(steps):
        state, metrics = step(state, None, put_rows(mesh, batch(**given)), words)
    total, count = jax.device_get(metrics.sums["train/loss"])
    return jax.device_get(state), total / count


def test_with_chance_zero_training_is_that_without_augmentation():
    """Bit for bit, but for the weights that nothing reads: weight decay alone moves those."""
    (plain, loss), (augmented, other) = trained(None, told=False), trained(edm(p=0.0))
    assert loss == other
    rest = {name: value for name, value in augmented.params.items() if name != "augment"}
    jax.tree.map(np.testing.assert_array_equal, rest, plain.params)


def test_the_net_learns_from_what_it_is_told():
    moment = trained(edm(p=1.0), steps=1)[0].opt_state
    found = [np.asarray(a) for path, a in jax.tree.leaves_with_path(moment) if "augment" in jax.tree_util.keystr(path)]
    assert found and all(np.all(a != 0) for a in found)


def test_padding_devices_and_micro_batches_change_nothing():
    state, loss = trained(edm(p=1.0), n_valid=6, rows=6)
    assert np.isfinite(loss)
    for devices, parts in ((1, 1), (2, 2)):
        same, near = trained(edm(p=1.0), devices, parts, n_valid=6)
        np.testing.assert_allclose(near, loss, rtol=1e-5)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        jax.tree.map(close, same.params, state.params)


def test_nobody_is_told_when_images_are_drawn():
    """The weights of the numbers are large and never felt; with numbers they would be."""
    net, params = tiny_net(True), weights()
    params = params | {"augment": jax.tree.map(lambda a: 100 * a, params["augment"])}
    without = {name: value for name, value in params.items() if name != "augment"}
    mesh, grid = make_mesh(1), lambda: GRIDS["uniform"](PROCESS, 3)
    sampling = Sampling(SAMPLERS["ddim"](), grid, Guidance(1.5), THRESHOLDS["none"](PROCESS))
    step = make_sample_step(diffusion(edm(), net), sampling, mesh)
    plain = make_sample_step(diffusion(None, tiny_net(False)), sampling, mesh)
    cond, image_keys = {"label": jnp.arange(ROWS) % CLASSES}, jax.random.split(jax.random.key(0), ROWS)
    images = step(params, Held(), image_keys, cond, {})
    np.testing.assert_array_equal(images, plain(without, Held(), image_keys, cond, {}))
    told = {AUGMENT: jnp.zeros((ROWS, 9))}
    np.testing.assert_array_equal(images, step(params, Held(), image_keys, cond | told, {}))
    assert not np.array_equal(images, step(params, Held(), image_keys, cond | jax.tree.map(jnp.ones_like, told), {}))


@pytest.mark.parametrize("labelled, width", [(True, 4), (False, 128)])
def test_the_numbers_are_no_condition_and_join_the_others_at_their_width(labelled, width):
    net = tiny_net(True, labelled)
    assert net.conditions == (("label",) if labelled else ())
    params = net.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params["augment"]) == {"map": {"kernel": (9, width)}}
    assert abs(float(jnp.std(params["augment"]["map"]["kernel"])) * 3 - 1) < 0.5


def built(*said):
    return build(override(get_config().unlock(), said).lock())


def test_the_config_decides_whether_the_net_is_told():
    from diffusion.program import abstract_params

    assert "augment" not in abstract_params(built())
    assert abstract_params(built("augment.name=edm"))["augment"]["map"]["kernel"].shape == (9, 128)
    assert built("augment.name=edm", "augment.edm.xflip=false", "data.flip=true").transform.flip


def test_latents_are_refused(monkeypatch):
    pixels = CODECS["pixels"]
    monkeypatch.setitem(CODECS, "pixels", lambda image: replace(pixels(image), bounded=False))
    said = "sampler.threshold=none"
    assert not built(said).diffusion.codec.bounded
    with pytest.raises(ConfigError, match="^augment.name: edm is for pixels, and pixels makes latents: take none"):
        built(said, "augment.name=edm")


@pytest.mark.slow
def test_a_stopped_run_with_augmentation_goes_on_exactly(tmp_path):
    def run(workdir, steps):
        changed = {"augment__name": "edm", "augment__edm__p": 0.5, "val__every": 0, "sample__every": 0}
        changed |= {"eval__metrics": "()", "train__steps": steps}
        train.run(program(workdir, **changed))
        return state_print(workdir, **changed)[0]

    run(tmp_path / "halves", 3)
    assert run(tmp_path / "halves", 6) == run(tmp_path / "whole", 6)
