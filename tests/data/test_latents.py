import numpy as np
import pytest
from PIL import Image

import main_jax
from diffusion.data.latents import latents
from diffusion.drawing import asked_drawing
from diffusion.errors import ConfigError, DataError
from tests.tiny import arguments, program, state_print

LATENTS = np.random.default_rng(0).normal(size=(20, 4, 4, 4)).astype(np.float16)
LABELS = np.array([0, 1] * 10)


def write(folder, values=LATENTS, labels=LABELS, classes=None) -> str:
    folder.mkdir(exist_ok=True)
    np.save(folder / "latents.npy", values)
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    if classes is not None:
        (folder / "classes.txt").write_text(classes)
    return str(folder)


def test_every_latent_is_read_once_as_it_is(tmp_path):
    dataset = latents(write(tmp_path / "vae", classes="cat\ndog\n"), 0, test_fraction=0.2)
    assert (dataset.name, dataset.classes, dataset.image_shape) == ("vae", ("cat", "dog"), (4, 4, 4))
    assert dataset.sizes == {"train": 16, "test": 4} and dataset.latent
    found = [dataset.open(split)[i] for split, n in dataset.sizes.items() for i in range(n)]
    assert {r.image.dtype for r in found} == {np.dtype(np.float32)}
    everything = {(r.image.tobytes(), r.label) for r in found}
    assert everything == {(x.astype(np.float32).tobytes(), int(y)) for x, y in zip(LATENTS, LABELS, strict=True)}


def test_unlabelled(tmp_path):
    dataset = latents(write(tmp_path, labels=None), 0, test_fraction=0.5)
    assert dataset.classes == () and not dataset.open("train").labelled and dataset.open("train")[0].label == -1


def test_the_fingerprint_knows_every_value_and_the_split(tmp_path):
    other = LATENTS.copy()
    other[0, 0, 0, 0] += 1
    sets = [
        latents(write(tmp_path / str(i), v), s) for i, (v, s) in enumerate([(LATENTS, 0), (LATENTS, 1), (other, 0)])
    ]
    prints = [dataset.open("train").fingerprint + dataset.open("test").fingerprint for dataset in sets]
    assert len(set(prints)) == 3
    again = latents(write(tmp_path / "again"), 0)
    assert again.open("train").fingerprint + again.open("test").fingerprint == prints[0]


def test_a_value_that_is_not_finite_is_named(tmp_path):
    bad = LATENTS.copy()
    bad[7, 1, 2, 3] = np.nan
    dataset = latents(write(tmp_path, bad), 0)
    with pytest.raises(DataError, match="latents.npy, row 7 holds a value that is not finite"):
        for split, n in dataset.sizes.items():
            for i in range(n):
                dataset.open(split)[i]


BAD = {
    "uint8": (dict(values=LATENTS.astype(np.uint8)), r"uint8\[20, 4, 4, 4\]; float16 or float32"),
    "flat": (dict(values=LATENTS[:, 0]), r"float16\[20, 4, 4\]; float16"),
    "empty": (dict(values=LATENTS[:0]), r"float16\[0, 4, 4, 4\]"),
    "objects": (dict(values=np.array([{}], object)), "not a readable .npy file of plain numbers"),
    "labels of another length": (dict(labels=LABELS[1:]), r"labels.npy: is int64\[19\]; integers \[20\]"),
    "a class missing": (dict(labels=LABELS * 2), "0..k-1 with every class present"),
    "names of another number": (dict(classes="cat\n"), "2 classes are labelled, 1 different names"),
    "names without labels": (dict(labels=None, classes="cat\n"), "0 classes are labelled"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_of_the_form_is_refused(tmp_path, case):
    given, message = BAD[case]
    with pytest.raises(DataError, match=message):
        latents(write(tmp_path, **given), 0)


def test_a_folder_without_latents_is_refused(tmp_path):
    with pytest.raises(DataError, match="latents.npy: not a readable"):
        latents(str(tmp_path), 0)
    with pytest.raises(ConfigError, match="data.root"):
        latents("", 0)


OF_LATENTS = dict(
    data__source="latents", codec__name="latents", data__batch_size=8, sampler__threshold="none", eval__metrics="()"
)


def test_a_net_trains_on_latents_and_goes_on_exactly(tmp_path):
    given = OF_LATENTS | dict(data__root=write(tmp_path / "vae"))
    assert main_jax.main(arguments(tmp_path / "run", **given, train__steps=6)) == 0
    assert main_jax.main(arguments(tmp_path / "again", **given, train__steps=4)) == 0
    assert main_jax.main(arguments(tmp_path / "again", **given, train__steps=6)) == 0
    assert state_print(tmp_path / "run", **given)[0] == state_print(tmp_path / "again", **given)[0]
    assert (tmp_path / "run" / "samples" / "step_00000006.png").exists(), "a preview"
    assert main_jax.main(["--mode=sample", f"--workdir={tmp_path / 'run'}", "--config.sample.num=5"]) == 0
    assert np.load(tmp_path / "run" / "samples.npz")["images"].shape == (5, 4, 4, 3)


MISFITS = {
    "images with a codec of latents": (dict(codec__name="latents"), "codec.name: latents takes latents, and digits"),
    "latents as pixels": (OF_LATENTS | dict(codec__name="pixels"), "codec.name: pixels takes images, and vae holds"),
    "a threshold": (OF_LATENTS | dict(sampler__threshold="clip"), "sampler.threshold: clip is for pixels"),
    "a turn": (OF_LATENTS | dict(data__rotate=5), "data.rotate: is 5.0; it is for images"),
    "a jitter": (OF_LATENTS | dict(data__jitter=0.1), "data.jitter: is 0.1; it is for images"),
    "a flip": (OF_LATENTS | dict(data__flip=True), "data.flip: is True; it is for images"),
    "a metric": (OF_LATENTS | dict(eval__metrics='("fd",)'), "eval.metrics: vae holds latents"),
    "no scale": (OF_LATENTS | {"codec__latents__scale": 0.0}, "codec.latents.scale: is 0.0"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_are_refused_by_name(tmp_path, capsys, case):
    given, message = MISFITS[case]
    if given.get("data__source") == "latents":
        given = given | dict(data__root=write(tmp_path / "vae"))
    assert main_jax.main(arguments(tmp_path / "run", **given)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_sampling_starts_from_no_images(tmp_path):
    """RGB images as large as latents of three channels would pass for some."""
    root, image = write(tmp_path / "vae", LATENTS[..., :3]), tmp_path / "image.png"
    given = OF_LATENTS | dict(data__root=root, sample__start=image)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(image)
    with pytest.raises(ConfigError, match="sample.start: is for images, and vae holds latents"):
        asked_drawing(program(tmp_path / "run", **given), np.zeros(1, int))
