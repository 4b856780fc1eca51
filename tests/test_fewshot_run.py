"""Training on sets: what is logged, that it resumes to the bit and does not hang on devices, and its baselines."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import main_jax
from diffusion import feed, keys, train
from diffusion.batch_losses import batch_losses, context_share, fill
from diffusion.data.support import Support
from diffusion.generate import images
from diffusion.lr_schedules import plateau_state
from diffusion.mesh import make_mesh, put_replicated, put_rows
from diffusion.nets.codec import CODECS
from diffusion.sample_step import Guidance, Held, Sampling, make_sample_step
from diffusion.state import create
from diffusion.steps import make_train_step, make_validation_step
from diffusion.types import Batch, EncodedSet, ImageSet
from diffusion.validation import validation
from diffusion.variants import drawing
from tests.fewshot_runs import SEEN, SETS, UNSEEN, of_encoder
from tests.nets.tiny_nets import stirred
from tests.tiny import arguments, log, program, state_print

NOTHING = {"val__every": 0, "sample__every": 0, "eval__metrics": "()"}
PLAIN = SETS | NOTHING | {"log__every": 1}


def weights(p, seed=0):
    """Of which none is 0."""
    return stirred(jax.eval_shape(p.diffusion.net.init, jax.random.key(seed)))


def bare(names: str) -> dict:
    """The same config without sets."""
    return SETS | {"cond__names": names}


class TestValidation:
    def test_losses_and_shares_of_classes_seen_and_unseen(self, tmp_path):
        """Against the losses of all rows of a split at once, and answers of the net that is given the sets raw."""
        p = program(tmp_path / "run", **SETS)
        params = weights(p)
        found = validation(p, {"val/loss": params, "val/loss_raw": jax.tree.map(lambda a: a / 2, params)})
        names = {"loss", "context_share", *(f"loss/q{i}" for i in range(4))}
        raw = {name.replace("loss", "loss_raw").replace("share", "share_raw") for name in names}
        inside = {f"val/{name}" for name in names | raw}
        outside = {name.replace("/q", "_out/q") if "/q" in name else f"{name}_out" for name in inside}
        assert set(found) == inside | outside
        for ending, classes in (("", SEEN), ("_out", UNSEEN)):
            loss, share, labels = self.by_hand(p, params, f"test_{'un' * bool(ending)}seen")
            assert set(labels.tolist()) == set(classes)
            assert found[f"val/loss{ending}"] == pytest.approx(loss, rel=1e-5)
            assert found[f"val/context_share{ending}"] == pytest.approx(share, rel=1e-4)
            assert 0 < share < 1

    @staticmethod
    def by_hand(p, params, split):
        """(loss, share, labels) of a whole split at once."""
        n, answers, d = p.dataset.sizes[split], [], p.diffusion
        (host,) = feed.loader(p, split, training=False, batch_size=n).iterate(0, 1)
        batch = jax.tree.map(lambda a: jnp.asarray(a[:n]), host)
        given = (params, None, batch, keys.stream(p.seed, "validate"), batch.id, jnp.asarray(n))
        losses, _ = batch_losses(d, *given, drop=False)

        def apply(*inputs):
            answers.append(d.net.apply(*inputs))
            return answers[-1]

        raw = replace(d.net, encode=lambda params, cond, c_noise: (cond, {}), apply=apply)
        context_share(replace(d, net=raw), *given)
        whole, without = (np.asarray(answer, np.float64) for answer in answers)
        share = np.square(whole - without).sum() / np.square(whole).sum()
        return float(losses.loss.mean()), share, np.asarray(batch.cond["label"])

    def test_a_net_that_ignores_its_sets_has_no_share(self, tmp_path):
        p = program(tmp_path / "run", **SETS)
        deaf = weights(p)
        deaf["backbone"]["vec"]["kernel"] = jnp.zeros_like(deaf["backbone"]["vec"]["kernel"])
        found = validation(p, {"val/loss": deaf})
        # two passes of a compiled net may round differently: in float32 that leaves 1e-14 of a square
        assert max(found["val/context_share"], found["val/context_share_out"]) < 1e-12

    def test_a_run_logs_them_and_the_norms_of_the_sets_own_part(self, tmp_path):
        quiet = SETS | {"sample__every": 0, "eval__metrics": "()", "val__every": 2, "train__steps": 4}
        assert main_jax.main(arguments(tmp_path / "run", **quiet, log__every=2)) == 0
        lines = [line for line in log(tmp_path / "run") if "val/loss" in line]
        assert [line["step"] for line in lines] == [2, 4]
        for line in lines:
            for name in ("loss_out", "loss_raw_out", "context_share", "context_share_out", "context_share_raw_out"):
                assert np.isfinite(line[f"val/{name}"])
        norms = [line["train/grad_norm/set"] for line in log(tmp_path / "run") if "train/grad_norm" in line]
        assert len(norms) == 2 and norms[1] > 0, "the first one is 0: the net's last layer begins at 0"


class TestTraining:
    def test_a_run_in_two_pieces_is_the_run_in_one(self, tmp_path):
        """With sets of several sizes and some targets: 2 batches an epoch, so that pieces end within one."""
        sets = PLAIN | {"sets__min_size": 2, "sets__targets": 4, "sets__symmetries": True, "checkpoint__keep": 9}
        straight, parted = tmp_path / "straight", tmp_path / "parted"
        for workdir, steps in ((straight, 6), (parted, 3), (parted, 6)):
            assert main_jax.main(arguments(workdir, **sets, train__steps=steps)) == 0
        assert program(straight, **sets).steps_per_epoch == 2
        assert state_print(straight, **sets) == state_print(parted, **sets)
        assert log(straight) == log(parted) and len(log(straight)) == 6

    def test_another_way_to_make_sets_is_refused_on_resume(self, tmp_path, capsys):
        assert main_jax.main(arguments(tmp_path / "run", **PLAIN, train__steps=2)) == 0
        assert main_jax.main(arguments(tmp_path / "run", **PLAIN, train__steps=4, sets__size=5)) == 4
        assert "sets.size: saved 6, asked 5" in capsys.readouterr().err

    def test_the_losses_do_not_hang_on_devices_or_micro_batches(self, tmp_path):
        found = {}
        for devices, parts in ((1, 1), (2, 1), (2, 2)):
            workdir = tmp_path / f"on{devices}_{parts}"
            p = program(workdir, **PLAIN, train__steps=4, mesh__data=devices, optim__micro_batches=parts)
            train.run(p)
            found[devices, parts] = [line["train/loss"] for line in log(workdir)]
        assert len(found[1, 1]) == 4
        for other in found.values():
            np.testing.assert_allclose(other, found[1, 1], rtol=1e-5)

    def test_what_fills_the_shape_changes_nothing_not_even_as_nan(self, tmp_path):
        p = program(tmp_path / "run", **PLAIN, mesh__data=2)
        d = replace(p.diffusion, codec=CODECS["latents"](scale=1.0))
        train_step = make_train_step(d, p.optimiser, p.mesh)
        validation_step = make_validation_step(d, p.mesh, 8)
        params = jax.device_get(weights(p))

        def steps(batch: Batch):
            state = create(jax.tree.map(jnp.asarray, params), p.optimiser.tx, plateau_state(), seed=3)
            words = put_rows(p.mesh, np.zeros(2, np.int32))
            put = put_rows(p.mesh, batch)
            state, metrics = train_step(put_replicated(p.mesh, state), None, put, words)
            sums = validation_step(put_replicated(p.mesh, params), None, put, keys.stream(0, "validate"))
            return jax.device_get((state.params, metrics.sums, sums))

        clean, dirty = padded(np.float32(0)), padded(np.nan)
        for a, b in zip(jax.tree.leaves(steps(clean)), jax.tree.leaves(steps(dirty)), strict=True):
            assert np.isfinite(a).all()
            np.testing.assert_array_equal(a, b)

    def test_rows_that_fill_the_shape_become_a_valid_row(self):
        batch = fill(jax.tree.map(jnp.asarray, padded(np.nan)))
        np.testing.assert_array_equal(batch.cond["set"].valid[5:], np.repeat(batch.cond["set"].valid[:1], 3, axis=0))
        np.testing.assert_array_equal(batch.cond["set"].images[5], batch.cond["set"].images[0])


def padded(waste) -> Batch:
    """5 rows of 8, and ``waste`` in the others and in places without a member."""
    rng = np.random.default_rng(0)
    x, sets = rng.uniform(-1, 1, (8, 8, 8, 1)), rng.uniform(-1, 1, (8, 5, 8, 8, 1))
    valid, members = np.arange(8) < 5, rng.random((8, 5)) < 0.7
    x[~valid], sets[~valid], sets[~members] = waste, waste, waste
    shown = ImageSet(sets.astype(np.float32), members)
    return Batch(x.astype(np.float32), {"set": shown}, np.where(valid, np.arange(8), -1).astype(np.int32), valid)


class TestDrawing:
    def test_without_guidance_of_its_own_it_is_the_empty_set(self, tmp_path):
        """Scale 0 asks the null alone; scale 1 with nobody in the set does so too."""
        p = program(tmp_path / "run", **PLAIN)
        params, nobody = weights(p), Support(5, lambda c, i: np.zeros(0, int), None, np.zeros((8, 8, 1), np.uint8))
        drawn = {}
        for scale in (0.0, 1.0):
            for name, support in (("theirs", None), ("nobody", nobody)):
                which = dict(seed=0, purpose="sample", support=support)
                label, index = np.array([0, 3, 3]), np.array([0, 0, 6])
                drawn[scale, name] = images(drawing(p, scale), params, label, index, **which)
        np.testing.assert_array_equal(drawn[0.0, "theirs"], drawn[0.0, "nobody"])
        np.testing.assert_array_equal(drawn[0.0, "theirs"], drawn[1.0, "nobody"])
        assert (drawn[1.0, "theirs"] != drawn[1.0, "nobody"]).any()

    @pytest.mark.parametrize(
        ("encoder", "kind", "inject", "timed"),
        [
            (of_encoder("vit"), "deterministic", "all", False),
            (of_encoder("unet"), "gaussian", "both", False),
            (of_encoder("vit", vit__time_token=True), "gaussian", "both", True),
        ],
    )
    def test_a_set_that_is_encoded_once_draws_as_one_encoded_at_every_step(
        self, tmp_path, encoder, kind, inject, timed
    ):
        p = program(tmp_path / "run", **PLAIN | encoder | {"context__kind": kind, "context__inject": inject})
        d, params = p.diffusion, weights(p)
        if timed:
            blocks = params["conditioners_set"]["encoder"]["blocks"]
            blocks["attention"] = jax.tree.map(lambda a: 10 * a, blocks["attention"])  # so that the token is heeded
        cond = {"set": jax.tree.map(jnp.asarray, padded(0.0).cond["set"])}
        encoded, _ = d.net.encode(params, cond, None)
        assert isinstance(encoded["set"], ImageSet if timed else EncodedSet)

        def drawn(encode) -> np.ndarray:
            sampling = Sampling(p.sampling.rule, p.sampling.times, Guidance(3.0), p.sampling.threshold)
            step = make_sample_step(replace(d, net=replace(d.net, encode=encode)), sampling, make_mesh(1))
            return np.asarray(step(params, Held(), jax.random.split(jax.random.key(1), 8), cond, {})).astype(int)

        once = drawn(d.net.encode)
        always = drawn(lambda params, cond, c_noise: (cond, {}))
        assert np.abs(once - always).max() <= 1 and len(np.unique(once)) > 20
        clean = drawn(lambda params, cond, c_noise: d.net.encode(params, cond, jnp.zeros(8)))
        assert (np.abs(clean - always).max() > 1) == timed, "the noise level at which a set is read"


class TestBaselines:
    """The same config with another condition, or with none."""

    @pytest.mark.parametrize("names", ["()", "label"])
    def test_they_train_and_are_evaluated_on_the_same_classes(self, tmp_path, names):
        steps = {"train__steps": 2, "val__every": 2, "sample__every": 0, "eval__every": 2, "checkpoint__every": 2}
        assert main_jax.main(arguments(tmp_path / "run", **bare(names) | steps)) == 0
        found = {name: value for line in log(tmp_path / "run") for name, value in line.items()}
        assert {"val/loss", "val/loss_out", "eval/fd/group/in", "eval/fd/group/out"} <= set(found)
        assert {f"eval/fd/class/{digit}" for digit in range(10)} <= set(found)
        assert not any("context_share" in name for name in found)
        assert not (tmp_path / "run/eval/step_00000002_sets.png").exists()

    def test_a_class_never_seen_is_drawn_as_the_null(self, tmp_path):
        p = program(tmp_path / "run", **bare("label"))
        params, null = weights(p), drawing(program(tmp_path / "run", **bare("label")), 0.0)
        label, index = np.arange(10), np.zeros(10, int)
        given, without = (images(q, params, label, index, seed=0, purpose="sample") for q in (p, null))
        same = [np.array_equal(a, b) for a, b in zip(given, without, strict=True)]
        assert same == [digit in UNSEEN for digit in range(10)]
