"""Whether what a config makes of its images can be kept, and where."""

from pathlib import Path

from ml_collections import ConfigDict

from diffusion.errors import ConfigError
from diffusion.nets.codec import Codec


def encodings_folder(config: ConfigDict, workdir: Path, codec: Codec) -> Path | None:
    """The folder that ``data.encodings`` names, which may not be there yet; None where images are read.

    Raises:
      ConfigError: nothing is encoded, or images are changed at random in a way that cannot be done before.
    """
    c = config.data
    if not c.encodings:
        return None
    if not codec.about:
        what = "is given latents" if codec.latent else "encodes nothing that is worth keeping"
        raise ConfigError("data.encodings", f"is for a codec that encodes; {config.codec.name} {what}: leave it empty")
    for field in ("rotate", "jitter"):
        if c[field]:
            raise ConfigError(
                f"data.{field}",
                f"is {c[field]}, and encodings are made once, of images as they are (flip is kept as well): take 0, or "
                "leave data.encodings empty",
            )
    if config.sets.symmetries:
        raise ConfigError(
            "sets.symmetries", "turns images, and encodings are made once, of images as they are: take false"
        )
    return Path(c.encodings.replace("{workdir}", str(workdir))).expanduser()
