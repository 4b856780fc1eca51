"""The few-shot digits recipe, whole: minutes, so slow. A classifier that the program does not know reads its images."""

import numpy as np
import pytest

import main_jax
from benchmarks.fewshot_digits import confusion, excess_of, split_of


@pytest.mark.slow
def test_digits_never_seen_are_drawn_from_their_own_support(tmp_path):
    """Of each: read as itself three times as often from its own support as from others', and nearer than a baseline's.

    The baseline draws any of the seven digits seen: its FD excess on the three others was 31 to 55 over three seeds.
    """
    workdir = tmp_path / "run"
    assert main_jax.main(["--config=configs/fewshot_digits.py", f"--workdir={workdir}", "--config.mesh.data=2"]) == 0
    unseen, classes = split_of(workdir)
    read, excess = confusion(workdir, len(classes), 100), excess_of(workdir)
    for digit in unseen:
        own, others = read[digit, digit], np.delete(read[:, digit], digit).mean()
        print(f"{classes[digit]}: own {own:.3f}, others {others:.3f}, excess {excess[classes[digit]]:.2f}")
        assert own > 0.5 and own >= 3 * others
        assert excess[classes[digit]] < 20
