"""A whole run with the transformer: it trains, and a run that was cut goes on as if it had not been."""

import main_jax
from tests.tiny import arguments, log, state_print

NET = {
    "net__name": "dit",
    "net__dit__patch": 2,
    "net__dit__d": 64,
    "net__dit__depth": 2,
    "net__dit__heads": 2,
    "net__dit__dropout": 0.1,
    "train__steps": 6,
    "val__every": 3,
    "sample__every": 0,
    "eval__metrics": "()",
    "log__every": 1,
}


def test_a_run_that_was_cut_ends_as_the_one_that_was_not(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main_jax.main(arguments(whole, **NET)) == 0
    losses = [line["train/loss"] for line in log(whole) if "train/loss" in line]
    assert len(losses) == 6 and losses[-1] < 0.9 * losses[0]

    assert main_jax.main(arguments(cut, **NET | {"train__steps": 3})) == 0
    assert main_jax.main(arguments(cut, **NET)) == 0
    assert state_print(cut, **NET) == state_print(whole, **NET)
    assert [line for line in log(cut) if "train/loss" in line] == [line for line in log(whole) if "train/loss" in line]
