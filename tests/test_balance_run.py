"""A run on classes of 60, 12 and 4 training images, balanced, weighted, turned, augmented: what it logs and resumes."""

import functools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import main_jax
from diffusion import feed, resume
from diffusion.errors import MismatchError
from tests.evaluated import write_npz
from tests.tiny import arguments, log, program, state_print

SIZES = {0: 75, 1: 15, 2: 5}  # a fifth of each is held out
QUIET = {"val__every": 0, "sample__every": 0, "eval__metrics": "()", "log__every": 1, "checkpoint__keep": 9}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Fields of a run on them: 76 draws an epoch in batches of 20, the last of 16."""
    path = write_npz(tmp_path_factory.mktemp("few") / "few.npz", SIZES)
    return QUIET | {
        "data__source": "npz",
        "data__root": path,
        "data__batch_size": 20,
        "data__rotate": 10,
        "data__jitter": 0.1,
        "balance__sampling": "effective_number",
        "balance__effective_number__beta": 0.98,
        "balance__loss": "effective_number",
        "augment__name": "edm",
    }


def drawn(lines):
    """{step: draws of the classes} of a log."""
    return {line["step"]: tuple(line[f"data/drawn/{c}"] for c in range(3)) for line in lines if "train/loss" in line}


@pytest.fixture(scope="module")
def straight(few, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight") / "run"
    assert main_jax.main(arguments(workdir, **few, train__steps=7)) == 0
    return workdir


class TestRun:
    def test_in_two_pieces_it_is_the_run_in_one(self, few, straight, tmp_path, capsys):
        """Cut in the middle of an epoch; what was drawn is counted from step 0 of the whole."""
        for steps in (2, 7):
            assert main_jax.main(arguments(tmp_path / "run", **few, train__steps=steps)) == 0
        assert state_print(straight, **few) == state_print(tmp_path / "run", **few)
        assert log(straight) == log(tmp_path / "run")
        said = capsys.readouterr().out
        assert said.count("draws per epoch") == 2 and "data/drawn" not in said

    def test_it_logs_what_its_batches_hold(self, few, straight):
        p, counted, found = program(straight, **few), Counter(), drawn(log(straight))
        source = feed.loader(p, "train", training=True)
        assert p.steps_per_epoch == source.steps_per_epoch == 4 and list(found) == list(range(1, 8))
        for step in range(7):
            batch = source.batch(step)
            counted.update(batch.cond["label"][batch.valid].tolist())
            assert found[step + 1] == tuple(counted[c] for c in range(3))
        assert sum(found[4]) == 76 and found[4] == p.loading.draws
        assert found[4][2] > 4, "the small class is drawn more often than it has images"

    def test_the_weights_have_mean_1_under_the_draw(self, few, straight):
        p = program(straight, **few)
        weights, draws = np.array(p.diffusion.class_weights), np.array(p.loading.draws)
        assert np.sum(weights * draws) / draws.sum() == pytest.approx(1) and weights[2] > weights[0]

    def test_an_epoch_is_as_long_as_its_draws(self, few, tmp_path):
        p = program(tmp_path / "run", **few | {"balance__sampling": "upsample"})
        assert p.loading.draws == (60, 60, 60) and p.steps_per_epoch == 9

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"balance__sampling": "upsample"}, "balance.sampling: saved 'effective_number', asked 'upsample'"),
            ({"balance__effective_number__beta": 0.9}, "balance.effective_number.beta: saved 0.98, asked 0.9"),
            ({"data__rotate": 5}, "data.rotate: saved 10.0, asked 5.0"),
        ],
    )
    def test_another_balance_is_refused_on_resume(self, few, straight, capsys, changed, said):
        assert main_jax.main(arguments(straight, **few | changed, train__steps=9)) == 4
        assert said in capsys.readouterr().err

    def test_validation_sees_every_record_once(self, few, straight):
        p = program(straight, **few)
        for split, n in (("train", 76), ("test", 19)):
            ids = np.concatenate([batch.id for batch in feed.once(p, split)])
            assert sorted(ids[ids >= 0]) == list(range(n))


def test_an_older_runs_record_has_nothing_balanced(few, tmp_path):
    p = program(tmp_path / "run", **few)
    plain = program(tmp_path / "run", **QUIET)
    older = {name: value for name, value in plain.config.items() if name != "balance"}
    older["data"] = {name: value for name, value in older["data"].items() if name not in ("rotate", "jitter")}
    whole = resume.completed(json.loads(json.dumps(older)), plain.defaults)
    check = functools.partial(resume.check_config, whole, depends_on_steps=False)
    assert check(plain.config) == []
    with pytest.raises(MismatchError, match="balance.sampling: saved 'none', asked 'effective_number'"):
        check(p.config)


def test_without_balance_a_class_is_tallied_too_but_not_where_labels_must_be_read(tmp_path, few):
    p = program(tmp_path / "run", **few | {"balance__sampling": "none", "balance__loss": "none"})
    source = feed.loader(p, "train", training=True)
    assert [row["draws per epoch"] for row in feed.tally(p, source).table(())] == [60, 12, 4]
    unread = replace(p.dataset, labels_known=False)
    assert feed.tally(replace(p, dataset=unread), source) is None
    balanced = program(tmp_path / "run", **few)
    assert feed.tally(replace(balanced, dataset=unread), source) is not None
    assert feed.tally(replace(p, dataset=replace(p.dataset, classes=())), source) is None


def test_classes_that_are_not_trained_on_count_nothing(tmp_path):
    """Seven digits, of which one is to be drawn three times as often."""
    fields = {"data__test_classes": "3,6,9", "balance__sampling": "manual", "balance__manual__weights": "4:3"}
    p = program(tmp_path / "run", **QUIET, **fields)
    draws = np.array(p.loading.draws)
    assert draws[[3, 6, 9]].tolist() == [0, 0, 0] and draws.sum() == p.dataset.sizes["train_seen"]
    assert draws[4] / draws[[0, 1, 2, 5, 7, 8]].mean() == pytest.approx(3, rel=0.03)
    source = feed.loader(p, p.dataset.train_split, training=True)
    tally = feed.tally(p, source)
    assert tally.of_epoch.tolist() == draws.tolist()
    assert [row["class"] for row in tally.table(())] == list("0124578")


def test_a_command_of_a_run_reads_no_labels(tmp_path, few):
    """Drawing images needs no counts."""
    from configs.digits import get_config
    from diffusion.build import build
    from diffusion.config import override

    config = override(get_config().unlock(), [w.removeprefix("--config.") for w in arguments(tmp_path, **few)[1:]])
    p = build(config.lock(), tmp_path / "run", training=False)
    assert p.loading.draws == () and p.diffusion.class_weights == ()
