"""Prepared TensorFlow Datasets, read as array_record through ``as_data_source``; TensorFlow is not used."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data.images import decode
from diffusion.data.records import Dataset, Record, opener
from diffusion.errors import ConfigError, DataError

_CHUNK = 1024  # records deserialised at once when all labels are asked for


@dataclass(frozen=True, eq=False)
class TfdsRecords:
    """A split of a prepared builder. ``source[i]`` is a dict with the encoded image's bytes."""

    source: Sequence[dict[str, Any]]
    split: str
    contents: str
    classes: int
    image_key: str
    label_key: str

    @property
    def labelled(self) -> bool:
        return self.classes > 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Record:
        example = self._examples([i])[0]
        label = int(example[self.label_key]) if self.labelled else -1
        if self.labelled and not 0 <= label < self.classes:
            raise DataError(f"{self.name(i)}: label {label} is outside 0..{self.classes - 1}")
        return Record(decode(example[self.image_key], self.name(i)), label)

    def _examples(self, numbers: list[int]) -> list[dict[str, Any]]:
        try:
            found = self.source.__getitems__(numbers)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError is what array_record raises
            raise DataError(f"{self.name(numbers[0])}: cannot be read ({error}); prepare the set again") from error
        keys = [self.image_key] + [self.label_key] * self.labelled
        for i, example in zip(numbers, found, strict=True):
            if any(example[key] is None for key in keys):
                raise DataError(f"{self.name(i)}: is cut short; prepare the set again")
        return found

    def name(self, i: int) -> str:
        return f"{self.split}, record {i}"

    @functools.cached_property
    def labels(self) -> np.ndarray:
        n = len(self)
        if not self.labelled:
            return np.full(n, -1, np.int32)
        chunks = (range(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK))
        found = [e[self.label_key] for chunk in chunks for e in self._examples(list(chunk))]
        return np.array(found, np.int32)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the set's version and features and of every shard's name, size and records; not of pixels."""
        return hashlib.sha256(self.contents.encode()).hexdigest()


def tfds(
    root: str,
    seed: int,
    *,
    name: str = "mnist",
    train_split: str = "train",
    test_split: str = "test",
    image_key: str = "image",
    label_key: str = "label",
) -> Dataset:
    """A TFDS image set that is prepared under ``root`` in array_record format. Nothing is downloaded.

    ``root`` is the TFDS data_dir; empty means TFDS's own default. The splits are the set's, ``seed`` is not
    read.

    Args:
      name: as in the catalogue, ``mnist``, ``name/config`` or ``name:version``.
      train_split: split to train on; a part of one is written ``train[:80%]``.
      test_split: split that is held out.
      image_key: feature with the image.
      label_key: ClassLabel feature, empty for none.
    Raises:
      ConfigError: not prepared (the message says how), or no such split or feature. DataError: not whole.
    """
    builder = _builder(root, name)
    features = builder.info.features
    image = _feature(features, "image_key", image_key, "Image")
    if image.np_dtype != np.uint8:
        raise ConfigError("data.tfds.image_key", f"feature {image_key!r} is {image.np_dtype}, not uint8")
    classes = tuple(_feature(features, "label_key", label_key, "ClassLabel").names) if label_key else ()
    infos = {
        "train": _split_info(builder, "train_split", train_split),
        "test": _split_info(builder, "test_split", test_split),
    }
    _check_shards(infos)

    def split(key: str, spec: str) -> TfdsRecords:
        source = builder.as_data_source(spec, decoders=_encoded_images(features))
        contents = f"{builder.info.full_name}\n{features}\n{_shards(infos[key])}"
        return TfdsRecords(source, f"{builder.info.full_name}[{spec}]", contents, len(classes), image_key, label_key)

    return Dataset(
        name=builder.info.full_name,
        classes=classes,
        sizes={key: int(info.num_examples) for key, info in infos.items()},
        image_shape=_shape(image.shape),
        open=opener(
            {
                "train": functools.partial(split, "train", train_split),
                "test": functools.partial(split, "test", test_split),
            }
        ),
        labels_known=False,
    )


def _builder(root: str, name: str) -> Any:
    """The builder of a prepared set, from its files alone: the catalogue and the network are not asked."""
    from google.protobuf import json_format
    from tensorflow_datasets.core import read_only_builder, registered

    data_dir = str(Path(root).expanduser()) if root else None
    place = data_dir or "TFDS's default folder"
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except registered.DatasetNotFoundError as error:
        raise ConfigError("data.tfds.name", _how_to_prepare(name, place, data_dir, "not prepared")) from error
    except (OSError, ValueError, json_format.ParseError) as error:
        raise DataError(_how_to_prepare(name, place, data_dir, f"not readable ({error})")) from error
    if builder.info.file_format.value != "array_record":
        found = f"prepared as {builder.info.file_format.value}, not array_record,"
        raise ConfigError("data.tfds.name", _how_to_prepare(name, place, data_dir, found))
    return builder


def _how_to_prepare(name: str, place: str, data_dir: str | None, found: str) -> str:
    return (
        f"{name} is {found} under {place} (data.root). Prepare it once with: python -c "
        f'"import tensorflow_datasets as t; '
        f"t.builder({name!r}, data_dir={data_dir!r}, file_format='array_record').download_and_prepare()\" "
        "(where this asks for TensorFlow: in an environment of its own with requirements-tf.txt)"
    )


def _feature(features: Any, field: str, key: str, kind: str) -> Any:
    import tensorflow_datasets as library

    wanted = {"Image": library.features.Image, "ClassLabel": library.features.ClassLabel}[kind]
    if key not in features or not isinstance(features[key], wanted):
        fitting = sorted(name for name in features if isinstance(features[name], wanted))
        raise ConfigError(f"data.tfds.{field}", f"no {kind} feature {key!r}; there are: {', '.join(fitting) or 'none'}")
    return features[key]


def _encoded_images(features: Any) -> dict[str, Any]:
    """Decoders that leave every image as bytes: ours are read by ``decode``, others are not read."""
    import tensorflow_datasets as library

    images = [key for key in features if isinstance(features[key], library.features.Image)]
    return {key: library.decode.SkipDecoding() for key in images}


def _split_info(builder: Any, field: str, spec: str) -> Any:
    try:
        return builder.info.splits[spec]
    except (KeyError, ValueError) as error:
        there = ", ".join(sorted(builder.info.splits))
        raise ConfigError(
            f"data.tfds.{field}", f"no split {spec!r}; there are: {there} (or a part, as train[80%:])"
        ) from error


def _check_shards(infos: dict[str, Any]) -> None:
    for info in infos.values():
        for path in (Path(str(i.filename)) for i in info.file_instructions):
            if not path.is_file() or path.stat().st_size == 0:
                raise DataError(f"{path}: missing or empty; the set is not whole, prepare it again")


def _shards(info: Any) -> str:
    """Name and bytes of each shard, and which of its records belong to the split, as text."""
    shards = [(Path(str(i.filename)), i.skip, i.take) for i in info.file_instructions]
    return repr([(path.name, path.stat().st_size, skip, take) for path, skip, take in shards])


def _shape(shape: tuple[int | None, ...]) -> tuple[int, int, int] | None:
    """(h, w, c) as ``decode`` returns it, None where the set does not say or an alpha channel may vanish."""
    if None in shape or shape[-1] not in (1, 3):
        return None
    height, width, channels = shape
    return int(height), int(width), int(channels)
