"""Sets for few-shot generation as they are at hand. A row: (root, seed, *, its options) -> {split: {class: images}}.

``root`` is where the set lies; ``docs/fewshot_data.md`` says in what form. Nothing is downloaded.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from diffusion.data import unpickle
from diffusion.data.fewshot import SPLITS
from diffusion.data.folder import FileRecords, scan
from diffusion.data.paths import inside
from diffusion.data.records import ArrayRecords, Records, existing_root
from diffusion.data.sources import digits as scikit_digits
from diffusion.data.tfds_source import tfds
from diffusion.data.transforms import channels as to_channels
from diffusion.data.transforms import resize_crop
from diffusion.errors import ConfigError, DataError

ByClass = dict[str, np.ndarray]  # class name to u8[n h w c]
Change = Callable[[np.ndarray], np.ndarray]  # u8[h w c] -> u8[h' w' c']

# Oreshkin et al. 2018, "TADAM", FC100: numbers of CIFAR-100's superclasses in alphabetical order, and of classes.
FC100 = {
    "train": ((1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19), 60),
    "val": ((8, 11, 13, 16), 20),
    "test": ((0, 7, 12, 14), 20),
}
MINIIMAGENET = {"train": 64, "val": 16, "test": 20}  # classes; Ravi & Larochelle 2017
OMNIGLOT = {"train": 964, "test": 659}  # classes of "images_background" and "images_evaluation"; Lake et al. 2015


def by_class(parts: Iterable[Records], names: Mapping[int, str], change: Change) -> ByClass:
    """Every record of ``parts`` whose label is in ``names`` (label to class name), by class, in order, changed.

    Raises:
      DataError: a class has no record, a record cannot be read, or images of a class come out in several sizes.
    """
    found: dict[int, list[np.ndarray]] = {label: [] for label in names}
    for records in parts:
        for i in np.flatnonzero(np.isin(records.labels, list(names))).tolist():
            label = int(records.labels[i])
            image = _changed(records, i, change)
            if found[label] and image.shape != found[label][0].shape:
                problem = f"is {image.shape}, others of class {names[label]!r} are {found[label][0].shape}; give a size"
                raise DataError(f"{records.name(i)}: {problem}")
            found[label].append(image)
    if bare := [names[label] for label, images in found.items() if not images]:
        raise DataError(f"class {bare[0]!r} has no image")
    return {name: np.stack(found.pop(label)) for label, name in names.items()}


def _changed(records: Records, i: int, change: Change) -> np.ndarray:
    try:
        return change(records[i].image)
    except ValueError as error:
        raise DataError(f"{records.name(i)}: {error}") from error


def digits(root: str, seed: int) -> dict[str, ByClass]:
    """scikit-learn's digits, 8x8: 0 to 5 are trained on, 6 and 7 for validation, 8 and 9 never seen; needs no file."""
    dataset = scikit_digits("", 0)
    parts = [dataset.open(split) for split in ("train", "test")]
    labels = {"train": range(6), "val": (6, 7), "test": (8, 9)}
    return {s: by_class(parts, {k: dataset.classes[k] for k in labels[s]}, _as_is) for s in SPLITS}


def cifar100(root: str, seed: int) -> dict[str, ByClass]:
    """CIFAR-100 by FC100: superclasses are shared out, so unseen classes are unlike those trained on; 600 images each.

    ``root`` is the TFDS data_dir.
    """
    fine, coarse = (tfds(root, 0, name="cifar100", label_key=key) for key in ("label", "coarse_label"))
    if len(coarse.classes) != 20 or list(coarse.classes) != sorted(coarse.classes):
        raise DataError(f"{coarse.name}: superclasses are {coarse.classes}; 20 in alphabetical order are required")
    parts = [fine.open(split) for split in ("train", "test")]
    labels = np.concatenate([records.labels for records in parts])
    superclasses = np.concatenate([coarse.open(split).labels for split in ("train", "test")])
    found = {}
    for split, (numbers, count) in FC100.items():
        members = np.unique(labels[np.isin(superclasses, numbers)]).tolist()
        if len(members) != count:
            raise DataError(f"{fine.name}: {len(members)} classes are of the superclasses of {split}, not {count}")
        found[split] = by_class(parts, {k: fine.classes[k] for k in members}, _as_is)
    return found


def omniglot(root: str, seed: int, *, size: int = 28, val_classes: int = 0) -> dict[str, ByClass]:
    """Omniglot's characters: 964 of background alphabets are trained on, 659 of the others never seen; 20 images each.

    Grey, ink 255 on paper 0. ``root`` is the TFDS data_dir.

    Args:
      val_classes: so many of the 964, drawn by ``seed``, are for validation instead. FSDM trains on all 964, and its 97
        for validation are among them.
    """
    dataset = tfds(root, 0, name="omniglot")
    parts = {split: dataset.open(split) for split in OMNIGLOT}
    labels = {split: np.unique(records.labels).tolist() for split, records in parts.items()}
    for split, count in OMNIGLOT.items():
        if len(labels[split]) != count:
            raise DataError(f"{dataset.name}: {len(labels[split])} classes in {split}, not {count}")
    if not 0 <= val_classes < OMNIGLOT["train"]:
        raise ConfigError("val_classes", f"is {val_classes}; 0 to {OMNIGLOT['train'] - 1} of them can be held out")
    words = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(OMNIGLOT["train"])
    held = {labels["train"][i] for i in np.argsort(words, kind="stable")[:val_classes]}
    chosen = {
        "train": (parts["train"], [k for k in labels["train"] if k not in held]),
        "val": (parts["train"], sorted(held)),
        "test": (parts["test"], labels["test"]),
    }
    ink = _ink(size)
    return {s: by_class([r], {k: dataset.classes[k] for k in ks}, ink) for s, (r, ks) in chosen.items() if ks}


