"""What turns a few images of one class, in no order, into tokens; each encoder is a row of a table.

A row is ``(size, *, …) -> nn.Module`` for square images of ``size`` pixels (or latents), and raises ValueError for what
cannot be. Every module is called as ``encoder(images f32[b n h w c], valid bool[b n], c_noise f32[b] or None)`` and
answers ``(tokens f32[b l d], token_valid bool[b l])``. It has the attributes ``d``, the width of its tokens, and
``timed``, whether it reads ``c_noise``. What stands where ``valid`` is False changes nothing, not even as NaN; nothing
depends on the order of the set or on other rows. No token of an empty set is valid, and all are finite.
"""

from diffusion.nets.set_encoders.half_unet import unet
from diffusion.nets.set_encoders.vit import vit
from diffusion.nets.set_encoders.vit_set import vit_set

__all__ = ["SET_ENCODERS"]

SET_ENCODERS = {"unet": unet, "vit": vit, "vit_set": vit_set}
