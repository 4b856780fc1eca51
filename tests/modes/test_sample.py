"""``--mode=sample`` of a tiny run: what it starts from, what it draws between, what leads it, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import main_jax
from diffusion import subjects
from diffusion.errors import ConfigError
from tests.tiny import arguments, program

QUIET = {"val__every": 0, "sample__every": 0, "eval__metrics": "()", "log__every": 1, "checkpoint__keep": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two steps, one of a smaller net, an image and a mask."""
    folder = tmp_path_factory.mktemp("sampled")
    steps = {"train__steps": 2, "checkpoint__every": 1, "sampler__steps": 4}
    assert main_jax.main(arguments(folder / "run", **QUIET, **steps)) == 0
    assert main_jax.main(arguments(folder / "small", **QUIET, **steps, net__unet__channels=4)) == 0
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / "image.png")
    Image.fromarray(rng.integers(0, 256, (9, 8), np.uint8)).save(folder / "tall.png")
    Image.fromarray(np.uint8([[255] * 4 + [0] * 4] * 8)).save(folder / "mask.png")
    return folder


def sampled(folder, name, *said):
    """(exit status, {array: values}, files) of one command; the folder NAME takes what it writes."""
    out = folder / name
    status = main_jax.main(
        ["--mode=sample", f"--workdir={folder / 'run'}", f"--config.sample.out={out}"]
        + [f"--config.{text}" for text in ("sample.num=3", "eval.batch_size=16", *said)]
    )
    files = sorted(path.name for path in out.iterdir()) if out.exists() else []
    return status, dict(np.load(out / "samples.npz")) if "samples.npz" in files else {}, files


def test_sdedit_keeps_more_the_earlier_it_starts(folder):
    image = np.asarray(Image.open(folder / "image.png"))[None, :, :, None].astype(int)
    away = []
    for t0 in (0.25, 1.0):
        status, found, files = sampled(folder, f"edit{t0}", f"sample.start={folder}/image.png", f"sample.t0={t0}")
        assert status == 0 and files == ["samples.npz", "samples.png"]
        away.append(np.abs(found["images"] - image).mean())
    assert away[0] < 0.7 * away[1]


def test_inpainting_keeps_what_is_white(folder):
    said = f"sample.start={folder}/image.png", f"sample.mask={folder}/mask.png", "sample.trajectory=true"
    status, found, files = sampled(folder, "painted", *said)
    assert status == 0 and files == ["samples.npz", "samples.png", "trajectory.png"]
    image, images = np.asarray(Image.open(folder / "image.png"))[:, :, None], found["images"]
    np.testing.assert_array_equal(images[:, :, :4], np.broadcast_to(image[:, :4], (3, 8, 4, 1)))
    assert (images[0, :, 4:] != images[1, :, 4:]).any()
    sheet = np.asarray(Image.open(folder / "painted" / "trajectory.png"))
    assert sheet.shape == (3 * 50 + 2, 5 * 50 + 2)  # three images, four predictions and the image


def test_a_folder_and_an_npz_are_starts_too(folder):
    (folder / "many").mkdir()
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "many" / f"{i}.png")
    np.savez(folder / "many.npz", images=images)
    found = [
        sampled(folder, f"from{i}", f"sample.start={path}", "sample.t0=0.5")[1]["images"]
        for i, path in enumerate((folder / "many", folder / "many.npz"))
    ]
    np.testing.assert_array_equal(*found)
    assert (found[0][0] != found[0][1]).any()


def test_each_image_may_start_from_a_real_one_of_its_class(folder):
    said = ("sample.start=data:test", "sample.classes=3:2,7:1", "sample.t0=.25")
    status, found, _ = sampled(folder, "real", *said)
    records = program(folder / "run").dataset.open("test")
    starts = np.stack([records[i].image for c, n in ((3, 2), (7, 1)) for i in np.flatnonzero(records.labels == c)[:n]])
    assert status == 0 and found["labels"].tolist() == [3, 3, 7]
    distance = np.abs(found["images"][:, None].astype(int) - starts).mean((2, 3, 4))
    assert distance.argmin(1).tolist() == [0, 1, 2] and len({start.tobytes() for start in starts}) == 3


def test_images_are_written_one_by_one_in_class_folders(folder):
    status, found, files = sampled(folder, "pngs", "sample.pngs=true", "sample.classes=3:3,7:2")
    assert status == 0 and files == ["images", "samples.npz", "samples.png"]
    written = sorted((folder / "pngs" / "images").rglob("*.png"))
    assert [f"{p.parent.name}/{p.name}" for p in written] == [
        *(f"3/{i:06d}.png" for i in range(3)),
        *(f"7/{i:06d}.png" for i in range(2)),
    ]
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(p)) for p in written]), found["images"][..., 0])
    (folder / "pngs" / "images" / "3" / "mine.png").touch()
    assert sampled(folder, "pngs", "sample.pngs=true", "sample.classes=3:1")[0] == 0
    assert sorted(p.name for p in (folder / "pngs" / "images" / "3").iterdir()) == ["000000.png", "mine.png"]
    assert len(list((folder / "pngs" / "images" / "7").iterdir())) == 2, "classes that are not asked for stay"


