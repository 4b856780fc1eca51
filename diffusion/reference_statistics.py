"""Mean and covariance of features that others published for their reference images."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data import archive
from diffusion.errors import ConfigError, DataError

SKEW, NEGATIVE = 1e-6, 1e-8  # of the largest entry, the second times d: rounding, also to float32


@dataclass(frozen=True, eq=False)
class ReferenceStatistics:
    """What FD compares with in place of real images.

    Attributes:
      mean: f64[d].
      cov: f64[d d], symmetric, positive semi-definite up to rounding.
      label: which file, and that it does not say of how many images.
      sha256: of the file, hex.
    """

    mean: np.ndarray
    cov: np.ndarray
    label: str
    sha256: str


def read_statistics(path: str, d: int, *, extractor: str, field: str) -> ReferenceStatistics:
    """Reads an .npz of ``mu`` f[d] and ``sigma`` f[d d], as pytorch-fid, EDM and guided-diffusion write them.

    guided-diffusion's ``mu_s`` and ``sigma_s``, of spatial features, are not read. A file does not say which network
    made it: only the number of features can be checked.

    Args:
      d: features of the extractor.
      extractor: its name, for messages.
      field: of the config, named in every message.

    Raises:
      ConfigError: no such file, another form, another d, or numbers that are no mean and covariance.
    """
    where = Path(path).expanduser()
    if not where.is_file():
        raise ConfigError(field, f"{where} is no file; give an .npz with mu and sigma")
    try:
        mean, cov = _read(where, d, extractor)
    except DataError as error:
        raise ConfigError(field, str(error)) from error
    with where.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ReferenceStatistics(mean, cov, f"statistics of {where.name} ({sha256[:8]}), n unknown", sha256)


def _read(path: Path, d: int, extractor: str) -> tuple[np.ndarray, np.ndarray]:
    told = archive.headers(path)
    if missing := [name for name in ("mu", "sigma") if name not in told]:
        raise DataError(f"{path}: no array {missing[0]!r}; there are: {', '.join(sorted(told)) or 'none'}")
    for name, shape in (("mu", (d,)), ("sigma", (d, d))):
        header = told[name]
        if header.dtype.kind != "f" or header.shape != shape:
            found = f"{header.dtype}{list(header.shape)}"
            raise DataError(f"{path}: {name} is {found}; {extractor} has {d} features: floats {list(shape)}")
    mean, cov = (archive.array(path, name, told[name]).astype(np.float64) for name in ("mu", "sigma"))
    for name, values in (("mu", mean), ("sigma", cov)):
        if not np.isfinite(values).all():
            raise DataError(f"{path}: {name} holds {np.sum(~np.isfinite(values))} values that are not finite")
    largest = np.abs(cov).max()
    if (skew := np.abs(cov - cov.T).max()) > SKEW * largest:
        raise DataError(f"{path}: sigma is not symmetric: entries differ by up to {skew:.3g}")
    cov = (cov + cov.T) / 2
    if (least := np.linalg.eigvalsh(cov)[0]) < -NEGATIVE * d * largest:
        raise DataError(f"{path}: sigma is no covariance: its least eigenvalue is {least:.3g}")
    return mean, cov
