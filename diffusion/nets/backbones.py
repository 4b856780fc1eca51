"""The backbones by name: a row is ``(size, out_channels, dtype, *, …) -> nn.Module`` and answers as ``unet`` says."""

from diffusion.nets.edm2_unet import edm2, edm2_s, edm2_xs
from diffusion.nets.unet import adm_64, unet, unet_cifar

NETS = {"unet": unet, "unet_cifar": unet_cifar, "adm_64": adm_64, "edm2": edm2, "edm2_xs": edm2_xs, "edm2_s": edm2_s}
