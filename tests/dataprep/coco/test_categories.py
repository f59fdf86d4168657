"""Category ids become labels by the categories' names: ModaNet's, misspelt or not, or own ones."""

import pytest

from dataprep.coco.categories import check_used, read_categories
from dataprep.coco.segmentations import parse_int
from dnnlib.data.class_list import is_background
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.util import UserError


def categories(names):
    """Return COCO's list of {id: name}."""
    return [{"id": number, "name": name, "supercategory": "x"} for number, name in names.items()]


def read(names, own=False):
    return read_categories("a.json", categories(names), MODANET_CLASSES, own)


def by_name(result):
    """Return {id: class} of what was read."""
    return {number: (None, *result.classes)[label] for number, label in result.labels.items()}


@pytest.mark.parametrize("names", [
    dict(enumerate(MODANET_CLASSES)), dict(enumerate(sorted(MODANET_CLASSES), 1)),
    dict(enumerate(reversed(MODANET_CLASSES), 100)), {9: "top", 0: "bag", 700: "skirt"},
    dict(zip(range(3, 99, 7), MODANET_CLASSES))],
    ids=["from 0", "alphabetical", "backwards", "some", "gaps"])
def test_modanets_names_keep_their_labels_with_any_ids(names):
    result = read(names)
    assert result.classes == MODANET_CLASSES and by_name(result) == names
    assert "by name" in result.notes[0] and len(result.notes) == 1


def test_modanets_own_list_gets_no_remark():
    result = read(dict(enumerate(MODANET_CLASSES, 1)))
    assert result.notes == () and result.labels == {label: label for label in range(1, 14)}


@pytest.mark.parametrize("changes", [
    {"sunglasses": "suncglasses", "scarf/tie": "scarf & tie"},
    {"headwear": "Head-Wear", "footwear": "foot_ware", "scarf/tie": "Scarf and Tie"},
    {"skirt": "skrt", "shorts": "short", "boots": "BOOTS ", "belt": "belts"}])
@pytest.mark.parametrize("first", [0, 1])
def test_misspelt_names_keep_their_labels(changes, first):
    names = {number: changes.get(name, name) for number, name in enumerate(MODANET_CLASSES, first)}
    for own in (False, True):
        result = read(names, own)
        assert by_name(result) == dict(enumerate(MODANET_CLASSES, first))
    assert "by name" in "".join(result.notes)


@pytest.mark.parametrize("names", [
    {1: "person", 2: "car", 3: "dog"}, {1: "pants", 2: "shirt", 3: "dress"},
    {1: "bag", 2: "stop"},
    dict(enumerate((*MODANET_CLASSES, "hair"), 1)),
    dict(enumerate((*MODANET_CLASSES[:-1], "hat"), 1)),
    dict(enumerate((*[name for name in MODANET_CLASSES if name != "skirt"], "shirt"), 1)),
    dict(enumerate((*[name for name in MODANET_CLASSES if name != "shorts"], "shirts"), 1)),
    dict(enumerate((*[name for name in MODANET_CLASSES if name not in ("top", "belt")],
                    "footwears", "tops"), 1)),
    dict(enumerate((*[name for name in MODANET_CLASSES if name not in ("top", "belt")],
                    "atop", "tops"), 1))],
    ids=["others", "shirt", "stop for top", "one more", "one other", "shirt for skirt",
         "shirts for shorts", "two of one", "two for one"])
def test_other_names_are_own_classes_in_the_order_of_ids(names):
    with pytest.raises(UserError, match="create_from_coco") as error:
        read(names)
    assert "\n" not in str(error.value)
    backwards = dict(reversed(names.items()))
    result = read(backwards, own=True)
    assert by_name(result) == names and list(result.labels.values()) == sorted(names)
    numbers = ", ".join(f"{label} {name}" for label, name in enumerate(names.values(), 1))
    kind = "class" if len(names) == 1 else "classes"
    assert result.notes == (f"a.json: {len(names)} {kind}: {numbers}",)


def test_own_classes_may_be_some_of_modanets():
    names = {4: "top", 2: "bag"}
    assert read(names).classes == MODANET_CLASSES
    assert read(names, own=True).classes == ("bag", "top")


@pytest.mark.parametrize("name", ["background", "_background_", "__background__", "BACKGROUND",
                                  "void", "__ignore__", "ignore", "Unlabelled"])
