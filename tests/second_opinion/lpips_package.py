"""What the package lpips answers, on our random weights."""

import numpy as np

from diffusion.nets.lpips import TRUNKS, Conv
from tests.nets.lpips_weights import pairs, tensors


def answers(net: str, published_heads: bool = False) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(f64[n] distances of ``pairs``, the heads that were used)."""
    import lpips
    import torch

    trunk, heads = tensors(net)
    model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)  # with its published heads
    state = model.state_dict()
    names = [name for name in state if name.startswith("lin") and name.count(".") == 3]
    if published_heads:
        heads = {name: state[name].numpy() for name in names}
    # lpips cuts torchvision's features into slices, which keep the numbers of their layers
    indices = [layer.index for layer in TRUNKS[net] if isinstance(layer, Conv)]
    places = {int(name.split(".")[2]): name.rsplit(".", 1)[0] for name in state if name.startswith("net.slice")}
    ours = {f"{places[i]}.{kind}": trunk[f"features.{i}.{kind}"] for i in indices for kind in ("weight", "bias")}
    assert set(ours) == {name for name in state if name.startswith("net.slice")}
    loaded = model.load_state_dict({k: torch.from_numpy(v) for k, v in (ours | heads).items()}, strict=False)
    assert not loaded.unexpected_keys
    for i, layer in enumerate(model.lins):  # `lins` are the same modules as `lin0` …
        assert torch.equal(layer.model[1].weight, torch.from_numpy(heads[f"lin{i}.model.1.weight"]))
    x, y = (torch.from_numpy(z.astype(np.float64).transpose(0, 3, 1, 2)) / 127.5 - 1 for z in pairs(net))
    with torch.no_grad():
        return model.double()(x, y).numpy().ravel(), heads
