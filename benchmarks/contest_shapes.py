"""The nets that both sides of the contest with PyTorch build: plain numbers, so that neither needs the other's library.

A row of ``SHAPES`` holds the fields of this program's config (``ours``) and the words of its counterpart (``theirs``:
of diffusers' UNet2DModel, or of ``torch_dit.DiT``). ``image`` is (h, w, c) and ``classes`` the number of classes.
"""

from typing import Any

CLASSES = 10
GUIDANCE_SCALE = 1.5
CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, EMA_DECAY, LABEL_DROP = 1.0, 1e-4, 0.01, 0.999, 0.1


def unet(
    channels: int, mults: tuple[int, ...], blocks: int, attention: tuple[int, ...], head_width: int, groups: int = 32
) -> dict[str, Any]:
    """A U-Net with adaptive group norm (Dhariwal & Nichol 2021) as both sides name it."""
    kinds = ["AttnDownBlock2D" if level in attention else "DownBlock2D" for level in range(len(mults))]
    return {
        "ours": {
            "net.name": "unet",
            "net.unet.channels": channels,
            "net.unet.mults": mults,
            "net.unet.blocks": blocks,
            "net.unet.attention": attention,
            "net.unet.head_width": head_width,
            "net.unet.groups": groups,
        },
        "theirs": {
            "kind": "unet",
            "block_out_channels": [channels * m for m in mults],
            "layers_per_block": blocks,
            "down_block_types": kinds,
            "up_block_types": [kind.replace("Down", "Up") for kind in reversed(kinds)],
            "attention_head_dim": head_width,
            "norm_num_groups": groups,
            "norm_eps": 1e-5,
            "resnet_time_scale_shift": "scale_shift",
        },
    }


def dit(patch: int, d: int, depth: int, heads: int) -> dict[str, Any]:
    """A DiT (Peebles & Xie 2023) as both sides name it."""
    return {
        "ours": {f"net.dit.{name}": value for name, value in dict(patch=patch, d=d, depth=depth, heads=heads).items()}
        | {"net.name": "dit"},
        "theirs": {"kind": "dit", "patch": patch, "d": d, "depth": depth, "heads": heads},
    }


SHAPES: dict[str, dict[str, Any]] = {
    "unet": {"image": (32, 32, 3), **unet(64, (1, 2, 2), 2, (1, 2), 32)},
    "dit": {"image": (32, 32, 3), **dit(4, 384, 8, 6)},
    # for accelerators: DDPM++'s size on CIFAR-10, and DiT on 256 x 256 images' latents
    "unet_cifar": {"image": (32, 32, 3), **unet(128, (2, 2, 2), 4, (1,), 128)},
    "dit_b_2": {"image": (32, 32, 4), **dit(2, 768, 12, 12)},
    "dit_l_2": {"image": (32, 32, 4), **dit(2, 1024, 24, 16)},
    "dit_xl_2": {"image": (32, 32, 4), **dit(2, 1152, 28, 16)},
    # for the smoke run
    "tiny_unet": {"image": (8, 8, 3), **unet(32, (1, 2), 1, (1,), 32, 16)},
    "tiny_dit": {"image": (8, 8, 3), **dit(4, 32, 2, 2)},
}
