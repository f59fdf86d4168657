"""Keypoints and pairs of photos of one person: from COCO's files and drawn figures into data sets,
and extracted again."""

import json

import numpy as np
import pytest

import dataset_tool
from dataprep import conversion, raw_files, verify, writer
from dataprep.coco import people
from dataprep.coco.annotations import Annotations
from dataprep.coco.segmentations import Photo
from dataprep.drawing import synthetic
from dataprep.drawing.synthetic import Drawing
from dnnlib.data import coco, dataset, keypoints, pyramid
from dnnlib.util import UserError
from tests.tools.data_helpers import (
    annotations_path,
    folder_bytes,
    make_source,
    photo_bytes,
    read_jsonl,
    save_annotations,
)

THREE = ["top", "left_hand", "right_hand"]


def run(*arguments):
    return dataset_tool.main([str(argument) for argument in arguments])


def person(image_id, points, box=None, **more):
    """Return an annotation of a person: points [(x, y, flag), ...]."""
    return {"id": 1, "image_id": image_id, "category_id": 1, "iscrowd": 0,
            "keypoints": [number for point in points for number in point],
            **({"bbox": box} if box else {}), **more}


def save(path, persons, images, names=THREE, skeleton=((1, 2), (1, 3))):
    category = {"id": 1, "name": "person", "keypoints": names,
                "skeleton": list(map(list, skeleton))}
    path.write_text(json.dumps({"images": images, "annotations": persons,
                                "categories": [category]}))
    return path


@pytest.fixture
def photos(tmp_path, rng):
    """Make six photos of 40x60, and their image entries, ids from 1."""
    (tmp_path / "photos").mkdir()
    entries = []
    for number in range(1, 7):
        name = f"p{number}.jpg"
        (tmp_path / "photos" / name).write_bytes(photo_bytes(rng, 40, 60))
        entries.append({"id": number, "file_name": name, "width": 40, "height": 60})
    return entries


def all_there(entries):
    """Return a person for each photo, its top at x = the id."""
    return [person(entry["id"], [(entry["id"], 9.5, 2), (3, 4, 1), (0, 0, 0)])
            for entry in entries]


def test_the_largest_person_counts(tmp_path, photos):
    persons = [person(1, [(5, 5, 2)] * 3, [0, 0, 10, 10]),
               person(1, [(7, 6, 2)] * 3, [0, 0, 20, 9]),
               person(1, [(9, 9, 2)] * 3, [0, 0, 3, 3]),
               person(1, [(8, 8, 2)] * 3, [0, 0, 10**400, 1]),  # bad size: its points count
               person(1, [(8, 8, 2)] * 3, [0, 0, float("nan"), 1]), person(2, [(0, 0, 0)] * 3),
               person(3, [(1, 1, 2)] * 2), person(4, [(39, 59, 1), (41, 5, 2), (-3, 5, 2)])]
    found = people.read_keypoint_file(save(tmp_path / "k.json", persons, photos[:4]))
    assert found.names == tuple(THREE) and found.skeleton == ((1, 2), (1, 3))
    assert found.photos[1].keypoints.tolist() == [[7.5, 6.5, 2]] * 3, "in COCO pixels begin at -0.5"
    assert found.photos[2].keypoints is None and found.photos[3].keypoints is None
    assert found.photos[4].keypoints.tolist() == [[39.5, 59.5, 1], [0, 0, 0], [0, 0, 0]]
    assert [defect["id"] for defect in found.defects] == [3]


def test_the_largest_person_of_a_photo_with_several_ids_counts(tmp_path, photos):
    twins = [{**photos[0], "id": number} for number in (1, 2, 3)]
    persons = [person(1, [(5, 5, 2)] * 3, [0, 0, 9, 9]), person(2, [(7, 6, 2)] * 3, [0, 0, 20, 9])]
    found = people.read_keypoint_file(save(tmp_path / "k.json", persons, twins))
    assert all(photo.keypoints[0, 0] == 7.5 for photo in found.photos.values())


