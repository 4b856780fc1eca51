"""A TFDS set made here, prepared without TensorFlow and without a network."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from diffusion.data.class_split import class_split, restricted
from diffusion.data.episodes import Sets
from diffusion.data.loader import make_loader
from diffusion.data.tfds_source import tfds
from diffusion.data.transforms import Transform
from diffusion.errors import ConfigError, DataError

PREPARE = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class TinyShapes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(6, 5, 3), encoding_format="png"),
            "grey": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "wide": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["circle", "square"]),
            "other": tfds.features.ClassLabel(names=["x", "y"]),
        }))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(7), "test": self._generate_examples(3)}

    def _generate_examples(self, n):
        for i in range(n):
            pixels = np.full((6, 5, 3), i, np.uint8)
            pixels[..., 2] = i % 2
            yield i, {"image": png(pixels), "grey": png(pixels[..., 0]),
                      "wide": png(pixels[..., 0].astype(np.uint16)), "label": i % 2,
                      "other": -1 if i == 0 else 1}

def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    return file

TinyShapes(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def no_tensorflow(tmp_path_factory):
    """Variables under which importing TensorFlow ends the program."""
    trap = tmp_path_factory.mktemp("trap")
    (trap / "tensorflow").mkdir()
    (trap / "tensorflow" / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(trap), os.getcwd()])}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, no_tensorflow):
    root = tmp_path_factory.mktemp("tfds")
    script = root / "prepare.py"
    script.write_text(PREPARE)
    subprocess.run([sys.executable, script, root / "data"], env=no_tensorflow, check=True, capture_output=True)
    return str(root / "data")


def test_metadata(prepared):
    dataset = tfds(prepared, 0, name="tiny_shapes")
    assert dataset.name == "tiny_shapes/1.0.0"
    assert dataset.classes == ("circle", "square")
    assert dataset.sizes == {"train": 7, "test": 3}
    assert dataset.image_shape == (6, 5, 3)
    assert not dataset.labels_known and restricted(dataset, (0,), (1,)).labels_known, "which reads them"


def test_every_record_is_read_once(prepared):
    records = tfds(prepared, 0, name="tiny_shapes").open("train")
    assert sorted(int(records[i].image[0, 0, 0]) for i in range(len(records))) == list(range(7))
    for i in range(len(records)):
        assert records[i].image.shape == (6, 5, 3) and records[i].image.dtype == np.uint8
        assert records[i].label == records.labels[i] == records[i].image[0, 0, 2]
    assert records.labelled and records.labels.dtype == np.int32


def test_a_class_is_kept_out_and_the_other_gives_sets(prepared):
    dataset = tfds(str(prepared), 0, name="tiny_shapes")
    split = restricted(dataset, *class_split(dataset, ["circle"], [], 0, 0))
    assert {name: split.sizes[name] for name in ("train_seen", "test_seen", "test_unseen")} == {
        "train_seen": 4,
        "test_seen": 2,
        "test_unseen": 1,
    }
    keep = Transform((6, 5, 3), resize=False, flip=False)
    loader = make_loader(split.open("train_seen"), keep, batch_size=4, rows=4, seed=0, threads=0, sets=Sets(3))
    batch = loader.batch(0)
    assert sorted(batch.id) == [0, 1, 2, 3] and not batch.cond["label"].any()
    members, valid = batch.cond["set"].images[:, :, 0, 0, 0], batch.cond["set"].valid
    assert valid.all() and set(members.ravel()) <= {0, 2, 4, 6}, "circles are the records 0, 2, 4 and 6"
    assert not (members == batch.x[:, None, 0, 0, 0]).any()


def test_unlabelled_with_another_image(prepared):
    dataset = tfds(prepared, 0, name="tiny_shapes:1.0.0", image_key="grey", label_key="")
    assert (dataset.classes, dataset.image_shape) == ((), None)
    records = dataset.open("test")
    assert records[0].label == -1 and records[0].image.shape == (6, 5, 1)
    assert not records.labelled and records.labels.tolist() == [-1, -1, -1]


def test_parts_of_a_split_and_their_fingerprints(prepared):
    halves = tfds(prepared, 0, name="tiny_shapes", train_split="train[:4]", test_split="train[4:]")
    assert halves.sizes == {"train": 4, "test": 3}
    assert len(halves.open("train")) == 4
    whole = tfds(prepared, 0, name="tiny_shapes")
    prints = {d.open(split).fingerprint for d in (halves, whole) for split in ("train", "test")}
    assert len(prints) == 4
    same = tfds(prepared, 1, name="tiny_shapes", train_split="train[:100%]", test_split="test[0:3]")
    assert {same.open("train").fingerprint, same.open("test").fingerprint} < prints


def test_a_label_outside_the_classes_is_refused(prepared):
    records = tfds(prepared, 0, name="tiny_shapes", label_key="other").open("train")
    bad = int(np.flatnonzero(records.labels == -1)[0])
    with pytest.raises(DataError, match=rf"tiny_shapes/1.0.0\[train\], record {bad}: label -1 is outside 0..1"):
        records[bad]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"name": "mnist"},
            "data.tfds.name: mnist is not prepared under .*download_and_prepare.*requirements-tf",
        ),
        ({"train_split": "dev"}, "data.tfds.train_split: no split 'dev'; there are: test, train"),
        ({"test_split": ""}, "data.tfds.test_split: no split ''"),
        (
            {"image_key": "label"},
            "data.tfds.image_key: no Image feature 'label'; there are: grey, image, wide",
        ),
        ({"image_key": "wide"}, "data.tfds.image_key: feature 'wide' is uint16"),
        (
            {"label_key": "klass"},
            "data.tfds.label_key: no ClassLabel feature 'klass'; there are: label, other",
        ),
    ],
)
def test_refusals(prepared, options, problem):
    with pytest.raises(ConfigError, match=problem):
        tfds(prepared, 0, **{"name": "tiny_shapes"} | options)


def test_another_file_format_is_refused(prepared, tmp_path):
    import shutil

    shutil.copytree(prepared, tmp_path / "data")
    info = tmp_path / "data/tiny_shapes/1.0.0/dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(ConfigError, match="prepared as tfrecord, not array_record, under"):
        tfds(str(tmp_path / "data"), 0, name="tiny_shapes")


def test_tensorflow_is_never_imported(prepared, no_tensorflow):
    code = (
        "import sys\n"
        "from diffusion.data.loader import make_loader\n"
        "from diffusion.data.sources import SOURCES\n"
        "from diffusion.data.transforms import make_transform\n"
        "dataset = SOURCES['tfds'](sys.argv[1], 0, name='tiny_shapes')\n"
        "records = dataset.open('train')\n"
        "transform = make_transform(0, 0, True, dataset.image_shape)\n"
        "loader = make_loader(records, transform, batch_size=4, rows=4, seed=0)\n"
        "batch = next(loader.iterate(1))\n"
        "print(batch.valid.sum(), len(records.labels), 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, prepared], env=no_tensorflow, capture_output=True, text=True)
    assert done.stdout.split() == ["3", "7", "False"], done.stderr


def damaged(prepared, tmp_path, name, change):
    """A copy of the prepared set with one of its files removed or rewritten."""
    shutil.copytree(prepared, tmp_path / "data")
    path = next((tmp_path / "data" / "tiny_shapes" / "1.0.0").glob(name))
    path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))
    return str(tmp_path / "data"), path


@pytest.mark.parametrize("change", [None, lambda content: b""], ids=["removed", "empty"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_shard_is_named_before_a_record_is_read(prepared, tmp_path, split, change):
    root, path = damaged(prepared, tmp_path, f"*-{split}*", change)
    with pytest.raises(DataError, match=f"{path}: missing or empty; the set is not whole, prepare it again"):
        tfds(root, 0, name="tiny_shapes")


@pytest.mark.parametrize(
    "change",
    [lambda b: b[: len(b) // 2], lambda b: b[: len(b) // 2] + bytes(50) + b[len(b) // 2 + 50 :], lambda b: b"hello"],
    ids=["cut", "overwritten", "something else"],
)
def test_a_damaged_shard_is_named_when_it_is_read(prepared, tmp_path, change):
    root, _ = damaged(prepared, tmp_path, "*-train*", change)
    records = tfds(root, 0, name="tiny_shapes").open("train")
    with pytest.raises(DataError, match=r"tiny_shapes/1.0.0\[train\], record \d: .*prepare the set again"):
        for i in range(len(records)):
            _ = records[i]
    with pytest.raises(DataError, match="prepare the set again"):
        _ = records.labels


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize(
    "change", [None, lambda content: b"{", lambda content: b"\xff\0"], ids=["removed", "cut", "bytes"]
)
def test_damaged_metadata_is_named_with_what_to_do(prepared, tmp_path, name, change):
    root, _ = damaged(prepared, tmp_path, name, change)
    with pytest.raises((ConfigError, DataError), match="tiny_shapes is not .*Prepare it once with"):
        tfds(root, 0, name="tiny_shapes")
