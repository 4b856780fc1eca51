"""DINOv2 against Hugging Face's transformers, on torch: `make test-second-opinion`."""

import numpy as np
import pytest

from diffusion.extractors.dinov2 import MODELS
from diffusion.nets.vit import positions_of
from tests.nets import tiny_vits
from tests.nets.test_vit import answer
from tests.second_opinion import transformers_nets

pytestmark = pytest.mark.second_opinion


@pytest.mark.parametrize("name", tiny_vits.DINOV2S)
def test_class_token(name, tmp_path):
    wanted = transformers_nets.answers(name, tmp_path)["image"]
    np.testing.assert_allclose(answer(name, "image"), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("table, side", [(37, 16), (37, 40), (5, 2)])
def test_positions(table, side, offset):
    """Offset 0 is Hugging Face's code, 0.1 DINOv2's own."""
    import torch

    square = np.random.default_rng(0).standard_normal((table, table, 8)).astype(np.float32)
    given = torch.from_numpy(square).permute(2, 0, 1)[None]
    how = {"scale_factor": ((side + offset) / table,) * 2} if offset else {"size": (side, side)}
    wanted = torch.nn.functional.interpolate(given, mode="bicubic", **how)[0].permute(1, 2, 0).numpy()
    found = positions_of(np.concatenate([np.ones((1, 8), np.float32), square.reshape(-1, 8)]), (side, side), offset)
    np.testing.assert_array_equal(found[0], np.ones(8))
    np.testing.assert_allclose(found[1:].reshape(wanted.shape), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_published_size():
    import torch
    from transformers import Dinov2Config, Dinov2Model

    shape, _ = MODELS["vit_l_14"]
    with torch.device("meta"):
        model = Dinov2Model(Dinov2Config.from_dict(transformers_nets.dinov2_config(shape)))
    assert sum(p.numel() for p in model.parameters()) == 304_368_640