def test_keypoints_of_a_photo_of_another_shape_are_not_used(tmp_path, photos):
    """Sizes may differ, and are only nearly in proportion after rounding."""
    sizes = {1: (20, 30), 2: (60, 40), 3: (13, 20)}
    entries = [{**entry, "width": sizes[entry["id"]][0], "height": sizes[entry["id"]][1]}
               for entry in photos[:3]]
    found = people.read_keypoint_file(save(tmp_path / "k.json", all_there(entries), entries))
    labelled = Annotations(("hat",), [], photos={
        entry["id"]: Photo(entry["id"], entry["file_name"], 40, 60, instances=(None,))
        for entry in photos[:3]})
    assert found.join(labelled).photos.keys() == {1, 3}
    assert labelled.photos[1].keypoints[0].tolist() == [3, 20, 2]
    assert [skipped["id"] for skipped in labelled.skipped_images] == [2]


@pytest.mark.parametrize(("names", "skeleton", "message"), [
    ([], (), "none of its categories lists 'keypoints'"),
    (["a", "a", "b"], (), "each once"), (THREE, ((1, 4),), "pairs of numbers from 1 to 3"),
    (THREE, ((0, 1),), "pairs of numbers from 1 to 3"),
    (THREE, ((1, 2, 3),), "pairs of numbers from 1 to 3")])
def test_names_and_skeleton_are_checked(tmp_path, photos, names, skeleton, message):
    path = save(tmp_path / "k.json", all_there(photos), photos, names, skeleton)
    with pytest.raises(UserError, match=message):
        people.read_keypoint_file(path)


def test_a_file_without_any_keypoint_is_refused(tmp_path, photos):
    with pytest.raises(UserError, match=r"no person has a keypoint$"):
        people.read_keypoint_file(save(tmp_path / "k.json", [], photos))
    without_flags = [person(1, [(5, 5), (6, 6), (7, 7)])]
    with pytest.raises(UserError, match=r"a keypoint: keypoints that are not x, y, 0 to 2 for"):
        people.read_keypoint_file(save(tmp_path / "k.json", without_flags, photos))


def test_keypoints_in_shares_of_the_image_are_refused(tmp_path, photos):
    """All would be in the photo's corner."""
    persons = [person(n, [(0.5, 0.1 * n, 2), (1.0, 0.9, 1), (0, 0, 0)]) for n in range(1, 6)]
    with pytest.raises(UserError, match=r"keypoints are within 0\.\.1, .* expected pixels"):
        people.read_keypoint_file(save(tmp_path / "k.json", persons, photos))
    persons.append(person(6, [(0.5, 3, 2)] * 3))
    people.read_keypoint_file(save(tmp_path / "k.json", persons, photos))


@pytest.mark.parametrize("fit", pyramid.FITS)
def test_a_data_set_of_keypoints_alone(tmp_path, photos, fit, capsys):
    path = save(tmp_path / "k.json", all_there(photos)[:5], photos)
    out = tmp_path / "set"
    assert run("create_from_coco", "--images", tmp_path / "photos", "--keypoints", path, "--out",
               out, "--resolution=32", "--num-val=2", "--num-test=0", f"--fit={fit}",
               "--workers=1") == 0
    printed = capsys.readouterr().out
    assert "3 keypoints: top, left_hand, right_hand" in printed
    assert "left out: 1 x no keypoints" in printed
    info = dataset.open_dataset(out)
    assert info.keypoints == tuple(THREE) and info.skeleton == ((1, 2), (1, 3))
    assert info.classes == () and info.splits == {"train": 3, "val": 2, "test": 0}
    for split in ("train", "val"):
        for image_id, points in zip(dataset.read_ids(out, split),
                                    keypoints.read_keypoints(out, split)):
            expected = keypoints.place(np.array([[image_id + 0.5, 10, 2], [3.5, 4.5, 1],
                                                 [0, 0, 0]]), (40, 60), 32, fit)
            np.testing.assert_array_equal(points, expected)
    assert verify.find_defects(out, 1) == []


