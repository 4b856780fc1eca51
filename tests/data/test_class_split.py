"""Which classes are seen, what is refused, and the records that follow from it."""

from dataclasses import replace

import numpy as np
import pytest

from diffusion.data.class_split import class_split, restricted
from diffusion.data.records import ArrayRecords, Dataset, opener
from diffusion.data.subset import Subset
from diffusion.errors import ConfigError, DataError

CLASSES = ("cat", "dog", "owl", "1", "hen")
PUBLISHED = {"train": (3, 0), "val": (2,), "test": (4, 1)}


def dataset(train=(0, 1, 2, 3, 4, 0), test=(4, 0, 1, 2, 3), classes=CLASSES, class_splits=None) -> Dataset:
    made = []

    def split(labels):
        made.append(labels)
        images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
        return ArrayRecords(images, np.array(labels, np.int32), bool(classes))

    return Dataset(
        name="farm",
        classes=classes,
        sizes={"train": len(train), "test": len(test)},
        image_shape=(1, 1, 1),
        open=opener({"train": lambda: split(train), "test": lambda: split(test)}),
        class_splits=class_splits or {},
    )


SPLITS = {  # class_splits, train, test: seen, unseen
    "nothing": ({}, (), (), (), ()),
    "published": (PUBLISHED, (), (), (0, 3), (1, 4)),
    "trained on": ({}, ("owl", "cat"), (), (0, 2), (1, 3, 4)),
    "tested on": ({}, (), ("hen", "dog"), (0, 2, 3), (1, 4)),
    "both": ({}, ("hen",), ("owl", "cat"), (4,), (0, 2)),
    "over the published": (PUBLISHED, ("owl",), (), (2,), (0, 1, 3, 4)),
    "by index": ({}, ("0",), ("4", "2"), (0,), (2, 4)),
    "a name wins": ({}, ("1",), (), (3,), (0, 1, 2, 4)),
}


@pytest.mark.parametrize(("published", "train", "test", "seen", "unseen"), SPLITS.values(), ids=SPLITS)
def test_seen_and_unseen(published, train, test, seen, unseen):
    assert class_split(dataset(class_splits=published), train, test, 0, 0) == (seen, unseen)


def test_a_number_is_drawn_by_the_seed():
    many = dataset(classes=tuple(f"c{i}" for i in range(100)), class_splits={"train": (0,), "test": (1,)})
    drawn = [class_split(many, (), (), 20, seed) for seed in range(50)]
    for seen, unseen in [*drawn, *(class_split(many, (), (), 3, seed) for seed in range(50))]:
        assert len(unseen) in (3, 20) and sorted(seen + unseen) == list(range(100))
        assert list(seen) == sorted(seen) and list(unseen) == sorted(unseen)
    assert drawn[7] == class_split(many, (), (), 20, 7) and len({unseen for _, unseen in drawn}) == 50
    assert {len(unseen) for _, unseen in drawn} == {20}
    times = np.bincount([label for _, unseen in drawn for label in unseen], minlength=100)
    assert times.max() < 25 and times.min() > 0, "each class is drawn about 10 times in 50"
    assert class_split(many, (), (), 2, 0)[1] == (48, 78), "on every version of NumPy"


def test_more_are_drawn_beside_the_same_ones():
    few, more = (set(class_split(dataset(), (), (), n, 0)[1]) for n in (1, 3))
    assert few < more


REFUSED = {  # train, test, number: what is said
    "unknown": (("cta",), (), 0, "^train_classes: 'cta' is no class, nor an index in 0..4; close to it: cat"),
    "unlike any": (("cat",), ("zebra",), 0, "^test_classes: 'zebra' is no class.*for example: cat, dog"),
    "index": (("5",), (), 0, "^train_classes: '5' is no class"),
    "negative": (("-1",), (), 0, "^train_classes: '-1' is no class"),
    "huge": (("9" * 5000,), (), 0, "^train_classes: '999"),
    "other digits": (("²",), (), 0, "^train_classes: '²' is no class"),
    "twice": (("cat", "cat"), (), 0, "^train_classes: class 'cat' is given twice$"),
    "twice, differently": ((), ("0", "cat"), 0, "^test_classes: class 'cat' is given twice, as '0' and 'cat'"),
    "in both": (("cat", "dog"), ("owl", "1", "0"), 0, "^test_classes: 'cat' is in train_classes too"),
    "none to train on": ((), CLASSES, 0, "^test_classes: all 5 classes are in it and none is left to train on"),
    "none to test on": (CLASSES, (), 0, "^train_classes: all 5 classes are in it and none is left to test on"),
    "all drawn": ((), (), 5, "^num_test_classes: is 5; it must lie in 1..4, so that of the 5 classes"),
    "fewer than none": ((), (), -1, "^num_test_classes: is -1;"),
    "number and train": (("cat",), (), 1, "^num_test_classes: is 1 beside train_classes; give a number"),
    "number and test": ((), ("cat",), 1, "^num_test_classes: is 1 beside test_classes; give a number"),
}


