"""What a frozen encoder made of a data set: a folder of array_record files and ``encodings.json``, sealed.

A record holds named arrays: ``latent`` [v h w c], its variants as it is and (where the data are mirrored at random)
mirrored; ``label`` i32[]; any other is a condition, which goes to ``Batch.cond`` under its name.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data.array_shards import Layout, Shards, layout_of
from diffusion.data.records import Record, Records
from diffusion.errors import ConfigError, DataError
from diffusion.manifest import Damaged, json_sha256, sealed, unsealed

FIELD = "data.encodings"
NAME = "encodings.json"
LATENT, LABEL = "latent", "label"


@dataclass(frozen=True)
class File:
    """One array_record file: its name, records and bytes."""

    name: str
    records: int
    bytes: int


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
      content_sha256: fingerprint of the records that were encoded.
    """

    content_sha256: str
    files: tuple[File, ...]


@dataclass(frozen=True, eq=False)
class Encodings:
    """A folder of encodings, of which no record is read yet.

    Attributes:
      made_of: all that decides them beside the records: data set, transform, encoder and its weights, as plain JSON.
      made_by: versions and machine, for people.
    """

    folder: Path
    made_of: Mapping[str, Any]
    layout: Layout
    splits: Mapping[str, Split]
    made_by: Mapping[str, Any]

    def save(self) -> None:
        body = {
            "made_of": dict(self.made_of),
            "arrays": self.layout.as_json(),
            "splits": {
                name: {
                    "content_sha256": split.content_sha256,
                    "files": [vars(file) for file in split.files],
                }
                for name, split in self.splits.items()
            },
            "made_by": dict(self.made_by),
        }
        (self.folder / NAME).write_text(json.dumps(sealed(body), indent=1) + "\n")

    def records(self, split: str, images: Records) -> "EncodedRecords":
        """The encodings of ``images``, which are the records of ``split``.

        Raises:
          DataError: a file is not there, cut short or damaged.
        """
        files = self.splits[split].files
        for file in files:
            path = self.folder / file.name
            found = path.stat().st_size if path.exists() else None
            if found != file.bytes:
                what = "is not there" if found is None else f"has {found} bytes, and {file.bytes} were written"
                raise DataError(f"{path} {what}")
        shards = Shards([self.folder / file.name for file in files], [file.records for file in files])
        of = {"made_of": self.made_of, "content": self.splits[split].content_sha256, "arrays": self.layout.as_json()}
        return EncodedRecords(images, shards, self.layout, json_sha256(of))


def read(folder: Path) -> Encodings:
    """The encodings in a folder.

    Raises:
      ConfigError: there are none. DataError: their ``encodings.json`` is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise ConfigError(FIELD, f"there are none in {folder}; make them: --mode=encode with the same config")
    try:
        body = unsealed(path.read_text(), NAME)
        splits = {
            name: Split(one["content_sha256"], tuple(File(**file) for file in one["files"]))
            for name, one in body["splits"].items()
        }
        return Encodings(folder, body["made_of"], layout_of(body["arrays"]), splits, body["made_by"])
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}; make the encodings again, in another folder") from error


@dataclass(frozen=True, eq=False)
class EncodedRecords:
    """The records of a split with their encodings in place of their images; labels and names are the images'."""

    images: Records
    shards: Shards
    layout: Layout
    fingerprint: str

    @property
    def labelled(self) -> bool:
        return self.images.labelled

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return self.images.labels

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, i: int) -> Record:
        record = self.shards[i]
        if not record:
            raise DataError(f"{self.name(i)} could not be read when the set was encoded")
        arrays = self.layout.unpacked(record)
        return Record(arrays.pop(LATENT), int(arrays.pop(LABEL)), arrays)

    def name(self, i: int) -> str:
        return self.images.name(i)


@dataclass(frozen=True, repr=False)
class EncodedTransform:
    """Record's variants [v h w c] -> example's encoding [h w c]; to a loader, the `Transform` that they were made with.

    Attributes:
      shape: (h, w, c) of an encoding.
      of: repr of that transform.
      flip: there are two variants, the second of the mirrored image, of which a draw takes one as the transform would.
    """

    shape: tuple[int, int, int]
    of: str
    flip: bool

    def __repr__(self) -> str:
        return self.of

    @property
    def draws(self) -> int:
        return int(self.flip)

    def __call__(self, variants: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray:
        mirrored = self.flip and uniforms is not None and uniforms[0] < 0.5
        return variants[int(mirrored)]