def miniimagenet(root: str, seed: int, *, size: int = 32) -> dict[str, ByClass]:
    """miniImageNet from ``mini-imagenet-cache-{train,val,test}.pkl`` in ``root`` (Ren et al. 2018), 600 images a class.

    Each is a pickle of {"image_data": u8[n 84 84 3], "class_dict": {class: numbers of its images}}.
    """
    folder, found = existing_root(root, "folder with mini-imagenet-cache-train.pkl"), {}
    for split, count in MINIIMAGENET.items():
        path = folder / f"mini-imagenet-cache-{split}.pkl"
        records, names = _cache(path)
        if len(names) != count:
            raise DataError(f"{path}: holds {len(names)} classes, not {count}")
        found[split] = by_class([records], dict(enumerate(names)), _resized(size))
    return found


def celeba(root: str, seed: int, *, size: int = 64, least: int = 20) -> dict[str, ByClass]:
    """CelebA's identities, from ``img_align_celeba/`` and ``identity_CelebA.txt`` in ``root``.

    In the order of their numbers the first 70 % are trained on, 10 % for validation, 20 % never seen, as in FSDM.

    Args:
      least: identities with fewer images are left out.
    """
    folder = existing_root(root, "folder with img_align_celeba/ and identity_CelebA.txt")
    names, numbers = _identities(folder / "identity_CelebA.txt")
    present, labels, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    files = tuple(inside(folder / "img_align_celeba", name, str(folder / "identity_CelebA.txt")) for name in names)
    records = FileRecords(folder, files, labels.astype(np.int32))
    kept = np.flatnonzero(counts >= least).tolist()
    if len(kept) < 2:
        raise ConfigError("least", f"is {least}, and {len(kept)} identities have as many images; 2 are needed")
    ends = [0, len(kept) * 7 // 10, len(kept) * 8 // 10, len(kept)]
    shares = {s: kept[a:b] for s, a, b in zip(SPLITS, ends, ends[1:], strict=False)}
    return {s: by_class([records], {k: str(present[k]) for k in ks}, _resized(size)) for s, ks in shares.items() if ks}


def folders(root: str, seed: int, *, size: int = 32, channels: int = 3) -> dict[str, ByClass]:
    """Image files in ``root``/{train,val,test}/CLASS/; val may be missing."""
    base, found = existing_root(root, "folder with train/ and test/"), {}
    if channels not in (1, 3):
        raise ConfigError("channels", f"is {channels}; 1 (grey) or 3 (RGB)")
    for split in (s for s in SPLITS if s != "val" or (base / s).is_dir()):
        names, files, labels = scan(base / split)
        records, resize = FileRecords(base, files, labels), _resized(size)
        found[split] = by_class([records], dict(enumerate(names)), lambda x, r=resize: to_channels(r(x), channels))
    return found


def _as_is(image: np.ndarray) -> np.ndarray:
    return image


def _resized(size: int) -> Change:
    if size < 0:
        raise ConfigError("size", f"is {size}; a side in pixels, or 0 (as the images are)")
    return (lambda image: resize_crop(image, size)) if size else _as_is


def _ink(size: int) -> Change:
    """Dark ink on bright paper -> grey, ink 255 on paper 0."""
    resize = _resized(size)

    def change(image: np.ndarray) -> np.ndarray:
        grey = to_channels(image, 1)
        if grey.mean() < 127:
            raise ValueError("is dark in the main; dark ink on bright paper is required")
        return 255 - resize(grey)

    return change


def _cache(path: Path) -> tuple[Records, list[str]]:
    """Records of a pickle of {"image_data", "class_dict"}, and the class names by label."""
    content = unpickle.load(path)
    try:
        images, members = content["image_data"], {str(name): np.array(v) for name, v in content["class_dict"].items()}
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"image_data is {images.dtype}{list(images.shape)}")
        if not np.array_equal(np.sort(np.concatenate(list(members.values()))), np.arange(len(images))):
            raise ValueError("class_dict does not give every image one class")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        wanted = "a dict of image_data, uint8 [n h w 3], and class_dict, class to numbers of images, is required"
        raise DataError(f"{path}: {error}; {wanted}") from error
    names, labels = sorted(members), np.empty(len(images), np.int32)
    for label, name in enumerate(names):
        labels[members[name]] = label
    return ArrayRecords(images, labels, labelled=True), names


def _identities(path: Path) -> tuple[list[str], np.ndarray]:
    """File names, and the number of each one's identity."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [name for name, _ in lines], np.array([int(number) for _, number in lines])
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not lines of a file's name and a number ({error})") from error


SETS = {
    "digits": digits,
    "cifar100": cifar100,
    "omniglot": omniglot,
    "miniimagenet": miniimagenet,
    "celeba": celeba,
    "folders": folders,
}
