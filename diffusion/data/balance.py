"""How often each class is drawn in an epoch, and what its losses weigh: from the classes' counts alone.

A row of BALANCES is (counts i64[k], names) -> draws i64[k] of an epoch, one of CLASS_WEIGHTS (counts, names, draws) ->
weights f64[k]. Rows of one name share their formula, and so their fields. A class without training records is drawn 0
times. Rows raise ValueError, which begins with the field's name.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from diffusion.data.class_split import by_class
from diffusion.plan import apportioned

RecordWeights = Callable[..., np.ndarray]  # (counts i64[k], names, *, fields) -> weight of one record of each class


def none(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Every record once."""
    return counts


def upsample(counts: np.ndarray, names: Sequence[str], *, ratio: float = 1.0) -> np.ndarray:
    """Every class at least ``ratio`` times as often as the largest, by drawing its records again; none less often."""
    _check_ratio(ratio)
    least = math.ceil(ratio * counts.max() - _ROUNDING)
    return np.where(counts > 0, np.maximum(counts, least), 0)


def downsample(counts: np.ndarray, names: Sequence[str], *, ratio: float = 1.0) -> np.ndarray:
    """No class more often than the smallest that has records, divided by ``ratio``.

    An epoch leaves some records out, the next one goes on with those: over the run nothing is dropped.
    """
    _check_ratio(ratio)
    return np.minimum(counts, math.floor(counts[counts > 0].min() / ratio + _ROUNDING))


def inverse_frequency(counts: np.ndarray, names: Sequence[str], *, power: float = 1.0) -> np.ndarray:
    """n_c^-power: a class's share goes with n_c^(1 - power), so 1 gives equal shares and 0 those of the data."""
    if not power >= 0:
        raise ValueError(f"power is {power}; it must be at least 0")
    there = counts > 0
    return np.where(there, (np.maximum(counts, 1) / counts[there].min()) ** -power, 0.0)


def effective_number(counts: np.ndarray, names: Sequence[str], *, beta: float = 0.999) -> np.ndarray:
    """1 / E_n with the effective number E_n = (1 - beta^n) / (1 - beta) (Cui 2019, proposition 1)."""
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; it must lie in [0, 1), where 0 is the data's shares and near 1 equal ones")
    return np.where(counts > 0, (1 - beta) / (1 - beta ** np.maximum(counts, 1)), 0.0)


def manual(counts: np.ndarray, names: Sequence[str], *, weights: tuple[str, ...] = ()) -> np.ndarray:
    """The weight of a class's records where ``weights`` names it ("Abnormal:3", by name or index), else 1."""
    if not weights:
        raise ValueError("weights is empty; write for example Abnormal:3, or take none")
    found = by_class("weights", weights, names, "WEIGHT", _positive)
    for label in found:
        if not counts[label]:
            raise ValueError(f"weights names {names[label]!r}, of which no image is trained on")
    return np.array([found.get(label, 1.0) for label in range(len(names))]) * (counts > 0)


def no_weights(counts: np.ndarray, names: Sequence[str], draws: np.ndarray) -> tuple[()]:
    """Every loss as it is."""
    return ()


def drawn_by(weigh: RecordWeights) -> Callable[..., np.ndarray]:
    """Classes are drawn in the shares of their records' weights. The epoch keeps its length; each class has a draw."""

    @functools.wraps(weigh)
    def draws(counts: np.ndarray, names: Sequence[str], **fields: object) -> np.ndarray:
        return _each_at_least_once(int(counts.sum()), counts * weigh(counts, names, **fields), counts > 0)

    return draws


def weighted_by(weigh: RecordWeights) -> Callable[..., np.ndarray]:
    """Losses weigh as their records do, with mean 1 over what is drawn; 1 for a class that is not."""

    @functools.wraps(weigh)
    def weights(counts: np.ndarray, names: Sequence[str], draws: np.ndarray, **fields: object) -> np.ndarray:
        own = weigh(counts, names, **fields)
        return np.where(draws > 0, own * draws.sum() / np.sum(own * draws), 1.0)

    return weights


def _each_at_least_once(total: int, shares: np.ndarray, there: np.ndarray) -> np.ndarray:
    """``total`` in shares f64[k] by largest remainder, with 1 where that were 0 for a class that is there."""
    ones = np.zeros(len(shares), bool)
    while True:
        draws = apportioned(total - int(ones.sum()), np.where(ones, 0, shares)) + ones
        short = there & (draws == 0)
        if not short.any():
            return draws
        ones |= short


def _positive(number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"weights: {number!r} is not a number") from None
    if not 0 < value < math.inf:
        raise ValueError(f"weights: {number} must be positive; data.test_classes leaves a class out")
    return value


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio is {ratio}; it is that of a smaller class to a larger one, in (0, 1]")


_ROUNDING = 1e-9  # 0.14 * 50 lies above 7, and 7 / 0.07 below 100

_WEIGHTS = {"inverse_frequency": inverse_frequency, "effective_number": effective_number, "manual": manual}
BALANCES = {
    "none": none,
    **{name: drawn_by(weigh) for name, weigh in _WEIGHTS.items()},
    "upsample": upsample,
    "downsample": downsample,
}
CLASS_WEIGHTS = {"none": no_weights, **{name: weighted_by(weigh) for name, weigh in _WEIGHTS.items()}}