def test_background_is_not_a_class(name):
    assert is_background(name)
    result = read({0: name, 5: "door", 7: "wheel"}, own=True)
    assert result.classes == ("door", "wheel") and result.labels == {0: 0, 5: 1, 7: 2}
    assert f"{name!r} (id 0) is background" in result.notes[0]
    assert read({0: name, **dict(enumerate(MODANET_CLASSES, 1))}).classes == MODANET_CLASSES


@pytest.mark.parametrize("name", ["back", "backpack", "avoid", "ground", "ignored_items_bin"])
def test_names_like_background_are_classes(name):
    assert read({1: name}, own=True).classes == (name,)


@pytest.mark.parametrize("listed", [None, []])
def test_without_a_list_the_ids_are_modanets_with_a_remark(listed):
    result = read_categories("a.json", listed, MODANET_CLASSES, own=False)
    assert result.labels == {label: label for label in range(1, 14)}
    assert "lists no categories" in result.notes[0] and "13 scarf/tie" in result.notes[0]
    with pytest.raises(UserError, match="lists no categories"):
        read_categories("a.json", listed, MODANET_CLASSES, own=True)


@pytest.mark.parametrize("listed, message", [
    ({"1": "bag"}, "not a list"), ("bag", "not a list"), ([3], "entry 1"), (["bag"], "entry 1"),
    ([{"id": 1, "name": "a"}, {"id": 2}], "entry 2"), ([{"name": "a"}], "entry 1"),
    ([{"id": -1, "name": "a"}], "entry 1"), ([{"id": True, "name": "a"}], "entry 1"),
    ([{"id": 1, "name": " "}], "entry 1"), ([{"id": 1, "name": "a\nb"}], "entry 1"),
    ([{"id": 1, "name": "\x1b[31m"}], "entry 1"), ([{"id": 1, "name": "x" * 101}], "entry 1"),
    ([{"id": 1, "name": "car"}, {"id": "1", "name": "dog"}], "both 'car' and 'dog'"),
    (categories({1: "void"}), "background only"),
    (categories({number: f"c{number}" for number in range(255)}), "255 classes")])
def test_ambiguous_lists_are_refused_in_one_line(listed, message):
    with pytest.raises(UserError, match=message) as error:
        read_categories("a.json", listed, MODANET_CLASSES, own=True)
    assert "\n" not in str(error.value) and str(error.value).startswith("a.json: ")


def test_at_most_254_classes_are_accepted():
    names = {number: f"c{number}" for number in range(254)}
    assert by_name(read(names, own=True)) == names


def test_one_name_with_two_ids_is_one_class_with_a_remark():
    result = read({0: "cafe\u0301", 3: "dog", 8: "caf\u00e9 "}, own=True)
    assert result.classes == ("caf\u00e9", "dog") and result.labels == {0: 1, 3: 2, 8: 1}
    assert "warning: a.json: the category ids 0, 8" in result.notes[-1]
    assert read({1: "bag", 2: "Bag"}).labels == {1: 1, 2: 1}


@pytest.mark.parametrize("listed, used", [
    (range(1, 14), range(13)), (range(13), range(1, 14)), ((1, 2, 3), (0, 2)), ((0, 1), (1, 2))])
def test_ids_starting_at_another_number_are_refused(listed, used):
    with pytest.raises(UserError, match="counted from another number"):
        check_used("a.json", dict.fromkeys(listed, 1), set(used))


@pytest.mark.parametrize("listed, used", [
    (range(1, 14), range(1, 14)), (range(1, 14), (2, 3)), (range(1, 14), range(14)),
    ((1, 2), (5, 6)), ((1, 2), ()), ((1, 4, 9), (1, 4, 77))])
def test_other_ids_are_accepted(listed, used):
    check_used("a.json", dict.fromkeys(listed, 1), set(used))


@pytest.mark.parametrize("value, number", [
    (7, 7), (7.0, 7), ("7", 7), ("007", 7), (0, 0), (7.5, None), (-1, None), ("7.0", None),
    ("", None), (True, None), (None, None), (float("nan"), None), (float("inf"), None),
    (1e300, None), ("\u0667", None), ("9" * 5000, None), ([7], None), (101, None)])
def test_integers_may_be_written_as_floats_or_text(value, number):
    assert parse_int(value, 0, 100) == number