@pytest.mark.parametrize(("train", "test", "number", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals_begin_with_the_field(train, test, number, said):
    with pytest.raises(ValueError, match=said):
        class_split(dataset(), train, test, number, 0)


def test_a_set_without_classes_is_not_split():
    bare = dataset((-1, -1), (-1,), classes=())
    assert class_split(bare, (), (), 0, 0) == ((), ()) and restricted(bare, (), ()) is bare
    for field, asked in {
        "train_classes": (("0",), (), 0),
        "test_classes": ((), ("0",), 0),
        "num_test_classes": ((), (), 1),
    }.items():
        with pytest.raises(ValueError, match=f"^{field}: farm has no classes"):
            class_split(bare, *asked, 0)


def test_restricted_adds_three_splits_and_leaves_the_others():
    whole = dataset()
    split = restricted(whole, (0, 2), (4, 1))
    assert split.sizes == {"train": 6, "test": 5, "train_seen": 3, "test_seen": 2, "test_unseen": 2}
    assert (split.classes, split.name, split.image_shape) == (whole.classes, whole.name, whole.image_shape)
    for part in ("train", "test"):
        assert split.open(part) is whole.open(part)
    wanted = {"train_seen": ("train", [0, 2, 5]), "test_seen": ("test", [1, 3]), "test_unseen": ("test", [0, 2])}
    for part, (of, numbers) in wanted.items():
        records, source = split.open(part), whole.open(of)
        assert records is split.open(part) and records.records is source and records.labelled
        assert len(records) == split.sizes[part] and records.kept.tolist() == numbers
        assert records.labels.tolist() == source.labels[numbers].tolist() and records.labels.dtype == np.int32
        for i, number in enumerate(numbers):
            assert records[i].image is not None and np.array_equal(records[i].image, source[number].image)
            assert records[i].label == source[number].label and records.name(i) == source.name(number)
    with pytest.raises(ConfigError, match="no split 'val'; there are: test, test_seen, test_unseen, train, train_seen"):
        split.open("val")


def test_where_there_is_a_split_to_validate_on_it_is_restricted_too():
    whole = dataset()
    splits = {"train": whole.open("train"), "val": whole.open("test"), "test": whole.open("test")}
    whole = replace(whole, sizes={name: len(one) for name, one in splits.items()}, open=splits.__getitem__)
    assert whole.validation_splits == {"": "val"}
    split = restricted(whole, (0, 2), (4, 1))
    assert split.validation_splits == {"": "val_seen", "_out": "val_unseen"} and split.train_split == "train_seen"
    assert {name: split.sizes[name] for name in ("val_seen", "val_unseen", "test_seen", "test_unseen")} == {
        "val_seen": 2,
        "val_unseen": 2,
        "test_seen": 2,
        "test_unseen": 2,
    }
    assert split.open("val_unseen").labels.tolist() == [4, 1]
    with pytest.raises(DataError, match="farm: val_seen is empty: no record in 'val' is of its classes .'cat'."):
        restricted(replace(whole, open=(splits | {"val": dataset(test=(1,)).open("test")}).__getitem__), (0,), (1,))


def test_no_image_is_read_for_the_sizes(monkeypatch):
    monkeypatch.setattr(ArrayRecords, "__getitem__", lambda *_: pytest.fail("a record was read"))
    monkeypatch.setattr(ArrayRecords, "fingerprint", property(lambda _: pytest.fail("pixels were read")))
    split = restricted(dataset(), (0,), (1,))
    assert split.open("train_seen").labels.tolist() == [0, 0]


LACKING = {  # labels of train and test, seen, unseen: what is said
    "a seen class": (
        (0, 0, 4),
        (0, 1),
        (0, 2),
        (1,),
        "farm: class 'owl' is to be trained on and has no record in 'train'",
    ),
    "test_seen": ((0, 1), (1,), (0,), (1,), "farm: test_seen is empty: no record in 'test' is of its classes .'cat'."),
    "test_unseen": ((0, 1), (0,), (0,), (1,), "farm: test_unseen is empty: .* .'dog'."),
    "none unseen": ((0, 1), (0,), (0,), (), "farm: test_unseen is empty: .* .none."),
}


@pytest.mark.parametrize(("train", "test", "seen", "unseen", "said"), LACKING.values(), ids=LACKING)
def test_a_split_without_records_is_named(train, test, seen, unseen, said):
    with pytest.raises(DataError, match=said):
        restricted(dataset(train, test), seen, unseen)


def test_a_fingerprint_covers_the_records_and_which_are_kept():
    one, other = (dataset(train).open("train") for train in ((0, 1, 2), (0, 1, 3)))
    subsets = [Subset(one, np.array([0, 1])), Subset(one, np.array([1, 0])), Subset(one, np.array([0]))]
    prints = [s.fingerprint for s in (*subsets, Subset(other, np.array([0, 1])), one)]
    assert len(set(prints)) == 5
    assert Subset(one, np.array([0, 1], np.int32)).fingerprint == prints[0]
