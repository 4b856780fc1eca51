import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.objective import DENSITIES, WEIGHTINGS, denoising_losses
from diffusion.process import TARGETS, Process
from diffusion.schedules import SCHEDULES

SD = 0.7


def process(schedule: str = "cosine", target: str = "v", sigma_data: float = SD) -> Process:
    return Process(SCHEDULES[schedule](), TARGETS[target](), sigma_data)


def cosine(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma in float64."""
    alpha = np.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    return alpha, np.sqrt(1 - alpha**2)


TIMES = np.array([0.05, 0.2, 0.35, 0.5, 0.7, 0.9])
ALPHA, SIGMA = cosine(TIMES)
SNR = (ALPHA / SIGMA) ** 2
S = SIGMA / ALPHA
EDM = (SIGMA**2 + (ALPHA * SD) ** 2) / (SIGMA * SD) ** 2  # on x0: (s^2 + sd^2) / (s sd)^2 with s = sigma / alpha

WEIGHTS = {  # (weighting, keywords, target): lambda at TIMES on the cosine schedule
    ("unit", (), "v"): np.ones(6),
    ("unit", (), "eps"): np.ones(6),
    ("min_snr", (), "x0"): np.minimum(SNR, 5),
    ("min_snr", (), "eps"): np.minimum(SNR, 5) / SNR,
    ("min_snr", (), "v"): np.minimum(SNR, 5) / (SNR + 1),
    ("min_snr", (("gamma", 1.0),), "eps"): np.minimum(SNR, 1) / SNR,
    ("edm", (), "x0"): EDM,
    ("edm", (), "eps"): EDM / SNR,
    ("edm", (), "edm"): np.ones(6),
    ("soft_min_snr", (), "x0"): SNR / (1 + SNR * SD**2),
    ("soft_min_snr", (), "edm"): (S * SD / (S**2 + SD**2)) ** 2,  # k-diffusion
    ("p2", (), "eps"): 1 / (1 + SNR),
    ("p2", (("gamma", 0.5), ("k", 2.0)), "x0"): SNR / (2 + SNR) ** 0.5,
    ("velocity", (), "velocity"): np.ones(6),
    ("uncertainty", (), "eps"): EDM / SNR,
}


@pytest.fixture(scope="module")
def weights() -> dict:
    def everything(t):
        return {
            (name, keywords, target): WEIGHTINGS[name](**dict(keywords)).weigh(process("cosine", target), t)
            for name, keywords, target in WEIGHTS
        }

    return dict(zip(WEIGHTS, jax.jit(lambda t: list(everything(t).values()))(jnp.float32(TIMES)), strict=True))


@pytest.mark.parametrize("case", WEIGHTS, ids=str)
def test_weightings_in_closed_form(weights, case):
    assert (SNR > 5).any() and (SNR < 1).any()
    np.testing.assert_allclose(weights[case], WEIGHTS[case], rtol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_edm_weighs_its_own_target_with_1_everywhere(schedule):
    p = process(schedule, "edm")
    times = jnp.linspace(p.schedule.t_min, p.schedule.t_max, 7)
    np.testing.assert_allclose(WEIGHTINGS["edm"]().weigh(p, times), 1.0, rtol=1e-4)


def weighable(schedule: str, target: str, weighting: str) -> bool:
    if weighting in ("bounded_exp", "ddm"):
        return target.startswith("decoupled")
    if weighting == "velocity" and schedule == "edm":
        return False
    return weighting == "unit" or not target.startswith("decoupled")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_are_finite_at_both_ends(schedule):
    for target in ("v", "decoupled", "decoupled_linear") if schedule == "decoupled" else ("v",):
        p = process(schedule, target)
        ends = jnp.asarray([p.schedule.t_min, p.schedule.t_max])
        for weighting in WEIGHTINGS:
            if weighable(schedule, target, weighting):
                found = np.asarray(WEIGHTINGS[weighting]().weigh(p, ends))
                assert np.isfinite(found).all() and (found >= 0).all(), (target, weighting)
                assert found.shape in ((2,), (2, p.target.heads))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(("schedule", "target"), [("cosine", "v"), ("edm", "edm"), ("decoupled", "decoupled")])
def test_a_weighting_that_makes_no_sense_is_refused(schedule, target, weighting):
    weigh = lambda: WEIGHTINGS[weighting]().weigh(process(schedule, target), jnp.float32([0.5]))  # noqa: E731
    if weighable(schedule, target, weighting):
        assert weigh().shape[0] == 1
    else:
        with pytest.raises(ValueError, match="take"):
            weigh()


def test_the_velocity_loss_of_an_x0_net_on_the_flow_path():
    """JiT: 1 / max(t, t_floor)^2, in our time."""
    t = np.array([1e-4, 0.02, 0.05, 0.3, 0.9, 1.0])
    for floor in (0.05, 0.2):
        found = WEIGHTINGS["velocity"](t_floor=floor).weigh(process("flow", "x0"), jnp.float32(t))
        np.testing.assert_allclose(found, 1 / np.maximum(t, floor) ** 2, rtol=1e-5)


T = np.array([1e-4, 0.004, 0.3, 0.9, 1.0])
HEADS = {  # weighting: what it puts on the squared errors of C and eps
    "bounded_exp": (2 * np.exp(1 - T), np.exp(np.sqrt(T))),
    "ddm": (np.minimum(1 / T, 100), np.minimum(1 / (1 - T + 1e-4), 100)),
}


@pytest.mark.parametrize("weighting", HEADS)
def test_weights_of_the_decoupled_heads(weighting):
    plain, unit_variance = (
        Process(SCHEDULES["decoupled"](), TARGETS["decoupled"](precondition=p), SD) for p in (False, True)
    )
    wanted = np.stack(HEADS[weighting], axis=-1)
    np.testing.assert_allclose(WEIGHTINGS[weighting]().weigh(plain, jnp.float32(T)), wanted, rtol=1e-5)
    v = (1 - T) ** 2 * SD**2 + T
    scales = np.stack([SD**2 * T / v, (1 - T) ** 2 * SD**2 / v], axis=-1)  # of (C, eps) in (F1, F2), squared
    found = WEIGHTINGS[weighting]().weigh(unit_variance, jnp.float32(T))
    np.testing.assert_allclose(found, wanted * scales, rtol=1e-5)
    linear = WEIGHTINGS[weighting]().weigh(process("decoupled", "decoupled_linear"), jnp.float32(T))
    np.testing.assert_allclose(linear, wanted[:, [0, 1, 0]], rtol=1e-5)


def draws(name: str, n: int, valid: int | None = None, schedule: str = "cosine", **keywords) -> np.ndarray:
    """[n], the times of slots 0…n-1 of which the first ``valid`` hold examples."""
    density = DENSITIES[name](process(schedule), **keywords)
    state = density.init()
    t, weight = jax.jit(density.draw)(state, jax.random.key(1), jnp.arange(n), jnp.int32(n if valid is None else valid))
    np.testing.assert_allclose(weight, np.ones(n), rtol=1e-5, err_msg="before anything is learned")
    return np.asarray(t, np.float64)


@pytest.mark.parametrize("name", DENSITIES)
def test_a_draw_belongs_to_its_slot(name):
    padded, bare = draws(name, 8, valid=6), draws(name, 6)
    np.testing.assert_array_equal(padded[:6], bare)
    assert len(set(bare)) == 6


@pytest.mark.parametrize("name", DENSITIES)
def test_a_part_of_the_batch_draws_what_the_whole_batch_draws_there(name):
    density = DENSITIES[name](process())
    part, _ = density.draw(density.init(), jax.random.key(1), jnp.asarray([4, 5, 6, 7]), jnp.int32(8))
    np.testing.assert_allclose(part, draws(name, 8)[4:], rtol=1e-6)


RANGES = {  # densities pushed beyond the schedule's times, and how they were pushed
    "uniform": [("edm", {}), ("linear", {})],
    "stratified": [("edm", {}), ("linear", {})],
    "lognormal": [("edm", {"mean": 0.0, "std": 9.0}), ("linear", {"mean": 0.0, "std": 9.0})],
    "logit_normal": [("linear", {"mean": 0.0, "std": 9.0})],
    "importance": [("edm", {}), ("linear", {})],
}


@pytest.mark.parametrize("name", RANGES)
def test_draws_stay_inside_the_schedules_times(name):
    for schedule, keywords in RANGES[name]:
        t, s = draws(name, 256, schedule=schedule, **keywords), SCHEDULES[schedule]()
        assert t.min() >= np.float32(s.t_min) and t.max() <= np.float32(s.t_max), schedule


def log_sigma(t: np.ndarray) -> np.ndarray:
    alpha, sigma = cosine(t)
    return np.log(sigma / alpha)


MOMENTS = {  # case: (density, schedule, keywords, what is normal, mean, deviation)
    "lognormal on edm": ("lognormal", "edm", {}, np.log, -1.2, 1.2),
    "lognormal on a VP schedule": ("lognormal", "cosine", {"mean": -0.4, "std": 1.0}, log_sigma, -0.4, 1.0),
    "logit-normal": ("logit_normal", "flow", {"mean": 0.8, "std": 0.8}, lambda t: np.log(t / (1 - t)), 0.8, 0.8),
    "uniform": ("uniform", "flow", {}, lambda t: t, 0.5, 12**-0.5),
    "importance at first": ("importance", "flow", {}, lambda t: t, 0.5, 12**-0.5),
}


@pytest.mark.parametrize("case", MOMENTS)
def test_moments(case):
    name, schedule, keywords, transform, mean, deviation = MOMENTS[case]
    n = 4096
    z = transform(draws(name, n, schedule=schedule, **keywords))
    assert abs(z.mean() - mean) < 4 * deviation / math.sqrt(n)
    assert abs(z.std() / deviation - 1) < 4 / math.sqrt(2 * n)


@pytest.mark.parametrize("valid", [8, 5])
def test_stratified_spaces_the_valid_rows_equally(valid):
    schedule = SCHEDULES["flow"]()
    t = np.sort(draws("stratified", 8, valid=valid, schedule="flow")[:valid])
    gaps = np.diff(t, append=t[0] + schedule.t_max - schedule.t_min)
    np.testing.assert_allclose(gaps, (schedule.t_max - schedule.t_min) / valid, rtol=1e-4)


def test_stratified_over_no_valid_rows_is_a_number():
    assert np.isfinite(draws("stratified", 4, valid=0)).all()


BUCKETS, HISTORY = 4, 3


def place(t):
    """Of times of the flow schedule on the scale of the buckets."""
    return np.clip((t - 1e-4) / (1 - 1e-4) * BUCKETS, 0, BUCKETS - 1e-5)


def history_by_hand(batches) -> dict[int, list[float]]:
    """The last losses of each bucket, in the order in which they came."""
    kept = {b: [] for b in range(BUCKETS)}
    for t, loss, valid in batches:
        for time, value, counts in zip(t, loss, valid, strict=True):
            if counts:
                bucket = int(place(time))
                kept[bucket] = [*kept[bucket], value][-HISTORY:]
    return kept


def loss_batches(count: int, rows: int = 16):
    rng = np.random.default_rng(4)
    for _ in range(count):
        t = rng.uniform(0.001, 1, rows)
        yield t, (1 + 9 * (t > 0.75)) * rng.uniform(0.5, 1.5, rows), np.arange(rows) < rng.integers(1, rows + 1)


@pytest.fixture(scope="module")
def learning():
    density = DENSITIES["importance"](process("flow"), buckets=BUCKETS, history=HISTORY, floor=0.01)
    return density, jax.jit(density.update), jax.jit(density.draw)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_importance_keeps_the_last_losses_of_every_bucket(learning, count):
    density, update, _ = learning
    state, batches = density.init(), list(loss_batches(count))
    for t, loss, valid in batches:
        state = update(state, jnp.float32(t), jnp.float32(np.where(valid, loss, np.nan)), valid)
    kept = history_by_hand(batches)
    for bucket, wanted in kept.items():
        found = np.asarray(state["losses"])[bucket][: len(wanted)]
        np.testing.assert_allclose(sorted(found), sorted(wanted), rtol=1e-6)


def test_importance_draws_by_the_root_mean_square_of_the_losses(learning):
    """Nichol 2021, section 3.3: p ~ sqrt(E[L^2]), and a weight of 1 / (buckets p); uniform before all are full."""
    density, update, draw = learning
    state, batches, n = density.init(), list(loss_batches(12)), 4096
    for t, loss, valid in batches:
        state = update(state, jnp.float32(t), jnp.float32(loss), valid)
    one_short = {**state, "seen": state["seen"].at[2].set(HISTORY - 1)}
    weight = draw(one_short, jax.random.key(0), jnp.arange(n), jnp.int32(n))[1]
    np.testing.assert_allclose(weight, 1.0, rtol=1e-6)
    size = np.array([np.sqrt(np.mean(np.square(last))) for last in history_by_hand(batches).values()])
    share = 0.99 * size / size.sum() + 0.01 / BUCKETS
    t, weight = (np.asarray(a) for a in draw(state, jax.random.key(0), jnp.arange(n), jnp.int32(n)))
    bucket = place(t).astype(int)
    np.testing.assert_allclose(weight, 1 / (BUCKETS * share[bucket]), rtol=1e-5)
    counts = np.bincount(bucket, minlength=BUCKETS)
    assert (np.abs(counts - n * share) < 4 * np.sqrt(n * share * (1 - share))).all()
    assert share[3] > 0.6, "the losses above .75 are ten times the others"
    inside = place(t) - bucket  # uniform inside a bucket
    assert abs(inside.mean() - 0.5) < 4 * 12**-0.5 / math.sqrt(n) and inside.min() < 0.01 and inside.max() > 0.99
    # weighted draws give the mean over equally likely times
    f = np.where(t > 0.75, 7.0, t)
    assert abs((weight * f).mean() - (0.25 * 7 + 0.75**2 / 2)) < 4 * (weight * f).std() / math.sqrt(n)


def test_densities_that_learn_nothing_have_no_state():
    for name, row in DENSITIES.items():
        density = row(process())
        state = density.init()
        after = density.update(state, jnp.float32(TIMES), jnp.ones(6), np.ones(6, bool))
        assert (state == () and after == ()) or name == "importance"


RANDOM = np.random.default_rng(0)
X0, EPS, THIRD = (RANDOM.standard_normal((6, 3, 2, 1)).astype(np.float32) for _ in range(3))
PATH_OF = {"decoupled": "decoupled", "decoupled_linear": "decoupled"}  # target: its schedule, cosine if not here


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "learned_variance"])
def test_a_perfect_net_has_no_loss_and_a_known_error_has_its_loss(target):
    p = process(PATH_OF.get(target, "cosine"), target)
    third = jnp.asarray(THIRD) if p.target.third else None
    error = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1) * np.array([1.0, -1.0, 2.0]).reshape(1, 3, 1, 1)
    error = np.concatenate([(1 + head) * error * np.ones_like(X0) for head in range(p.target.heads)], axis=-1)

    @jax.jit
    def run(x0, eps, t, error):
        perfect = p.regression_target(x0, eps, t, third)
        nets = (lambda x, c_noise: perfect), (lambda x, c_noise: perfect + error)
        return [denoising_losses(p, WEIGHTINGS["unit"](), net, x0, eps, t, third=third) for net in nets]

    perfect, wrong = run(jnp.asarray(X0), jnp.asarray(EPS), jnp.float32(TIMES), jnp.float32(error))
    np.testing.assert_allclose(perfect.loss, np.zeros(6), atol=1e-10)
    each = sum((1 + head) ** 2 for head in range(p.target.heads))
    np.testing.assert_allclose(wrong.loss, np.arange(6) ** 2 * 2.0 * each, rtol=1e-5)
    np.testing.assert_allclose(wrong.t, TIMES, rtol=1e-6)


def test_each_head_has_its_weight():
    p = Process(SCHEDULES["decoupled"](), TARGETS["decoupled"](precondition=False), SD)
    net = lambda x, c_noise: jnp.zeros((*x.shape[:-1], 2))  # noqa: E731
    t = jnp.float32(TIMES)
    found = denoising_losses(p, WEIGHTINGS["bounded_exp"](), net, jnp.asarray(X0), jnp.asarray(EPS), t)
    c, eps = ((a.astype(np.float64) ** 2).mean(axis=(1, 2, 3)) for a in (X0, EPS))
    np.testing.assert_allclose(found.loss, 2 * np.exp(1 - TIMES) * c + np.exp(np.sqrt(TIMES)) * eps, rtol=1e-5)


def test_the_density_weighs_the_loss_and_leaves_the_plain_one():
    net = lambda x, c_noise: jnp.zeros_like(x)  # noqa: E731
    given = process(), WEIGHTINGS["unit"](), net, jnp.asarray(X0), jnp.asarray(EPS), jnp.float32(TIMES)
    plain, weighted = denoising_losses(*given), denoising_losses(*given, density_weight=jnp.arange(6.0))
    np.testing.assert_allclose(weighted.loss, np.arange(6) * np.asarray(plain.loss), rtol=1e-6)
    np.testing.assert_array_equal(weighted.plain, plain.loss)


def test_uncertainty_is_of_the_noise_level_and_learns_the_log_of_the_loss():
    """e^-u l + u is least where u = ln l (EDM2); at u = 0 it is the edm weighting."""
    p, weighting = process("edm", "edm"), WEIGHTINGS["uncertainty"](channels=8)
    t = jnp.exp(jnp.linspace(jnp.log(0.002), jnp.log(80.0), 6))
    net = lambda x, c_noise: jnp.zeros_like(x)  # noqa: E731

    def run(params):
        return denoising_losses(p, weighting, net, jnp.asarray(X0), jnp.asarray(EPS), t, params=params).loss

    plain = denoising_losses(p, WEIGHTINGS["edm"](), net, jnp.asarray(X0), jnp.asarray(EPS), t).loss
    params = weighting.init()
    assert list(params) == ["uncertainty"]
    np.testing.assert_allclose(run(params), plain, rtol=1e-6)
    weights = np.random.default_rng(0).standard_normal(8)
    level = np.linspace(0, 1, 6)
    u = np.cos(math.pi * level[:, None] * np.arange(8)) @ weights
    found = run({"uncertainty": {"weights": jnp.float32(weights)}})
    np.testing.assert_allclose(found, np.exp(-u) * np.asarray(plain) + u, rtol=1e-4, atol=1e-5)
    history = denoising_losses(
        p,
        weighting,
        net,
        jnp.asarray(X0),
        jnp.asarray(EPS),
        t,
        params={"uncertainty": {"weights": jnp.float32(weights)}},
    ).plain
    np.testing.assert_allclose(history, np.exp(-u) * np.asarray(plain), rtol=1e-4)  # u alone teaches the net nothing
    slope = jax.jit(jax.grad(lambda params: run(params).mean()))
    for _ in range(300):
        params = jax.tree.map(lambda a, g: a - 0.1 * g, params, slope(params))
    learned = weighting.log_variance(params, p, t)
    assert float(run(params).mean()) < float(plain.mean())
    assert np.corrcoef(learned, np.log(plain))[0, 1] > 0.9


ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])


def nichol_bound(i: np.ndarray, x0: np.ndarray, guess: np.ndarray, share: np.ndarray) -> np.ndarray:
    """L_t of step i (from 1) in bits per dimension, [b], on DDPM's linear table (Nichol 2021, eq. 15; its code)."""
    found = []
    for n, x, mean, part in zip(i, x0.astype(np.float64), guess, share, strict=True):
        beta = 1 - ABAR[n] / ABAR[n - 1]
        clipped = max(n, 2)
        small = (1 - ABAR[clipped - 1]) / (1 - ABAR[clipped]) * (1 - ABAR[clipped] / ABAR[clipped - 1])
        log_variance = part * math.log(beta) + (1 - part) * math.log(small)
        if n == 1:
            cdf = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))
            up, down = (cdf((x - mean + sign / 255) * np.exp(-0.5 * log_variance)) for sign in (1, -1))
            chance = np.where(x < -0.999, up, np.where(x > 0.999, 1 - down, np.maximum(up - down, 1e-12)))
            nats = -np.log(chance)
        else:
            shift = math.sqrt(ABAR[n - 1]) * beta / (1 - ABAR[n]) * (x - mean)
            nats = 0.5 * (log_variance - math.log(small) - 1 + (small + shift**2) * np.exp(-log_variance))
        found.append(nats.mean() / math.log(2))
    return np.array(found)


