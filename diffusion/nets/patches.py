"""Images as squares of pixels in rows, and back."""

from diffusion.types import Array


def patched(x: Array, patch: int) -> Array:
    """[b h*p w*p c] -> [b h*w p*p*c], patches in rows."""
    b, height, width, c = x.shape
    h, w = height // patch, width // patch
    return x.reshape(b, h, patch, w, patch, c).swapaxes(2, 3).reshape(b, h * w, patch * patch * c)


def unpatched(x: Array, h: int, w: int, patch: int) -> Array:
    """[b h*w p*p*c] -> [b h*p w*p c]."""
    return x.reshape(x.shape[0], h, w, patch, patch, -1).swapaxes(2, 3).reshape(x.shape[0], h * patch, w * patch, -1)
