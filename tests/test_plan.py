import numpy as np
import pytest

from diffusion.data.records import Dataset
from diffusion.plan import chosen_classes, in_shares, indices, make_plan, named_groups


def of_names(*names, **split):
    return Dataset("set", names, {}, None, lambda split: None, **split)


SET = of_names("cat", "dog", "7", "owl")
SPLIT = of_names("cat", "dog", "7", "owl", seen=(0, 3), unseen=(1,))


def test_classes_are_compared_at_their_own_size():
    plan = make_plan(np.array([7, 25, 600]), per_class=100)
    assert plan.per_class.tolist() == [7, 25, 100] and plan.pooled is None
    assert np.bincount(plan.label).tolist() == [7, 25, 100]
    assert [plan.index[plan.label == c].tolist() for c in range(2)] == [list(range(7)), list(range(25))]
    assert plan.of_classes.all() and plan.of_pool.all()


def test_equal_n_is_that_of_the_smallest_class_that_is_evaluated():
    assert make_plan(np.array([0, 25, 600]), 100, equal=True).per_class.tolist() == [0, 25, 25]
    assert make_plan(np.array([30, 25, 600]), 20, equal=True).per_class.tolist() == [20, 20, 20]


def test_images_that_are_not_drawn_to_order_bound_the_counts():
    plan = make_plan(np.array([7, 25, 600]), 100, pooled=632, have=np.array([9, 3, 50]))
    assert plan.per_class.tolist() == [7, 3, 50] and plan.pooled.tolist() == [7, 3, 50]


def test_pooled_images_come_in_the_data_s_shares():
    plan = make_plan(np.array([10, 30, 60]), per_class=20, pooled=50)
    assert plan.pooled.tolist() == [5, 15, 30] and plan.per_class.tolist() == [10, 20, 20]
    assert np.bincount(plan.label).tolist() == [10, 20, 30]
    assert np.bincount(plan.label[plan.of_pool]).tolist() == [5, 15, 30]
    assert np.bincount(plan.label[plan.of_classes]).tolist() == [10, 20, 20]


@pytest.mark.parametrize("total", [0, 1, 2, 7, 99, 100, 1000])
def test_shares_add_up_and_are_near_the_exact_ones(total):
    sizes = np.array([1, 32, 33, 34])
    counts = in_shares(total, sizes)
    assert counts.sum() == min(total, 100) and (counts <= sizes).all()
    assert np.abs(counts - counts.sum() * sizes / 100).max() < 1


def test_indices_count_within_a_class():
    assert indices(np.array([2, 0, 2, 2, 0])).tolist() == [0, 0, 1, 2, 1]


def test_classes_are_named_numbered_or_drawn_once_for_all():
    assert chosen_classes("", 0, SET, 0) == [0, 1, 2, 3]
    assert chosen_classes("owl, 0", 0, SET, 0) == [0, 3]
    assert chosen_classes("7", 0, SET, 0) == [2], "a class that is called 7"
    many = of_names(*map(str, range(100)))
    drawn = chosen_classes("", 20, many, 0)
    assert len(set(drawn)) == 20 and drawn == sorted(drawn) == chosen_classes("", 20, many, 0)
    assert drawn != chosen_classes("", 20, many, 1)


@pytest.mark.parametrize(
    ("text", "number", "said"),
    [
        ("cow", 0, "classes has 'cow', which is not a class; they are cat, dog, 7, owl"),
        ("cat,0", 0, "names a class twice"),
        ("cat", 1, "give one of the two"),
        ("", 5, "num_classes is 5; there are 4 classes"),
    ],
)
def test_classes_that_cannot_be(text, number, said):
    with pytest.raises(ValueError, match=said):
        chosen_classes(text, number, SET, 0)


def test_classes_in_neither_part_are_not_evaluated_unless_named():
    assert chosen_classes("", 0, SPLIT, 0) == [0, 1, 3]
    assert chosen_classes("7", 0, SPLIT, 0) == [2]
    assert set(chosen_classes("", 2, SPLIT, 0)) < {0, 1, 3}
    with pytest.raises(ValueError, match="num_classes is 4; there are 3 classes"):
        chosen_classes("", 4, SPLIT, 0)


def test_classes_trained_on_and_others_are_groups():
    assert named_groups("", SPLIT, [0, 1, 3]) == {"in": [0, 3], "out": [1]}
    assert named_groups("pets:cat,dog", SPLIT, [0, 1]) == {"in": [0], "out": [1], "pets": [0, 1]}
    assert named_groups("", SPLIT, [0, 3]) == {"in": [0, 3]}
    with pytest.raises(ValueError, match="names 'out' twice, which stands for classes"):
        named_groups("out:cat", SPLIT, [0, 1, 3])


def test_groups_of_classes():
    assert named_groups("pets:cat,dog; rare: owl ;", SET, range(4)) == {"pets": [0, 1], "rare": [3]}
    assert named_groups("", SET, range(4)) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pets", "write NAME:CLASS,CLASS"),
        ("pets:", "write NAME:CLASS,CLASS"),
        ("a/b:cat", "write NAME:CLASS,CLASS"),
        ("a:cat;a:dog", "names 'a' twice"),
        ("a:cow", "'cow', which is not a class"),
        ("a:owl", "'owl' in 'a', which is not among the classes that are evaluated"),
    ],
)
def test_groups_that_cannot_be(text, said):
    with pytest.raises(ValueError, match=said):
        named_groups(text, SET, [0, 1])
