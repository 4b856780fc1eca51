"""The Inception extractor against torch-fidelity's network and torch's resizes, at the full 299 x 299.

Its weights are read from files that torch pickled.
"""

import importlib

import jax
import numpy as np
import pytest

from diffusion import tensor_files
from diffusion.errors import ConfigError
from diffusion.extractors import Given
from diffusion.extractors.inception import inception, prepared
from diffusion.nets.inception import published_shapes
from diffusion.weight_files import WeightFile
from scripts import inception_reference as reference

pytestmark = pytest.mark.second_opinion

MODULE = importlib.import_module("diffusion.extractors.inception")


@pytest.fixture(scope="module")
def weights():
    return reference.random_weights(published_shapes())


@pytest.fixture
def pth(weights, tmp_path, monkeypatch):
    """The random weights as torch saves a network, in the old format and with its counters."""
    import torch

    monkeypatch.setenv("DIFFUSION_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setattr(MODULE, "WEIGHTS", WeightFile(("random.pth",)))
    state = {name: torch.from_numpy(tensor) for name, tensor in weights.items()}
    state["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(3)
    torch.save(state, tmp_path / "random.pth", _use_new_zipfile_serialization=False)
    return tmp_path / "random.pth"


@pytest.mark.parametrize("tap", [64, 192, 768, 2048])
def test_features_of_a_pickle_agree_from_files_to_taps(pth, weights, tap):
    extractor = inception(Given("any", 0, None, None, None), weights=str(pth), tap=tap)
    again = inception(Given("any", 0, None, None, None), weights=str(pth), tap=tap)
    jax.tree.map(np.testing.assert_array_equal, extractor.frozen, again.frozen)  # by way of the conversion
    theirs = reference.theirs(weights, reference.images(), 299)
    ours = jax.jit(extractor.extract)(extractor.frozen, reference.images())
    for name, value in (("features", theirs[str(tap)]), ("logits", theirs["logits_unbiased"])):
        off = np.abs(np.asarray(ours[name]) - value).max() / np.abs(value).max()
        assert off < 1e-5, (name, off)


def test_half_precision_is_read(tmp_path):
    import torch

    torch.save({"a": torch.full((2, 3), 1.5, dtype=torch.bfloat16), "b": torch.ones(2).half()}, tmp_path / "half.pth")
    found = tensor_files.read(tmp_path / "half.pth")
    assert found["a"].dtype == np.float32 and (found["a"] == 1.5).all() and found["b"].dtype == np.float16


def test_a_truncated_pickle_is_refused(pth):
    pth.write_bytes(pth.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="not readable as a file of tensors"):
        inception(Given("any", 0, None, None, None), weights=str(pth))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, pth):
    import torch

    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"fc.weight": Runs()}, pth)
    with pytest.raises(ConfigError, match="not readable as a file of tensors"):
        inception(Given("any", 0, None, None, None), weights=str(pth))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (256, 256), (299, 299), (512, 400)])
def test_resizes_are_those_of_the_reference_programs(size):
    import torch

    reference.bare_torch_fidelity()
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
    tf = (interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False) - 128) / 128
    half = 2 * torch.nn.functional.interpolate(x / 255, (299, 299), mode="bilinear", align_corners=False) - 1
    for preset, theirs in (("fid-tf", tf), ("fid-pytorch", half)):
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(np.asarray(prepared(images, preset)), theirs, atol=2e-5)
