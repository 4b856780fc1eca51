"""The digits recipe, whole: minutes, so slow. Its samples are read by a classifier that the program does not know."""

import numpy as np
import pytest

import main_jax
from benchmarks.digits_judge import pixels, svc

PER_CLASS = 100


def nearest(a: np.ndarray, b: np.ndarray, *, same: bool = False) -> np.ndarray:
    """Distance of each row of a to the nearest row of b, itself aside where they are the same rows."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    if same:
        np.fill_diagonal(squared, np.inf)
    return np.sqrt(np.maximum(squared, 0).min(1))


def check_quality(made: dict) -> dict[str, float]:
    """Read as asked >= 95 %; per class the nearest-training distance within 20 % of the real one; no copies."""
    judge, real, labels = svc()
    drawn = pixels(made["images"])
    read = float((judge.predict(drawn) == made["labels"]).mean())
    assert read >= 0.95
    ratios = {}
    for digit in range(10):
        mine, theirs = drawn[made["labels"] == digit], real[labels == digit]
        distance = nearest(mine, theirs)
        assert distance.min() > 0, f"a copy of a training image of {digit}"
        ratios[str(digit)] = float(np.median(distance) / np.median(nearest(theirs, theirs, same=True)))
        assert 0.8 <= ratios[str(digit)] <= 1.2, (digit, ratios)
    return {"read": read} | ratios


@pytest.mark.slow
def test_the_digits_are_legible_varied_and_not_copied(tmp_path):
    workdir = tmp_path / "digits"
    assert main_jax.main(["--config=configs/digits.py", f"--workdir={workdir}", "--config.mesh.data=2"]) == 0
    asked = [f"--config.sample.num={10 * PER_CLASS}", f"--config.sample.out={tmp_path}"]
    assert main_jax.main(["--mode=sample", f"--workdir={workdir}", *asked]) == 0
    print(check_quality(np.load(tmp_path / "samples.npz")))
