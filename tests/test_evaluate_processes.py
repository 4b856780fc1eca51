"""An evaluation by two real processes gives the images and the figures of one."""

import json

import numpy as np
import pytest

import main_jax
from tests.evaluated import QUIET
from tests.tiny import arguments
from tests.two_processes import MAIN, copied, local

# process 1 ranks the classes and the copies the other way round, as if its last bits were others
DIFFERS = MAIN.replace(
    "sys.exit(",
    """
if me == "1":
    from diffusion import drawn_rows, evaluations
    ranked, suspicious = drawn_rows.worst_and_best, drawn_rows.suspicious_pairs
    drawn_rows.worst_and_best = lambda *args: [part[::-1] for part in ranked(*args)[::-1]]
    evaluations.suspicious_pairs = lambda compared, pairs: suspicious(compared, pairs[::-1])
sys.exit(""",
)
NETWORKS = {
    "eval__extractor": "pixels",
    "eval__metrics": "fd,accuracy,lpips,memorisation",
    "eval__pairs": 7,
    "eval__batch_size": 2,
}
EXACT = dict(rtol=1e-5, atol=1e-6)  # between topologies


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert main_jax.main(arguments(workdir, **QUIET | {"eval__metrics": "()"})) == 0
    return workdir


def fields(**changed):
    return [f"--config.{name.replace('__', '.')}={value}" for name, value in changed.items()]


def same_reports(found, wanted):
    """The same files with the same counts and ids, figures to 1e-5."""
    assert sorted(p.name for p in found.iterdir()) == sorted(p.name for p in wanted.iterdir())
    for path in wanted.glob("*.json"):
        ours, theirs = (json.loads((folder / path.name).read_text()) for folder in (found, wanted))
        for name in ("counts", "n", "extractors", "reference", "networks", "reasons"):
            assert ours[name] == theirs[name], name
        assert list(ours["metrics"]) == list(theirs["metrics"])
        np.testing.assert_allclose(*(np.array(list(b["metrics"].values()), float) for b in (ours, theirs)), **EXACT)
    for path in (*wanted.glob("*_images.png"), *wanted.glob("*_suspicious.png")):
        assert (found / path.name).read_bytes() == path.read_bytes(), "the same sheets"


def cached(workdir):
    """{name: arrays} of the real images' features."""
    return {path.name: dict(np.load(path)) for path in (workdir / "cache").glob("reference-*.npz")}


@pytest.mark.slow
def test_drawn_images(trained, tmp_path):
    """With the real features' cache, both sheets, a network of pairs and two of features."""
    again, alone = copied(trained, tmp_path / "again"), copied(trained, tmp_path / "alone")
    ended = local(tmp_path, "--mode=eval", f"--workdir={again}", *fields(**NETWORKS), program=DIFFERS)
    assert ended.rc == 0 and ended.out.count("It wrote:") == 1, ended.said
    assert main_jax.main(["--mode=eval", f"--workdir={alone}", *fields(**NETWORKS)]) == 0
    same_reports(again / "eval", alone / "eval")
    ours, theirs = cached(again), cached(alone)
    assert list(ours) and set(ours) == set(theirs)
    for name, arrays in theirs.items():
        np.testing.assert_array_equal(ours[name]["ids"], arrays["ids"])
        np.testing.assert_array_equal(ours[name]["labels"], arrays["labels"])
        np.testing.assert_allclose(ours[name]["features"], arrays["features"], **EXACT)
    assert not list((again / "cache").glob("evaluation-*")), "nothing of it is left"


@pytest.mark.slow
def test_images_of_another_program(tmp_path):
    from tests.tiny import program

    records = program(tmp_path / "data").dataset.open("train")
    ids = np.random.default_rng(0).permutation(len(records))[:203]
    images = np.stack([records[int(i)].image for i in ids])
    np.savez(tmp_path / "made.npz", images=images // 2 + 20, labels=records.labels[ids], ids=ids)
    given = {"eval__metrics": "fd,accuracy,lpips,paired", "eval__images": tmp_path / "made.npz"}
    tiny = arguments(tmp_path, **NETWORKS | given | {"eval__num_samples_per_class": 9})[1:]
    argv = ["--mode=eval", "--config=configs/digits.py", *tiny]
    ended = local(tmp_path, *argv, f"--workdir={tmp_path / 'again'}")
    assert ended.rc == 0 and ended.out.count("It wrote:") == 1, ended.said
    assert main_jax.main([*argv, f"--workdir={tmp_path / 'alone'}"]) == 0
    same_reports(tmp_path / "again/eval", tmp_path / "alone/eval")
