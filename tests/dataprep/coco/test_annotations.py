"""Polygons against COCO's own rasteriser, painting order, every defect of an annotation."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dataprep.coco.annotations import load_annotations
from dataprep.coco.segmentations import Instance, Photo
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.data.photos import PhotoError
from dnnlib.util import UserError
from tests.tools.data_helpers import label_map

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def square(x, y, side):
    return np.float64([x, y, x + side, y, x + side, y + side, x, y + side])


def load(tmp_path, images, annotations):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return load_annotations(path)


def image(**changes):
    return {"id": 1, "file_name": "0000001.jpg", "width": 40, "height": 60, **changes}


def annotation(**changes):
    return {"id": 5, "image_id": 1, "category_id": 2, "area": 400, "iscrowd": 0,
            "segmentation": [SQUARE], **changes}


def test_class_names_equal_the_files(shared):
    for folder in ("ccp_modanet/annotations", "modanet_val"):
        path = shared / "data" / folder / "modanet2018_instances_val.json"
        categories = {c["id"]: c["name"] for c in json.loads(path.read_text())["categories"]}
        assert sorted(categories) == list(range(1, len(MODANET_CLASSES) + 1))
        assert all(categories[i][:3] == name[:3] for i, name in enumerate(MODANET_CLASSES, 1))


def test_real_annotations_give_coco_masks_painted_larger_first(shared):
    """Masks are compared with pycocotools' own reading, whose areas equal those in the file."""
    path = shared / "data/ccp_modanet/annotations/modanet2018_instances_train.json"
    photos = load_annotations(path).photos
    assert len(photos) == 800 and sum(len(p.instances) for p in photos.values()) == 4598
    coco = COCO.__new__(COCO)  # the constructor prints
    content = json.loads(path.read_text())
    by_image = {}
    for entry in content["annotations"]:
        by_image.setdefault(entry["image_id"], []).append(entry)
    coco.imgs = {entry["id"]: entry for entry in content["images"]}
    for image_id in list(by_image)[::40]:
        expected = np.zeros((600, 400), np.uint8)
        for entry in sorted(by_image[image_id], key=lambda entry: -entry["area"]):
            expected[coco.annToMask(entry) > 0] = entry["category_id"]
        np.testing.assert_array_equal(label_map(photos[image_id], (400, 600)), expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_smaller_garments_stay_visible_in_any_order(order):
    instances = [Instance(6, (square(0, 0, 30),)), Instance(2, (square(10, 10, 5),))]
    labels = label_map(Photo(1, "", 40, 40, tuple(instances[i] for i in order)), (40, 40))
    assert (labels == 2).sum() == 25 and (labels == 6).sum() == 875


def test_equal_areas_are_painted_in_the_order_of_the_file():
    instances = Instance(3, (square(0, 0, 10),)), Instance(4, (square(5, 0, 10),))
    labels = label_map(Photo(1, "", 40, 40, instances), (40, 40))
    assert (labels == 4).sum() == 100 and (labels == 3).sum() == 50


def test_several_polygons_are_one_garment_and_counted_together():
    """Two shoes of 2 x 64 pixels are larger than a bag of 100, so they are painted below it."""
    shoes = Instance(4, (square(0, 0, 8), square(20, 0, 8)))
    labels = label_map(Photo(1, "", 40, 40, (Instance(1, (square(0, 0, 10),)), shoes)), (40, 40))
    assert (labels == 1).sum() == 100 and (labels == 4).sum() == 64


def test_polygons_are_scaled_with_a_photo_of_another_size():
    photo = Photo(1, "", 40, 60, (Instance(1, (square(10, 10, 10),)),))
    expected = np.zeros((30, 20), np.uint8)
    expected[5:10, 5:10] = 1
    np.testing.assert_array_equal(label_map(photo, (20, 30)), expected)


def test_polygons_may_leave_the_frame():
    labels = label_map(Photo(1, "", 40, 40, (Instance(1, (square(-10, -10, 20),)),)), (40, 40))
    assert (labels == 1).sum() == 100 and (labels[:10, :10] == 1).all()


def test_good_annotations_are_kept_as_they_are(tmp_path):
    result = load(tmp_path, [image()], [annotation()])
    photo = result.photos[1]
    assert (photo.file_name, photo.width, photo.height) == ("0000001.jpg", 40, 60)
    assert photo.instances[0].label == 2
    np.testing.assert_array_equal(photo.instances[0].polygons[0], SQUARE)
    assert not result.defects and not result.skipped_images


@pytest.mark.parametrize("changes, reason", [
    ({"image_id": 2}, "not listed"), ({"image_id": "1.0"}, "not listed"),
    ({"image_id": True}, "not listed"), ({"image_id": None}, "not listed"),
    ({"category_id": 0}, "category"), ({"category_id": 14}, "category"),
    ({"category_id": "two"}, "category"), ({"category_id": 2.5}, "category"),
    ({"segmentation": []}, "no segmentation: a box"),
    ({"segmentation": {"counts": [1, 2398], "size": [60, 40]}}, "do not add up"),
    ({"segmentation": {"counts": "0\\b1", "size": [60, 40]}, "iscrowd": 1}, "do not add up"),
    ({"segmentation": None}, "no segmentation: a box"), ({"segmentation": "x" * 9}, "neither poly"),
    ({"segmentation": [[SQUARE]]}, "odd"), ({"segmentation": [[SQUARE] * 6]}, "no number"),
    ({"segmentation": [SQUARE[:-1] + [True]]}, "no number"),
    ({"segmentation": [[5, 5] * 4]}, "without area"),
    ({"segmentation": [[1, 1, 20.1, 20.1, 30.7, 30.7]]}, "without area"),
    ({"segmentation": [[-20, 5, -10, 5, -1, 9]]}, "polygon outside"),
    ({"segmentation": [[3, 60, 9, 60, 9, 90]]}, "polygon outside"),
    ({"segmentation": [[0, 0, 40, 60, 0, 60] * 40]}, "longer than 100"),
    ({"segmentation": [SQUARE[:-1]]}, "odd"), ({"segmentation": [SQUARE[:4]]}, "fewer than three"),
    ({"segmentation": [[]]}, "fewer than three"),
    ({"segmentation": ["abc"]}, "not a list of numbers"),
    ({"segmentation": [SQUARE[:-1] + [float("nan")]]}, "not finite"),
    ({"segmentation": [SQUARE[:-1] + [float("inf")]]}, "not finite"),
    ({"segmentation": [SQUARE[:-1] + [10**400]]}, "not finite"),
    ({"segmentation": [SQUARE[:-1] + ["3"]]}, "no number"),
    ({"segmentation": [SQUARE[:-1] + [None]]}, "no number"),
    ({"segmentation": [SQUARE[:-1] + [10_000]]}, "far outside"),
    ({"segmentation": [SQUARE[:-1] + [-10_000]]}, "far outside")])
def test_bad_annotations_are_left_out_and_listed(tmp_path, changes, reason):
    good = [annotation(category_id=label) for label in (1, 13)]
    result = load(tmp_path, [image()], [*good, annotation(**changes)])
    assert len(result.photos[1].instances) == 2
    (defect,) = result.defects
    assert reason in defect["reason"] and defect["annotation"] == 5


def test_an_annotation_keeps_its_good_polygons(tmp_path):
    result = load(tmp_path, [image()], [annotation(segmentation=[SQUARE, SQUARE[:-1]])])
    assert len(result.photos[1].instances[0].polygons) == 1
    assert len(result.defects) == 1


@pytest.mark.parametrize("entry", ["x", None, [], 3])
def test_annotations_that_are_not_objects(tmp_path, entry):
    assert len(load(tmp_path, [image()], [entry]).defects) == 1


@pytest.mark.parametrize("changes, reason", [
    ({"id": None}, "id"), ({"id": "a1"}, "id"), ({"id": -1}, "id"), ({"width": 0}, "width"),
    ({"height": None}, "width"), ({"height": 10**9}, "width"), ({"width": 40.5}, "width")])
def test_bad_images_are_left_out_and_listed(tmp_path, changes, reason):
    result = load(tmp_path, [image(id=9), image(**changes)], [])
    assert list(result.photos) == [9]
    assert reason in result.skipped_images[0]["reason"]


def test_an_image_listed_twice_identically_is_one(tmp_path):
    result = load(tmp_path, [image(), image()], [annotation()])
    assert len(result.photos[1].instances) == 1 and not result.skipped_images


def test_an_id_of_two_images_is_used_for_neither(tmp_path):
    """Otherwise both images would get the garments of both."""
    images = [image(), image(id=2), image(file_name="other.jpg"), image()]
    result = load(tmp_path, images, [annotation(), annotation(image_id=2)])
    assert list(result.photos) == [2] and len(result.photos[2].instances) == 1
    assert result.skipped_images == [{"id": 1, "reason": "image id given to different images"}]
    assert [defect["id"] for defect in result.defects] == [1]


@pytest.mark.parametrize("second", [{"width": 99}, {"file_name": "b.jpg"}, {"height": None}])
@pytest.mark.parametrize("turn", [1, -1])
def test_entries_of_one_id_must_agree(tmp_path, second, turn):
    result = load(tmp_path, [image(id=2), *[image(), image(**second)][::turn]], [])
    assert list(result.photos) == [2] and [line["id"] for line in result.skipped_images] == [1]


def test_ids_of_annotations_may_repeat(tmp_path):
    """As if two files were joined: no garment is lost."""
    result = load(tmp_path, [image()], [annotation(), annotation(category_id=3)])
    assert [instance.label for instance in result.photos[1].instances] == [2, 3]
    assert not result.defects


def test_annotations_of_one_image_have_a_limit(tmp_path):
    result = load(tmp_path, [image()], [annotation() for _ in range(1003)])
    assert len(result.photos[1].instances) == 1000 and len(result.defects) == 3


def test_figures_of_eight_have_an_area():
    """Their signed area is zero."""
    eight = np.float64([10, 10, 30, 30, 30, 10, 10, 30])
    labels = label_map(Photo(1, "", 40, 40, (Instance(1, (eight,)),)), (40, 40))
    assert 150 < (labels == 1).sum() < 250


def test_a_figure_of_eight_is_kept(tmp_path):
    eight = [10, 10, 30, 30, 30, 10, 10, 30]
    result = load(tmp_path, [image()], [annotation(segmentation=[eight])])
    assert len(result.photos[1].instances) == 1


def test_a_photo_with_annotations_between_pixels_is_left_out():
    sliver = Instance(1, (np.float64([5.1, 5.1, 5.2, 5.1, 5.2, 5.2]),))
    with pytest.raises(PhotoError, match="cover no pixel"):
        label_map(Photo(1, "", 40, 40, (sliver,)), (40, 40))


@pytest.mark.parametrize("name", [
    "/etc/passwd", "../../x.jpg", "a\0b", "\x1b[31m", "\ud800", 7, None])
def test_names_are_kept_only_if_they_are_text(tmp_path, name):
    (photo,) = load(tmp_path, [image(file_name=name)], [annotation()]).photos.values()
    assert photo.file_name == (name if isinstance(name, str) else "")


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'{"images": []}', b"[" * 100_000,
    b'{"images": {}, "annotations": []}', b'{"images": [' + b"9" * 5000 + b"]}"])