def test_keypoints_beside_maps_are_joined_by_file_names(tmp_path, capsys):
    source = make_source(tmp_path / "source", 4)
    entries = [{"id": 90 - i, "file_name": f"{i:07d}.jpg", "width": 80, "height": 120}
               for i in range(7, 10)]  # nothing is known of the last photo
    persons = [person(entry["id"], [(19.5, 29.5, 2)] * 3) for entry in entries]
    path = save(source / "annotations" / "k.json", persons, entries)
    content = json.loads(annotations_path(source).read_text())
    save_annotations(source, {**content, "categories": [
        {"id": label, "name": name} for label, name in enumerate(coco.MODANET_CLASSES, 1)]})
    assert run("create_from_coco", "--source", source, "--keypoints", path, "--out",
               tmp_path / "set", "--resolution=16", "--num-val=0", "--num-test=0",
               "--workers=1") == 0
    assert "left out: 1 x no keypoints" in capsys.readouterr().out
    (source / "annotations" / "other.csv").touch()
    path.rename(source / coco.KEYPOINTS_FILE)  # as `extract` names it
    assert raw_files.find_coco(source, None, None)[0] == annotations_path(source)
    path = (source / coco.KEYPOINTS_FILE).rename(path)
    annotations_path(source).rename(source / "here.json")
    assert raw_files.find_coco(source, None, None, path)[0] == source / "here.json"
    info = dataset.open_dataset(tmp_path / "set")
    assert len(info.classes) == 13 and info.splits["train"] == 3
    points = keypoints.read_keypoints(tmp_path / "set", "train")
    np.testing.assert_array_equal(points, np.tile(keypoints.place(
        np.array([[10, 15, 2]]), (40, 60), 16, "pad"), (3, 3, 1)))


