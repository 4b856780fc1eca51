"""The backbones by name: a row is ``(size, out_channels, dtype, *, …) -> nn.Module`` and answers as ``unet`` says."""

import math
from functools import partial

from diffusion.nets.dit import dit
from diffusion.nets.edm2_unet import edm2
from diffusion.nets.unet import unet

NETS = {
    "unet": unet,
    # DDPM++ (Song 2021) as Karras 2022 trains it on CIFAR-10, for 32 x 32: attention at 16 x 16
    "unet_cifar": partial(
        unet,
        channels=128,
        mults=(2, 2, 2),
        blocks=4,
        attention=(1,),
        heads=1,
        groups=32,
        dropout=0.13,
        group_width=4,
        norm_eps=1e-6,
        up_attention="last",
        middle="attention",
        resample="block",
        project_skip=True,
        skip_scale=math.sqrt(0.5),
        adaptive=False,
        embedding="ddpmpp",
        vec="before",
    ),
    # ADM of ImageNet-64 (Dhariwal & Nichol 2021), for 64 x 64: attention at 32 x 32, 16 x 16 and 8 x 8
    "adm_64": partial(
        unet,
        channels=192,
        mults=(1, 2, 3, 4),
        blocks=3,
        attention=(1, 2, 3),
        groups=32,
        dropout=0.1,
        head_width=64,
        middle="attention",
        resample="block",
    ),
    "edm2": edm2,
    # EDM2-XS and -S (Karras 2024), for 64 x 64 (images or latents): attention at 16 x 16 and 8 x 8
    "edm2_xs": partial(edm2, channels=128, mults=(1, 2, 3, 4), blocks=3, attention=(2, 3), head_width=64),
    "edm2_s": partial(edm2, channels=192, mults=(1, 2, 3, 4), blocks=3, attention=(2, 3), head_width=64),
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
