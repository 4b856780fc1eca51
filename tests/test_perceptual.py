"""The rows of PERCEPTUAL: distances of image pairs by published networks, or by the data set's own classifier."""

import hashlib
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion.classifier_fit import Labelled
from diffusion.errors import ConfigError
from diffusion.extractors import lpips as rows
from diffusion.extractors.classifier import classifier
from diffusion.extractors.extractor import Given
from diffusion.extractors.lpips import PERCEPTUAL, lpips, on_classifier
from diffusion.tables import rows as fields
from diffusion.weight_files import WeightFile
from tests.nets.lpips_weights import pairs, tensors

RECIPE = dict(steps=2, batch_size=8, min_accuracy=0.0)


@pytest.fixture
def given(tmp_path):
    def split() -> Labelled:
        rng = np.random.default_rng(0)
        return Labelled(rng.integers(0, 256, (24, 8, 8, 1)).astype(np.uint8), np.arange(24) % 3)

    return Given("Tiny set", 3, split, split, tmp_path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Random weights as files whose hashes are the pinned ones; returns the row's keywords."""
    monkeypatch.setenv("DIFFUSION_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(rows, "_installed_heads", lambda net: "")
    trunk, heads = tensors("alex")
    trunk["classifier.1.weight"] = np.zeros((2, 2), np.float32)
    for name, part, table in (("weights", trunk, "TRUNK_FILES"), ("heads", heads, "HEAD_FILES")):
        path = tmp_path / f"{name}.safetensors"
        save_file(part, path)
        pin(monkeypatch, table, path)
    return {name: str(tmp_path / f"{name}.safetensors") for name in ("weights", "heads")}


def pin(monkeypatch, table: str, path: Path) -> None:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(getattr(rows, table), "alex", WeightFile((path.name,), sha256=sha256))


def test_lpips_from_files(files, given):
    extractor = lpips(given, **files)
    found = np.asarray(jax.jit(extractor.distance)(extractor.frozen, *pairs("alex")))
    with np.load(Path(__file__).parent / "fixtures/lpips.npz") as fixture:
        np.testing.assert_allclose(found, fixture["alex"], rtol=1e-5, atol=1e-7)
    assert extractor.name == f"lpips-alex-{extractor.sha256[:8]}"
    assert extractor.about["least_side"] == 31
    assert extractor.about["trunk_sha256"] == hashlib.sha256(Path(files["weights"]).read_bytes()).hexdigest()


def test_grey_images_are_repeated(files, given):
    extractor = lpips(given, **files)
    x, y = (images[:1, :31, :31, :1] for images in pairs("alex"))
    wide = (np.repeat(images, 3, axis=3) for images in (x, y))
    grey, colour = (np.asarray(extractor.distance(extractor.frozen, *two)) for two in ((x, y), wide))
    np.testing.assert_allclose(grey, colour, rtol=1e-6)


def test_other_files_are_refused(files, given, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"eval\.lpips\.weights: .*has sha256"):
        lpips(given, weights=files["heads"], heads=files["heads"])
    pin(monkeypatch, "TRUNK_FILES", Path(files["heads"]))
    with pytest.raises(ConfigError, match=r"missing \(features\.0\.weight"):
        lpips(given, weights=files["heads"], heads=files["heads"])


def test_negative_heads_are_refused(files, given, monkeypatch, tmp_path):
    heads = tensors("alex")[1]
    heads["lin2.model.1.weight"][0, 5] = -0.1
    save_file(heads, tmp_path / "negative.safetensors")
    pin(monkeypatch, "HEAD_FILES", tmp_path / "negative.safetensors")
    with pytest.raises(ConfigError, match=r"eval\.lpips\.heads.*lin2\.model\.1\.weight is negative"):
        lpips(given, weights=files["weights"], heads=str(tmp_path / "negative.safetensors"))


def test_missing_files_and_unknown_nets_are_named(files, given):
    with pytest.raises(ConfigError, match=r"eval\.lpips\.weights: no weights\.safetensors.*docs/weights\.md"):
        lpips(given, heads=files["heads"])
    with pytest.raises(ConfigError, match=r"eval\.lpips\.heads: no heads\.safetensors"):
        lpips(given, weights=files["weights"])
    with pytest.raises(ConfigError, match="alex, vgg"):
        lpips(given, net="squeeze")


def test_the_pins_are_those_of_torchvisions_names():
    for file in rows.TRUNK_FILES.values():
        assert len(file.sha256) == 8 and file.names[0].endswith(f"-{file.sha256}.pth")


def test_on_the_classifier(given):
    extractor = on_classifier(given, **RECIPE)
    base = classifier(given, **RECIPE)
    assert extractor.name == f"lpips-{base.name}" and extractor.name.startswith("lpips-cls-Tiny-set-")
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    y = np.stack([x[0], np.roll(x[1], 1, 0), 255 - x[2]])
    found = np.asarray(jax.jit(extractor.distance)(extractor.frozen, x, y))
    assert found[0] < 1e-12 and (found[1:] > 1e-3).all()
    np.testing.assert_allclose(found, cosines(base.frozen, x, y), rtol=1e-5, atol=1e-6)


def cosines(frozen, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two less two cosines, averaged over pixels, summed over the maps; in float64."""
    from diffusion.classifier_fit import scaled
    from diffusion.nets.classifier import Classifier

    total = np.zeros(len(x))
    sown = [
        Classifier(3).apply({"params": frozen}, scaled(z), mutable=["intermediates"])[1]["intermediates"]["maps"]
        for z in (x, y)
    ]
    assert [layer.shape[1:] for layer in sown[0]] == [(8, 8, 32), (4, 4, 64), (4, 4, 128)]
    for a, b in zip(*sown, strict=True):
        a, b = (np.asarray(layer, np.float64) for layer in (a, b))
        lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        total += (2 - 2 * np.sum(a * b, axis=-1) / lengths).mean(axis=(1, 2))
    return total


def test_the_offline_row_has_the_fields_of_the_classifier():
    assert fields(PERCEPTUAL)["classifier"] == fields({"classifier": classifier})["classifier"]
    assert fields(PERCEPTUAL)["lpips"] == {"weights": "", "heads": "", "net": "alex"}


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_every_row_gives_a_distance_of_uint8_pairs_alone(name, given, files):
    keywords = {"lpips": files, "classifier": RECIPE}[name]
    extractor = PERCEPTUAL[name](given, **keywords)
    images = np.zeros((2, *{"lpips": (32, 32), "classifier": (8, 8)}[name], 1), np.uint8)
    distances = jax.eval_shape(extractor.distance, extractor.frozen, images, images)
    assert distances.shape == (2,) and distances.dtype == np.float32
    assert extractor.extract(extractor.frozen, images) == {}
    with pytest.raises(TypeError, match="uint8"):
        extractor.distance(extractor.frozen, images.astype(np.float32), images)
    with pytest.raises(TypeError, match="one shape"):
        extractor.distance(extractor.frozen, images, images[:1])
