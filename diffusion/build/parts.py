"""Parts of the net by their names in a config: ``optim.part_lrs``, ``optim.freeze`` and ``init_parts``."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from diffusion.errors import ConfigError
from diffusion.nets.model import Net
from diffusion.part_rules import ALWAYS, Rule
from diffusion.parts import by_part
from diffusion.saved_ema import named_run

LONGEST = 2**31 - 1  # updates, as they are counted in i32


def part_names(c: ConfigDict, net: Net) -> tuple[str, ...]:
    """The parts of the net; () where no field speaks of one, for finding them takes a large net a while."""
    if not any([c.optim.part_lrs, c.optim.freeze, c.init_parts]):
        return ()
    return tuple(by_part(jax.eval_shape(lambda: net.init(jax.random.key(0)))))


def part_rules(c: ConfigDict, parts: Sequence[str]) -> dict[str, Rule]:
    """Part -> rule, for all parts of the net, from ``c.part_lrs`` and ``c.freeze``."""
    factors = {part: _factor(text) for part, text in _by_part("optim.part_lrs", c.part_lrs, parts, "0.1").items()}
    frozen = {part: _updates(text) for part, text in _by_part("optim.freeze", c.freeze, parts, "500").items()}
    rules = {part: Rule(factors.get(part, 1.0), frozen.get(part, 0)) for part in parts}
    if rules and not any(rule.factor and rule.frozen != ALWAYS for rule in rules.values()):
        field = "optim.freeze" if ALWAYS in frozen.values() else "optim.part_lrs"
        raise ConfigError(field, f"leaves nothing to train: the net's parts are {', '.join(parts)}")
    return rules


def initial_parts(texts: Iterable[str], parts: Sequence[str], begins: bool) -> dict[str, str]:
    """Part -> where it comes from.

    Args:
      begins: a run may begin with them, so that they must be there.
    """
    found = _by_part("init_parts", texts, parts, "FILE.safetensors")
    for source in found.values() if begins else ():
        _check_source(source)
    return found


def _by_part(field: str, texts: Iterable[str], parts: Sequence[str], example: str) -> dict[str, str]:
    """{"set": "500"} of ("set:500",)."""
    found: dict[str, str] = {}
    for text in texts:
        part, _, value = text.partition(":")
        if not value:
            raise ConfigError(field, f"{text!r} is not PART:VALUE; write for example {parts[0]}:{example}")
        if part not in parts:
            raise ConfigError(field, f"{part!r}, in {text!r}, is not a part of this net; they are {', '.join(parts)}")
        if part in found:
            raise ConfigError(field, f"names {part!r} twice")
        found[part] = value
    return found


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        raise ConfigError("optim.part_lrs", f"{text!r} is not a number") from None
    if not 0 <= factor < math.inf:
        raise ConfigError("optim.part_lrs", f"{text} is not a finite number >= 0")
    return factor


def _updates(text: str) -> int:
    if text == "always":
        return ALWAYS
    if not (text.isdecimal() and 0 < int(text) <= LONGEST):
        raise ConfigError("optim.freeze", f"{text!r} is neither a number of updates, from 1 to {LONGEST}, nor always")
    return int(text)


def _check_source(source: str) -> None:
    if source.endswith(".safetensors"):
        if not Path(source).is_file():
            raise ConfigError("init_parts", f"there is no file {source}")
        return
    folder, step = named_run(source)
    if not (step in ("latest", "best") or step.isdecimal()):
        raise ConfigError("init_parts", f"{step!r}, after the colon of {source}, must be latest, best or a number")
    if not (folder / "checkpoints").is_dir():
        raise ConfigError(
            "init_parts", f"{source} is neither a .safetensors file nor the folder of a run: it has no checkpoints/"
        )
