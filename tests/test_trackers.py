"""W&B on or off changes nothing else, and its offline run holds what the log holds."""

import pytest

import main_jax
from tests.test_writers import wandb_history
from tests.tiny import arguments, log


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(workdir without a tracker, workdir with W&B offline)."""
    place = tmp_path_factory.mktemp("trackers")
    assert main_jax.main(arguments(place / "off")) == 0
    assert main_jax.main(arguments(place / "on", log__wandb=True)) == 0
    import wandb

    wandb.teardown()
    return place / "off", place / "on"


def test_the_log_is_the_same(both):
    off, on = map(log, both)
    assert off == on


def test_the_offline_run_holds_every_class_at_every_evaluation(both):
    records = wandb_history(both[1])
    evaluated = {record["step"]: record for record in records if "eval/fd" in record}
    assert set(evaluated) == {6, 12}
    for step, record in evaluated.items():
        line = next(line for line in log(both[1]) if line["step"] == step and "eval/fd" in line)
        for digit in range(10):
            name = f"eval/fd/class/{digit}"
            assert record[name] == pytest.approx(line[name])
