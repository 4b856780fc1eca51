"""Backbones in whole runs: a few steps on the digits."""

import math
import shutil

import pytest

import main_jax
from tests.tiny import arguments, log, state_print

EDM = {
    "process.schedule": "edm",
    "process.target": "edm",
    "objective.density": "lognormal",
    "objective.weighting": "edm",
    "sampler.grid": "karras",
}
DDPMPP = {
    "net.unet.group_width": 4,
    "net.unet.resample": "block",
    "net.unet.resample_filter": (1.0, 3.0, 3.0, 1.0),
    "net.unet.project_skip": True,
    "net.unet.skip_scale": 0.5**0.5,
    "net.unet.adaptive": False,
    "net.unet.embedding": "ddpmpp",
    "net.unet.vec": "before",
    "net.unet.mults": (1, 1),
    "optim.lr": 1e-2,
}
EDM2 = {
    "net.name": "edm2",
    "net.edm2.channels": 8,
    "net.edm2.mults": (1, 1),
    "net.edm2.attention": (),
    "net.edm2.head_width": 8,
    "optim.lr": 0.05,
    "optim.adamw.weight_decay": 0.0,
}
QUIET = {"val.every": 2, "sample.every": 0, "eval.metrics": "()", "log.every": 1, "mesh.data": 1, "train.steps": 6}


@pytest.mark.parametrize("fields", [DDPMPP, EDM2], ids=["ddpmpp", "edm2"])
def test_it_learns_and_goes_on_exactly_where_it_stopped(fields, tmp_path, capsys):
    changed = {name.replace(".", "__"): value for name, value in (EDM | QUIET | fields).items()}
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert main_jax.main(arguments(straight, **changed)) == 0
    losses = [line[name] for line in log(straight) for name in ("train/loss", "val/loss") if name in line]
    validated = [line["val/loss"] for line in log(straight) if "val/loss" in line]  # always the same times and noise
    assert len(losses) == 6 + 3 and all(math.isfinite(loss) for loss in losses)
    assert validated[0] > validated[1] > validated[2] and validated[2] < 0.95 * validated[0]

    shutil.copytree(straight, stopped)
    for saved in (stopped / "checkpoints").iterdir():
        if int(saved.name) > 3:
            shutil.rmtree(saved)
    assert main_jax.main(arguments(stopped, **changed)) == 0
    assert "started at step 3" in capsys.readouterr().out
    assert state_print(straight, **changed)[0] == state_print(stopped, **changed)[0]