def test_interpolation_goes_through_the_images(folder):
    plain = sampled(folder, "plain", "sample.classes=3,3,7")[1]
    found = sampled(folder, "between", "sample.classes=3,3,7", "sample.interpolate=3")[1]
    assert found["labels"].tolist() == [3] * 7 + [7] * 2
    assert np.abs(found["images"][::4].astype(int) - plain["images"]).max() <= 1
    steps = np.abs(np.diff(found["images"][:5].astype(int), axis=0)).mean((1, 2, 3))
    assert (steps > 0).all() and steps.max() < np.abs(np.diff(plain["images"][:2].astype(int), axis=0)).mean()


def test_autoguidance_leads_away_from_a_smaller_net_and_from_an_older_average(folder):
    plain = sampled(folder, "alone", "sampler.guidance_scale=1")[1]["images"]
    drawn = {
        weaker: sampled(folder, f"auto{i}", "sampler.guidance_scale=3", f"sampler.autoguidance={folder}/{weaker}")
        for i, weaker in enumerate(("small", "run:1", "run:2"))
    }
    assert all(status == 0 for status, _, _ in drawn.values())
    images = {weaker: found["images"].astype(int) for weaker, (_, found, _) in drawn.items()}
    assert np.abs(images["run:2"] - plain).max() <= 1, "away from itself is nowhere"
    assert np.abs(images["small"] - plain).max() > 1 and np.abs(images["run:1"] - plain).max() > 1


def test_an_evaluation_does_not_go_on_with_images_led_by_older_weights(folder, tmp_path):
    """The weaker run may have trained on between two starts: its newest weights are part of what images are made of."""
    weaker = folder / "moving"
    shutil.copytree(folder / "small", weaker)
    found = []
    for newest in (2, 1):
        p = program(tmp_path, sampler__autoguidance=weaker)
        found.append(subjects.drawn(p, {}, "ema").about)
        shutil.rmtree(weaker / "checkpoints" / str(newest))
    assert found[0] != found[1]
    alone = program(tmp_path)
    assert subjects.drawn(alone, {}, "ema").about not in found


REFUSED = {  # case: (what is said, the field, what else is said)
    "no such image": (["sample.start={}/none.png"], "sample.start", "does not exist"),
    "another size": (["sample.start={}/tall.png"], "sample.start", "is 9x8 pixels, the run's images are 8x8"),
    "no images in it": (["sample.start={}/run"], "sample.start", "holds no images"),
    "no such split": (["sample.start=data:tset"], "sample.start", "there are train, test"),
    "a mask of another size": (
        ["sample.start={}/image.png", "sample.mask={}/tall.png"],
        "sample.mask",
        "is 9x8 pixels, the run's images are 8x8",
    ),
    "a time below the grid": (["sample.start={}/image.png", "sample.t0=.1"], "sample.t0", "take more sampler.steps"),
    "noise of its own": (["sample.interpolate=2", "sampler.name=ddpm"], "sample.interpolate", "without noise"),
    "nothing to go to": (["sample.interpolate=2", "sample.num=1"], "sample.interpolate", "two or more"),
    "no such checkpoint": (["sampler.autoguidance={}/run:9"], "sampler.autoguidance", "no checkpoint 9; there"),
    "another schedule": (["sampler.autoguidance={}/flow"], "sampler.autoguidance", "they must be the same"),
    "other conditions": (["sampler.autoguidance={}/free"], "sampler.autoguidance", "other conditions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(case, folder, capsys):
    config = json.loads((folder / "run" / "config.json").read_text())
    for name, section, changed in (("flow", "process", {"schedule": "flow"}), ("free", "cond", {"names": []})):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config | {section: config[section] | changed}))
    said, field, problem = REFUSED[case]
    status, _, files = sampled(folder, "refused", *(text.format(folder) for text in said))
    line = capsys.readouterr().err.strip()
    assert (status, files) == (2, []) and "\n" not in line
    assert line.startswith(f"main_jax.py: {field}: ") and problem in line


PATHS = {"process__schedule": "decoupled", "sampler__name": "decoupled"}
APART = {  # case: (what both runs share, ours alone, theirs alone, what is said)
    "a third variable": (
        PATHS,
        {"process__target": "decoupled"},
        {"process__target": "decoupled_linear"},
        "'third_variable': True",
    ),
    "latents on another scale": (
        {"data__source": "latents", "codec__name": "latents", "sampler__threshold": "none", "eval__metrics": "()"},
        {},
        {"codec__latents__scale": 1.0},
        "'scale': 1.0",
    ),
}


@pytest.mark.parametrize("case", APART)
def test_a_weaker_net_must_know_the_same_noisy_images(case, tmp_path):
    both, ours, theirs, said = APART[case]
    np.save(tmp_path / "latents.npy", np.zeros((20, 4, 4, 4), np.float16))
    np.save(tmp_path / "labels.npy", np.arange(20) % 2)
    both = both | ({"data__root": tmp_path} if "data__source" in both else {})
    (tmp_path / "config.json").write_text(json.dumps(program(tmp_path, **both, **theirs).config))
    with pytest.raises(ConfigError, match="they must be the same") as refused:
        program(tmp_path / "run", **both, **ours, sampler__autoguidance=tmp_path)
    assert refused.value.field == "sampler.autoguidance" and said in str(refused.value)