def test_pairs_stay_in_one_split(tmp_path, photos, capsys):
    path = save(tmp_path / "k.json", all_there(photos), photos)
    csv = tmp_path / "pairs.csv"
    csv.write_text("from,to\np1.jpg,p2.jpg\np2.jpg,p1.jpg\np3.jpg,p4.jpg\nx/p5.jpg,p6.jpg\n"
                   "p1.jpg,p1.jpg\np1.jpg,p2.jpg\n")
    assert run("create_from_coco", "--images", tmp_path / "photos", "--keypoints", path, "--pairs",
               csv, "--out", tmp_path / "set", "--resolution=8", "--num-val=1", "--num-test=1",
               "--workers=1", "--seed=4") == 0
    assert "6 pairs, 3 of photos that are used" in capsys.readouterr().out
    found = set()
    for split, size in dataset.open_dataset(tmp_path / "set").splits.items():
        ids = dataset.read_ids(tmp_path / "set", split)
        pairs = keypoints.read_pairs(tmp_path / "set", split)
        found |= {(ids[a], ids[b]) for a, b in pairs}
        assert size in (1, 2, 3)
    assert found == {(1, 2), (2, 1), (3, 4)}
    csv.write_text("from,to\np1.png,p2.png\n")
    with pytest.raises(UserError, match=r"no pair names .*; p1\.png is none of .* as p1\.jpg"):
        run("create_from_coco", "--images", tmp_path / "photos", "--keypoints", path, "--pairs",
            csv, "--out", tmp_path / "none", "--resolution=8")


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_an_interrupted_set_is_continued(tmp_path, photos, monkeypatch, stop):
    """With the same keypoints and pairs, and both photos of a person in one split."""
    path = save(tmp_path / "k.json", all_there(photos), photos)
    csv = tmp_path / "pairs.csv"
    csv.write_text("from,to\np1.jpg,p2.jpg\np3.jpg,p4.jpg\np5.jpg,p6.jpg\n")
    monkeypatch.setattr(writer, "_CHECKPOINT_PHOTOS", 1)
    convert, calls = conversion.convert_photo, []

    def stopping(spec, item):
        calls.append(item)
        if len(calls) > len(photos) + stop:  # all are converted to project the size
            raise KeyboardInterrupt
        return convert(spec, item)

    def create(name):
        return run("create_from_coco", "--images", tmp_path / "photos", "--keypoints", path,
                   "--pairs", csv, "--out", tmp_path / name / "set", "--resolution=8",
                   "--num-val=1", "--num-test=1", "--workers=1")

    assert create("whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "convert_photo", stopping)
        with pytest.raises(KeyboardInterrupt):
            create("stopped")
    assert create("stopped") == 0
    assert folder_bytes(tmp_path / "stopped") == folder_bytes(tmp_path / "whole")
    assert dataset.open_dataset(tmp_path / "whole" / "set").pairs == {
        "train": 1, "val": 1, "test": 1}


def test_pairs_that_share_a_photo_are_of_one_person():
    """Also through missing photos."""
    joined = people.number_persons([5, 6, 7, 8, 9], [(5, 7), (9, 7), (8, ("gone.jpg",)),
                                                     (("gone.jpg",), 6)])
    assert joined[5] == joined[7] == joined[9] != joined[6] == joined[8]
    assert joined.keys() == {5, 6, 7, 8, 9}


def test_names_of_pairs_may_omit_folders():
    names = {"a/1.jpg": 1, "a/2.jpg": 2, "b/2.jpg": 3}
    assert people.resolve_pairs(
            [("1.jpg", "b/2.jpg"), ("1.jpg", "2.jpg"), ("1.jpg", "1.jpg")], names) == [
        (1, 3), (1, ("2.jpg",))]
    assert people.resolve_pairs([("./a/1.jpg", "b\\2.jpg")], names) == [(1, 3)]
    assert people.resolve_pairs([("cafe\u0301.jpg", "2.jpg")], {"caf\xe9.jpg": 1, "2.jpg": 2,
                                                              "c/2.jpg": 2}) == [(1, 2)]


def test_pairs_may_name_the_files_that_were_found(tmp_path, photos):
    """If the annotations have other suffixes."""
    entries = [{**entry, "file_name": entry["file_name"].replace("jpg", "png")} for entry in photos]
    path = save(tmp_path / "k.json", all_there(photos), entries)
    (tmp_path / "pairs.csv").write_text("from,to\np1.jpg,p2.jpg\np3.png,p4.jpg\n")
    assert run("create_from_coco", "--images", tmp_path / "photos", "--keypoints", path, "--pairs",
               tmp_path / "pairs.csv", "--out", tmp_path / "set", "--resolution=8", "--num-val=0",
               "--num-test=0", "--workers=1") == 0
    assert dataset.open_dataset(tmp_path / "set").pairs["train"] == 2


@pytest.mark.parametrize(("options", "message"), [
    (["--keypoints=k.json", "--untagged", "--images=x"], "--untagged takes photos alone"),
    (["--pairs=p.csv", "--images=x", "--annotations=a"], "only data sets with --keypoints"),
    (["--keypoints=k.json", "--images=x", "--only-classes=hat"], "have no classes"),
    (["--keypoints=k.json"], "--keypoints needs the photos")])
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        run("create_from_coco", *options)


def test_poses_need_keypoints(tmp_path):
    with pytest.raises(UserError, match="pairs of photos belong to --keypoints"):
        run("create_synthetic", "--poses=3", "--out", tmp_path / "set")


# Drawn figures

def test_joints_are_where_they_are_drawn():
    """Eyes are dark, hands have one colour, knees are covered by trousers."""
    seen = 0
    for number in range(12):
        rgb, owner, labels, points = synthetic.draw_figure(np.random.default_rng([0, number]))
        at = {name: point for name, point in zip(keypoints.NAMES, points)}
        assert set(points[:, 2]) <= {1, 2} and points.shape == (18, 3)
        colours = {name: rgb[int(y), int(x)].astype(int) for name, (x, y, _) in at.items()}
        if at["left_eye"][2] == 2:
            seen += 1
            assert colours["left_eye"].max() < 80 > colours["right_eye"].max()
        assert at["right_wrist"][0] < at["left_wrist"][0], "the figure looks at us"
        names = [coco.MODANET_CLASSES[label - 1] for label in labels]
        if "bag" not in names:
            assert np.abs(colours["left_wrist"] - colours["right_wrist"]).max() < 60
        for joint in ("left_knee", "right_knee"):
            x, y, _ = at[joint]
            if "pants" in names:
                assert owner[int(y), int(x)] == names.index("pants") + 1
    assert seen > 5


def test_poses_of_one_person_differ_only_in_the_pose():
    drawn = [synthetic.draw_photo(0, number, poses=3) for number in range(6)]
    classes = [[part["category_id"] for part in parts] for _, parts, _ in drawn]
    assert classes[0] == classes[1] == classes[2] and classes[3] == classes[4] == classes[5]
    assert len({jpeg for jpeg, _, _ in drawn}) == 6
    shoulders = [np.ptp(points[[2, 5], 0]) for _, _, points in drawn]
    np.testing.assert_allclose(shoulders[1:3], shoulders[0])
    assert abs(shoulders[3] - shoulders[0]) > 1e-6
    for a, b in ((0, 1), (1, 2), (3, 4)):
        assert np.abs(drawn[a][2] - drawn[b][2]).max() > 5
    with_one = synthetic.draw_photo(0, 3)
    assert with_one[0] == synthetic.draw_photo(0, 3, poses=1)[0]


def test_pairs_are_of_one_person():
    assert Drawing(5, 0, True, 2).pairs() == [
        (f"000000{a}.jpg", f"000000{b}.jpg") for a, b in ((1, 2), (2, 1), (3, 4), (4, 3))]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Draw three poses of each of four figures, at 64x64."""
    out = tmp_path_factory.mktemp("drawn") / "set"
    assert run("create_synthetic", "--keypoints", "--poses=3", "--num-images=12",
               "--resolution=64", "--num-val=3", "--num-test=2", "--workers=1", "--out", out) == 0
    return out


def test_drawn_figures_keep_their_keypoints(drawn, capsys):
    info = dataset.open_dataset(drawn)
    assert info.keypoints == keypoints.NAMES and info.skeleton == keypoints.SKELETON
    assert info.splits == {"train": 6, "val": 3, "test": 3}, "of the last person all three"
    assert info.pairs == {"train": 12, "val": 6, "test": 6}
    for split in info.splits:
        ids = dataset.read_ids(drawn, split)
        for image_id, points in zip(ids, keypoints.read_keypoints(drawn, split)):
            raw = synthetic.draw_photo(0, image_id - 1, poses=3)[2]
            np.testing.assert_allclose(points, keypoints.place(raw, (400, 600), 64, "pad"),
                                       atol=1e-5)
        for a, b in keypoints.read_pairs(drawn, split):
            assert (ids[a] - 1) // 3 == (ids[b] - 1) // 3 and a != b
    assert run("info", drawn) == 0
    printed = capsys.readouterr().out
    assert "keypoints  18 (nose, neck" in printed and "pairs      12 train, 6 val" in printed
    assert run("display", drawn, "--out", drawn.parent / "sheet.png", "--num=4") == 0


def test_damaged_keypoints_and_pairs_are_found(drawn):
    assert verify.find_defects(drawn, 1) == []
    for path, read in ((keypoints.keypoints_path(drawn, "train"), keypoints.read_keypoints),
                       (keypoints.pairs_path(drawn, "train"), keypoints.read_pairs)):
        before = path.read_bytes()
        values = read(drawn, "train").copy()
        values[[0, 1]] = values[[1, 0]]
        dataset.write_array(path, values)
        assert ["digest" in defect for defect in verify.find_defects(drawn, 1)] == [True]
        path.unlink()
        assert "no such file" in verify.find_defects(drawn, 1)[0]
        path.write_bytes(before)


def test_extracted_keypoints_are_read_again(drawn, tmp_path):
    assert run("extract", drawn, "--out", tmp_path / "out", "--split=train") == 0
    content = json.loads((tmp_path / "out" / coco.KEYPOINTS_FILE).read_text())
    assert content["categories"][0]["keypoints"] == list(keypoints.NAMES)
    points = keypoints.read_keypoints(drawn, "train")
    for entry, expected in zip(content["annotations"], points):
        found = np.reshape(entry["keypoints"], (18, 3))
        np.testing.assert_allclose(found[:, :2] + 0.5, expected[:, :2] * 64, atol=1e-3)
        assert entry["num_keypoints"] == 18
    assert run("create_from_coco", "--source", tmp_path / "out", "--keypoints",
               tmp_path / "out" / coco.KEYPOINTS_FILE, "--pairs", tmp_path / "out" / "pairs.csv",
               "--out", tmp_path / "again", "--resolution=64", "--num-val=0", "--num-test=0",
               "--workers=1") == 0
    order = {image_id: i for i, image_id in enumerate(dataset.read_ids(drawn, "train"))}
    places = [order[image_id] for image_id in dataset.read_ids(tmp_path / "again", "train")]
    np.testing.assert_allclose(keypoints.read_keypoints(tmp_path / "again", "train"),
                               points[places], atol=1e-5)
    pairs = {tuple(pair) for pair in keypoints.read_pairs(drawn, "train").tolist()}
    assert {(places[a], places[b]) for a, b in keypoints.read_pairs(
        tmp_path / "again", "train").tolist()} == pairs
    assert read_jsonl(tmp_path / "again" / "skipped.jsonl") == []
