"""A run saved on some devices goes on with others: the same data, noise and schedule, and the same losses."""

import shutil

import numpy as np
import pytest

from diffusion import train
from tests.tiny import log, program

SAVED, STEPS = 10, 110
PLAIN = {
    "data__batch_size": 64,  # the last batch of an epoch holds 30
    "val__every": 0,
    "sample__every": 0,
    "eval__metrics": "()",
    "log__every": 1,
    "checkpoint__every": SAVED,
    "checkpoint__keep": 20,
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """devices -> the workdir of an undisturbed run."""
    made = {}

    def run(devices):
        if devices not in made:
            made[devices] = tmp_path_factory.mktemp("straight") / "run"
            train.run(program(made[devices], mesh__data=devices, train__steps=STEPS, **PLAIN))
        return made[devices]

    return run


@pytest.mark.parametrize(
    ("before", "after"),
    [(8, 1), (8, 2), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [(8, 4), (1, 8), (2, 8), (4, 8)])],
)
def test_other_devices_give_the_same_losses_for_100_steps(straight, tmp_path, before, after):
    workdir = tmp_path / "run"
    shutil.copytree(straight(before), workdir)
    for saved in (workdir / "checkpoints").iterdir():
        if saved.name != str(SAVED):
            shutil.rmtree(saved)
    train.run(program(workdir, mesh__data=after, train__steps=STEPS, **PLAIN))
    kept, gone_on = log(straight(before)), log(workdir)
    assert [line["step"] for line in gone_on] == list(range(1, STEPS + 1))
    assert gone_on[:SAVED] == kept[:SAVED]
    for name in ("train/loss", "train/lr", "train/grad_norm", "train/grad_norm/label"):
        found, wanted = ([line[name] for line in lines] for lines in (gone_on, kept))
        np.testing.assert_allclose(found, wanted, rtol=1e-5 if "grad_norm" not in name else 1e-3, err_msg=name)
