"""A small convolutional classifier whose last hidden layer serves as features."""

import flax.linen as nn
import jax

FEATURES = 128
EXACT = jax.lax.Precision.HIGHEST  # features must not move with the hardware's fast matmul


class Classifier(nn.Module):
    """Images of any size from 8 x 8 to 128 features and k logits.

    Stages of convolution, GroupNorm and SiLU halve the image until its shorter side is 4 to 7; the features
    are the mean over h and w of the last map's 128 channels. No batch statistics: an image's features depend
    on that image alone. The map of every stage is sown as "intermediates"/"maps".

    Attributes:
      classes: k.
    """

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (features f32[b 128], logits f32[b k]) of x f32[b h w c] in [-1, 1].

        Raises:
          ValueError: an image smaller than 8 x 8.
        """
        side = min(x.shape[1:3])
        if side < 8:
            raise ValueError(f"the classifier needs images of at least 8 x 8; got {x.shape[1]} x {x.shape[2]}")
        halvings = (side // 4).bit_length() - 1
        widths = [min(32 * 2**i, FEATURES // 2) for i in range(halvings)]
        h = _unit(x, widths[0], 1)
        self.sow("intermediates", "maps", h)
        for width in widths[1:] + [FEATURES // 2]:
            h = _unit(h, width, 2)
            self.sow("intermediates", "maps", h)
        h = _unit(h, FEATURES, 1)
        self.sow("intermediates", "maps", h)
        features = h.mean(axis=(1, 2))
        return features, nn.Dense(self.classes, precision=EXACT, name="head")(features)


def _unit(x: jax.Array, width: int, stride: int) -> jax.Array:
    x = nn.Conv(width, (3, 3), strides=stride, use_bias=False, precision=EXACT)(x)
    return nn.silu(nn.GroupNorm(num_groups=8)(x))
