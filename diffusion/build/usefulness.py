"""What ``--mode=usefulness`` is asked, as far as it can be checked without images."""

import functools
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from diffusion import settings
from diffusion.build.choices import check_seed, section
from diffusion.data.records import Dataset
from diffusion.usefulness.counts import named_counts, small_classes


def make_usefulness(c: ConfigDict, dataset: Dataset) -> settings.Usefulness:
    """Raises ConfigError for a field that cannot be."""
    found = section("usefulness", settings.Usefulness, c)
    check_seed("usefulness.seed", found.seed + found.seeds - 1)
    section("usefulness", functools.partial(_read, found, dataset.classes), c)
    return found


def _read(asked: settings.Usefulness, names: Sequence[str], **fields: Any) -> None:
    """Raises ValueError, which begins with the field."""
    named_counts(asked.counts, names)
    small_classes(asked.small, names)
