"""The backbones by name: a row is ``(size, out_channels, dtype, *, …) -> nn.Module`` and answers as ``unet`` says."""

from functools import partial

from diffusion.nets.dit import dit
from diffusion.nets.edm2_unet import edm2, edm2_s, edm2_xs
from diffusion.nets.unet import adm_64, unet, unet_cifar

NETS = {
    "unet": unet,
    "unet_cifar": unet_cifar,
    "adm_64": adm_64,
    "edm2": edm2,
    "edm2_xs": edm2_xs,
    "edm2_s": edm2_s,
    "dit": dit,
    # Peebles & Xie 2023, table 1
    "dit_s_2": partial(dit, patch=2, d=384, depth=12, heads=6),
    "dit_b_2": partial(dit, patch=2, d=768, depth=12, heads=12),
    "dit_l_2": partial(dit, patch=2, d=1024, depth=24, heads=16),
    "dit_xl_2": partial(dit, patch=2, d=1152, depth=28, heads=16),
    # JiT-B/16 for 256 x 256 pixels (Li & He 2025 and its public code)
    "jit_b_16": partial(
        dit,
        patch=16,
        patch_width=128,
        d=768,
        depth=12,
        heads=12,
        mlp="swiglu",
        norm="rms",
        qk_norm=True,
        positions="both",
        context_tokens=32,
        context_from=4,
    ),
}
