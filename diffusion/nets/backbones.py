"""The backbones by name: a row is ``(size, out_channels, dtype, *, …) -> nn.Module`` and answers as ``unet`` says."""

from diffusion.nets.unet import unet

NETS = {"unet": unet}
