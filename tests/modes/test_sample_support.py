"""``--mode=sample`` from a few images of anything: what is drawn, what decides it, what is written and refused."""

import jax
import numpy as np
import pytest
from PIL import Image

import main_jax
from diffusion import supports
from diffusion.generate import images
from tests.evaluated import digits_of, write_npz
from tests.fewshot_runs import SETS
from tests.nets.tiny_nets import stirred
from tests.tiny import arguments, program

QUIET = SETS | {"val__every": 0, "sample__every": 0, "eval__metrics": "()", "log__every": 1, "checkpoint__keep": 2}
# with a guidance that makes the little that a young net owes to its sets show
STEPS = {"train__steps": 6, "optim__lr": 0.02, "sampler__guidance_scale": 40.0, "sampler__threshold": "none"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on sets, one without, and supports of three digits and of eight."""
    folder = tmp_path_factory.mktemp("supported")
    assert main_jax.main(arguments(folder / "run", **QUIET, **STEPS)) == 0
    assert main_jax.main(arguments(folder / "label", **QUIET | {"cond__names": "label"}, train__steps=1)) == 0
    for name, n in (("three", 3), ("eight", 8)):
        write_pictures(folder / name, digits_of({7: n})[0])
    return folder


def write_pictures(place, pictures, names="abcdefgh"):
    place.mkdir()
    for name, picture in zip(names, pictures, strict=False):
        Image.fromarray(picture[..., 0]).save(place / f"{name}.png")


def sampled(folder, name, *said, run="run"):
    """(exit status, {array: values}, files) of one command; the folder NAME takes what it writes."""
    out = folder / name
    status = main_jax.main(
        ["--mode=sample", f"--workdir={folder / run}", f"--config.sample.out={out}"]
        + [f"--config.{text}" for text in ("sample.num=4", "eval.batch_size=16", *said)]
    )
    files = sorted(path.name for path in out.iterdir()) if out.exists() else []
    return status, dict(np.load(out / "samples.npz")) if "samples.npz" in files else {}, files


def shown(folder, place, *said):
    """The arrays of one command that is shown what lies at ``place``."""
    name = f"from-{place.name}-{len(list(folder.iterdir()))}"
    status, found, _ = sampled(folder, name, f"sample.support={place}", *said)
    assert status == 0
    return found


def test_what_is_written_and_said(folder, capsys):
    status, found, files = sampled(folder, "plain", f"sample.support={folder / 'three'}")
    said = capsys.readouterr().out
    assert status == 0 and files == ["samples.npz", "samples.png"]
    assert set(found) == {"images", "set", "set_valid"}, "no labels: they are of no known class"
    assert found["images"].shape == (4, 8, 8, 1) and found["images"].dtype == np.uint8
    np.testing.assert_array_equal(found["set"], np.broadcast_to(digits_of({7: 3})[0], (4, 3, 8, 8, 1)))
    assert found["set_valid"].shape == (4, 3) and found["set_valid"].all()
    assert f"3 support images from {folder / 'three'}\n" in said and "4 images from the EMA weights of step 6\n" in said
    sheet = np.asarray(Image.open(folder / "plain" / "samples.png"))
    assert sheet.shape[1] > 7 * 50 and sheet.shape[0] < 100, "three images and four side by side"


def test_the_seed_and_the_support_decide_and_the_names_of_its_files_do_not(folder):
    three = digits_of({7: 3})[0]
    first = shown(folder, folder / "three")["images"].astype(int)
    np.testing.assert_array_equal(shown(folder, folder / "three")["images"], first)
    write_pictures(folder / "reversed", three, "cba")
    assert np.abs(shown(folder, folder / "reversed")["images"] - first).max() <= 1
    three[1] = digits_of({0: 1})[0]
    write_pictures(folder / "other", three)
    assert np.abs(shown(folder, folder / "other")["images"] - first).max() > 1
    assert (shown(folder, folder / "three", "sample.seed=1")["images"] != first).any()
    in_another_batch = shown(folder, folder / "three", "eval.batch_size=2")["images"]
    assert np.abs(in_another_batch - first).max() <= 1


def test_of_more_images_than_a_set_every_drawn_image_sees_a_part_of_its_own(folder, capsys):
    found = shown(folder, folder / "eight")
    assert "8 support images" in (said := capsys.readouterr().out) and "; each image is drawn from 5 of them" in said
    assert found["set"].shape == (4, 5, 8, 8, 1) and found["set_valid"].all()
    given = {picture.tobytes() for picture in digits_of({7: 8})[0]}
    parts = [frozenset(picture.tobytes() for picture in row) for row in found["set"]]
    assert all(len(part) == 5 and part <= given for part in parts) and len(set(parts)) > 1
    two = shown(folder, folder / "eight", "eval.support_size=2")
    assert two["set"].shape == (4, 2, 8, 8, 1)


@pytest.mark.parametrize("form", ["one image", "npz", "colours of another size"])
def test_every_form_of_a_support(folder, form):
    place = folder / form.replace(" ", "-")
    if form == "npz":
        place = write_npz(folder / "some.npz", {7: 3})
        expected = digits_of({7: 3})[0]
    elif form == "one image":
        place = folder / "three" / "b.png"
        expected = digits_of({7: 3})[0][1:2]
    else:
        place.mkdir()
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(place / "a.jpg")
        expected = np.full((1, 8, 8, 1), 90, np.uint8)
    found = shown(folder, place)
    np.testing.assert_array_equal(found["set"], np.broadcast_to(expected, (4, *expected.shape)))


def test_without_a_support_it_is_that_of_the_classes_asked_for(folder):
    status, found, _ = sampled(folder, "classes", "sample.classes=3:2,0:1")
    assert status == 0 and found["labels"].tolist() == [3, 3, 0] and set(found) >= {"set", "set_valid"}
    records = program(folder / "run", **QUIET, **STEPS).dataset.open("test")
    for label, row in zip(found["labels"], found["set"], strict=True):
        own = {records[int(i)].image.tobytes() for i in np.flatnonzero(records.labels == label)}
        assert {picture.tobytes() for picture in row} <= own


REFUSALS = {
    "a net without sets": (("sample.support={three}",), "label", r"sample.support: is for nets with the condition set"),
    "with classes": (
        ("sample.support={three}", "sample.classes=3"),
        "run",
        "sample.support: shows the net images",
    ),
    "a missing folder": (("sample.support={three}/gone",), "run", "sample.support: {three}/gone does not exist; give"),
    "a folder of folders": (("sample.support={folder}",), "run", "sample.support: {folder} holds no images"),
    "a class without an image": (
        ("eval.support_split=test_seen", "sample.classes=3,0"),
        "run",
        "eval.support_split: test_seen has no image of 3 to condition on; take another split, or leave these classes "
        "out with sample.classes",
    ),
}


@pytest.mark.parametrize(("said", "run", "problem"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_is_refused_writes_nothing(folder, capsys, said, run, problem):
    there = {"three": folder / "three", "folder": folder}
    status, _, files = sampled(folder, "refused", *(text.format(**there) for text in said), run=run)
    assert status == 2 and files == []
    assert problem.format(**there) in capsys.readouterr().err


def test_a_support_is_of_no_known_class_to_a_net_that_sees_classes_too(folder, tmp_path):
    """Its label is the null: not that of the first class."""
    both = QUIET | {"cond__names": "label,set", "cond__label__d": 8}
    p = program(tmp_path / "run", **both)
    params = stirred(jax.eval_shape(p.diffusion.net.init, jax.random.key(0)))
    support, _ = supports.of_path(p, str(folder / "three"), 0)
    which = dict(seed=0, purpose="sample", support=support)
    drawn = images(p, params, np.zeros(3, int), np.arange(3), **which)
    table = params["conditioners_label"]["table"]
    table["embedding"] = table["embedding"].at[0].add(9.0)
    np.testing.assert_array_equal(images(p, params, np.zeros(3, int), np.arange(3), **which), drawn)
    table["embedding"] = table["embedding"].at[10].add(9.0)
    assert (images(p, params, np.zeros(3, int), np.arange(3), **which) != drawn).any()


def test_an_older_average_of_the_run_may_lead_away(folder):
    """The weaker net sees the same set."""
    led = f"sampler.autoguidance={folder / 'run'}:3"
    strong, weak = (
        shown(folder, folder / "three", f"sample.step={step}", "sampler.guidance_scale=1") for step in (6, 3)
    )
    alone = shown(folder, folder / "three", led, "sampler.guidance_scale=0")
    assert np.abs(alone["images"].astype(int) - weak["images"]).max() <= 1
    assert (shown(folder, folder / "three", led)["images"] != strong["images"]).any()
