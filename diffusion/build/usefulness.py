"""What ``--mode=usefulness`` is asked, as far as it can be checked without images."""

from ml_collections import ConfigDict

from diffusion import settings
from diffusion.build.choices import check_seed, section
from diffusion.data.records import Dataset
from diffusion.errors import ConfigError
from diffusion.usefulness.counts import named_counts, small_classes


def make_usefulness(c: ConfigDict, dataset: Dataset) -> settings.Usefulness:
    """Raises ConfigError for a field that cannot be."""
    found = section("usefulness", settings.Usefulness, c)
    check_seed("usefulness.seed", found.seed + found.seeds - 1)
    try:
        named_counts(found.counts, dataset.classes)
        small_classes(found.small, dataset.classes)
    except ValueError as error:
        field, _, problem = str(error).partition(" ")
        raise ConfigError(f"usefulness.{field}", problem) from error
    return found