STEPS = np.array([1, 1, 2, 3, 500, 1000])


def learned_variance_losses(vlb: float, eps_answer, v, shape):
    p = Process(SCHEDULES["linear"](), TARGETS["learned_variance"](vlb=vlb), SD)
    x0 = jnp.clip(jnp.round(jnp.asarray(X0) * 127.5), -127, 128) / 127.5 - 1 / 255
    net = lambda x, c_noise: jnp.concatenate([eps_answer, v], axis=-1)  # noqa: E731
    losses = denoising_losses(p, WEIGHTINGS["unit"](), net, x0, jnp.asarray(EPS), jnp.float32(STEPS / 1000))
    return losses.loss, x0


def test_learned_variance_is_nichols_hybrid_loss():
    rng = np.random.default_rng(3)
    answer = jnp.asarray(EPS + 0.1 * rng.standard_normal(EPS.shape).astype(np.float32))
    v = jnp.float32(rng.uniform(-1, 1, EPS.shape))
    loss, x0 = learned_variance_losses(0.001, answer, v, EPS.shape)
    x0 = np.asarray(x0, np.float64)
    alpha, sigma = (a[STEPS].reshape(6, 1, 1, 1) for a in (np.sqrt(ABAR), np.sqrt(1 - ABAR)))
    guess = x0 + sigma / alpha * (EPS - np.asarray(answer, np.float64))
    bound = nichol_bound(STEPS, x0, guess, (np.asarray(v, np.float64) + 1) / 2)
    simple = ((np.asarray(answer, np.float64) - EPS) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(loss, simple + 0.001 * 1000 * bound, rtol=2e-4)
    np.testing.assert_allclose(learned_variance_losses(0.0, answer, v, EPS.shape)[0], simple, rtol=1e-5)


def test_the_bound_moves_the_variance_and_not_the_mean():
    v = jnp.zeros(EPS.shape)

    def total(answer, v, vlb):
        return learned_variance_losses(vlb, answer, v, EPS.shape)[0].sum()

    slopes = jax.jit(jax.grad(total, argnums=(0, 1)), static_argnums=2)
    (mean, variance), (only_simple, nothing) = (slopes(jnp.asarray(0.9 * EPS), v, vlb) for vlb in (0.001, 0.0))
    np.testing.assert_allclose(mean, only_simple, rtol=1e-6)
    assert np.abs(variance).min() > 0 and not np.abs(nothing).any()


def test_the_loss_is_weighted_and_the_net_is_fed_by_the_process():
    p = process("cosine", "eps")
    seen = {}

    def net(x, c_noise):
        seen.update(x=x, c_noise=c_noise)
        return jnp.zeros_like(x)

    losses = denoising_losses(p, WEIGHTINGS["min_snr"](), net, jnp.asarray(X0), jnp.asarray(EPS), jnp.float32(TIMES))
    square = (EPS.astype(np.float64) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(losses.loss, np.minimum(SNR, 5) / SNR * square, rtol=2e-4)
    alpha, sigma = (a.reshape(6, 1, 1, 1) for a in (ALPHA, SIGMA))
    scaled = (alpha * X0 + sigma * EPS) / np.sqrt((alpha * SD) ** 2 + sigma**2)
    np.testing.assert_allclose(seen["x"], scaled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen["c_noise"], 1000 * TIMES, rtol=1e-6)


def test_a_half_precision_answer_is_measured_in_float32():
    p = process("flow", "velocity")
    net = lambda x, c_noise: jnp.zeros(x.shape, jnp.bfloat16)  # noqa: E731
    loss = denoising_losses(p, WEIGHTINGS["unit"](), net, jnp.asarray(X0), jnp.asarray(EPS), jnp.float32(TIMES)).loss
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, ((EPS - X0) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5)


ILLEGAL = {  # case: (what is built, what the message says)
    "lognormal without width": (lambda: DENSITIES["lognormal"](process(), std=0.0), "std is 0"),
    "logit-normal without width": (lambda: DENSITIES["logit_normal"](process(), std=-1.0), "std is -1"),
    "logit-normal of a sigma": (lambda: DENSITIES["logit_normal"](process("edm")), "edm schedule.*lognormal"),
    "a floor of all times": (lambda: WEIGHTINGS["velocity"](t_floor=1.0), "t_floor is 1"),
    "no buckets": (lambda: DENSITIES["importance"](process(), buckets=0), "buckets is 0"),
    "no history": (lambda: DENSITIES["importance"](process(), history=0), "history is 0"),
    "no floor": (lambda: DENSITIES["importance"](process(), floor=0.0), "floor is 0"),
    "no u": (lambda: WEIGHTINGS["uncertainty"](channels=0), "channels is 0"),
    "k 0": (lambda: WEIGHTINGS["p2"](k=0.0), "k is 0"),
    "a negative gamma": (lambda: WEIGHTINGS["p2"](gamma=-1.0), "gamma is -1"),
    "no limit": (lambda: WEIGHTINGS["ddm"](limit=0.0), "limit is 0"),
    "a negative bound": (lambda: TARGETS["learned_variance"](vlb=-1.0), "vlb is -1"),
    "gamma 0": (lambda: WEIGHTINGS["min_snr"](gamma=0.0), "gamma is 0"),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_choices_are_refused(case):
    build, message = ILLEGAL[case]
    with pytest.raises(ValueError, match=message):
        build()
