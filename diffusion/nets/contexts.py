"""What stands between an encoded set and the ports: its tokens as they are, or a draw around them.

A row is ``(d, *, …) -> nn.Module`` for tokens of width d. Every module is called as
``context(tokens f32[b l d], token_valid bool[b l], keys [b] or None)`` and answers tokens f32[b l d]. One that draws
adds its ``weight`` times the KL divergence to its prior, f32[b], to the collection "penalty" as "kl"; without keys it
answers its most probable value. Row i belongs to key i: nothing depends on other rows.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion.nets.checks import at_least
from diffusion.nets.layers import Dense, zeros
from diffusion.types import Array

EXACT = jax.lax.Precision.HIGHEST
PENALTY = "penalty"  # the collection
LOG_VARIANCE = 8.0  # its greatest size: deviations from 1/55 to 55
PURPOSE = 2_000  # folded into a row's key; dropout folds the numbers of layers, which are below


class Deterministic(nn.Module):
    """Tokens as they are."""

    def __call__(self, tokens: Array, token_valid: Array, keys: Array | None) -> Array:
        return tokens


class Gaussian(nn.Module):
    """A normal distribution for every token (FSDM's variational context). See ``gaussian``."""

    d: int
    weight: float

    @nn.compact
    def __call__(self, tokens: Array, token_valid: Array, keys: Array | None) -> Array:
        mean = Dense(self.d, name="mean")(tokens)
        log_variance = Dense(self.d, kernel_init=zeros, name="log_variance")(tokens)
        log_variance = LOG_VARIANCE * jnp.tanh(log_variance / LOG_VARIANCE)
        _penalise(self, gaussian_kl(mean, log_variance), token_valid)
        if keys is None:
            return mean
        return mean + jnp.exp(log_variance / 2) * _per_row(jax.random.normal, keys, mean.shape)


class Discrete(nn.Module):
    """A row of each of several codebooks for every token, side by side. See ``discrete``."""

    d: int
    codes: int
    groups: int
    temperature: float
    weight: float

    @nn.compact
    def __call__(self, tokens: Array, token_valid: Array, keys: Array | None) -> Array:
        b, l, _ = tokens.shape
        logits = Dense(self.groups * self.codes, name="logits")(tokens).reshape(b, l, self.groups, self.codes)
        _penalise(self, categorical_kl(logits).sum(-1), token_valid)
        if keys is not None:
            logits = logits + _per_row(jax.random.gumbel, keys, logits.shape)
        width = self.d // self.groups
        ones = nn.initializers.ones_init()
        table = nn.Embed(self.groups * self.codes, width, embedding_init=ones, name="codebook").embedding
        chosen = straight_through(logits / self.temperature)
        # exact, so that an answer is a row of the codebook to the bit
        rows = table.reshape(self.groups, self.codes, width)
        return jnp.einsum("blgk,gke->blge", chosen, rows, precision=EXACT).reshape(b, l, self.d)


def gaussian_kl(mean: Array, log_variance: Array) -> Array:
    """KL divergence of N(mean, variance) from N(0, I) in nats, summed over the last axis (Kingma & Welling 2014, B)."""
    return 0.5 * (jnp.square(mean) + jnp.expm1(log_variance) - log_variance).sum(-1)


def categorical_kl(logits: Array) -> Array:
    """KL divergence of softmax(logits [... k]) from the uniform distribution in nats, [...]."""
    log_p = jax.nn.log_softmax(logits)
    return (jnp.exp(log_p) * (log_p + math.log(logits.shape[-1]))).sum(-1)


def straight_through(logits: Array) -> Array:
    """One-hot of the greatest of logits [... k], with the gradient of their softmax (Jang 2017, 2.2)."""
    soft = jax.nn.softmax(logits)
    hard = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=soft.dtype)
    return hard + (soft - jax.lax.stop_gradient(soft))


def _per_row(draw, keys: Array, shape: tuple[int, ...]) -> Array:
    """``draw(key, shape[1:])`` for each of keys [b], f32 of ``shape``."""
    return jax.vmap(lambda key: draw(jax.random.fold_in(key, PURPOSE), shape[1:]))(keys)


def _penalise(module: nn.Module, kl: Array, token_valid: Array) -> None:
    """Sow weight times the mean of kl f32[b l] over valid tokens, f32[b]; called again, it adds."""
    count = jnp.maximum(token_valid.sum(1), 1)
    value = module.weight * jnp.where(token_valid, kl, 0.0).sum(1) / count
    module.sow(PENALTY, "kl", value, init_fn=lambda: jnp.zeros_like(value), reduce_fn=jnp.add)


def deterministic(d: int) -> Deterministic:
    """The tokens of the encoder."""
    return Deterministic()


def gaussian(d: int, *, weight: float = 3e-4) -> Gaussian:
    """A draw from a normal distribution around each token.

    Args:
      weight: of the KL divergence to N(0, I), summed over features and averaged over tokens. The loss is a mean over
        an image's values and the divergence a sum: 3e-4 is one over the 3,072 values of 32 x 32 colours, at which
        a nat counts as much in both (the bound of Kingma & Welling 2014, for one token). 0 leaves it out.

    Raises:
      ValueError: a negative weight.
    """
    at_least(0, weight=weight)
    return Gaussian(d, weight)


def discrete(d: int, *, codes: int = 256, groups: int = 8, temperature: float = 0.5, weight: float = 3e-4) -> Discrete:
    """A draw of rows of learned codebooks, by Gumbel noise (Jang 2017, Maddison 2017).

    Args:
      codes: rows of a codebook.
      groups: codebooks, side by side; each gives d / groups of the features.
      temperature: of the softmax whose gradient the choice has.
      weight: of the KL divergence to the uniform choice, summed over codebooks and averaged over tokens, as for
        ``gaussian``.

    Raises:
      ValueError: fewer than 2 codes, groups that do not divide d, a temperature of 0 or less, a negative weight.
    """
    at_least(2, codes=codes)
    at_least(1, groups=groups)
    if d % groups:
        raise ValueError(f"groups is {groups}; it must divide the width of the tokens, {d}")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
    at_least(0, weight=weight)
    return Discrete(d, codes, groups, temperature, weight)


CONTEXTS = {"deterministic": deterministic, "gaussian": gaussian, "discrete": discrete}