def test_other_files_are_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json") as error:
        load_annotations(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json"):
        load_annotations(tmp_path / "nowhere.json")


NUMBERS = st.one_of(st.integers(-10**6, 10**6), st.floats(allow_nan=True), st.none(),
                    st.text(max_size=2))
POINTS = st.lists(st.floats(-200, 300), min_size=6, max_size=12)
POLYGONS = st.one_of(st.lists(NUMBERS, max_size=9), POINTS, NUMBERS)
ANNOTATIONS = st.fixed_dictionaries({
    "image_id": st.sampled_from([1, 2, None]), "category_id": st.integers(-1, 15),
    "segmentation": st.one_of(st.lists(POLYGONS, max_size=3), NUMBERS)})


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(ANNOTATIONS, NUMBERS), max_size=4))
def test_anything_becomes_a_label_map_or_is_listed(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("fuzz") / "a.json"
    path.write_text(json.dumps({"images": [image()], "annotations": entries}))
    try:
        result = load_annotations(path)
    except UserError as error:  # in a single file of few entries
        assert "within 0..1" in str(error) or "counted from another number" in str(error)
        return
    kept = len(result.photos[1].instances)
    assert kept + len(result.defects) >= len(entries)
    try:
        labels = label_map(result.photos[1], (40, 60))
    except PhotoError:
        return
    assert labels.shape == (60, 40) and set(np.unique(labels)) <= set(range(14)) and labels.any()


def test_polygons_are_not_rounded_before_painting():
    """Half pixels matter at COCO's precision: the mask is that of the unrounded polygon."""
    polygon = np.float64([3.5, 2.25, 20.75, 5.5, 15.1, 18.9])
    labels = label_map(Photo(1, "", 32, 24, (Instance(1, (polygon,)),)), (32, 24))
    encoded = coco_mask.frPyObjects([polygon.tolist()], 24, 32)
    np.testing.assert_array_equal(labels, coco_mask.decode(encoded)[..., 0])
