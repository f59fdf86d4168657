"""Drawn photos: always the same, of every class, with polygons that match what was painted."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from dataprep.coco import annotations, segmentations
from dataprep.drawing import synthetic
from dataprep.drawing.figures import Canvas, random_figure
from dataprep.drawing.synthetic import Drawing
from dnnlib.data.coco import MODANET_CLASSES
from dnnlib.util import UserError
from tests.tools.data_helpers import create_config, folder_bytes, make_source


def labels_of(owner, labels):
    """Return the label map that the canvas shows."""
    return np.concatenate([[0], labels]).astype(np.uint8)[owner]


@pytest.fixture(scope="module")
def drawn():
    return [synthetic.draw_figure(np.random.default_rng([0, i])) for i in range(18)]


def test_every_class_is_drawn(drawn):
    seen = set().union(*(labels for _, _, labels, _ in drawn))
    assert seen == set(range(1, len(MODANET_CLASSES) + 1))


def test_pictures_vary_and_contain_a_figure(drawn):
    for rgb, owner, labels, _ in drawn:
        assert rgb.shape == (600, 400, 3) and rgb.dtype == np.uint8 and rgb.std() > 15
        assert owner.max() <= len(labels)
        rows = np.flatnonzero(owner.any(1))
        assert rows[-1] - rows[0] > 250, "garments reach from the shoulders to the feet"
        assert 0.05 < (owner > 0).mean() < 0.5
    assert len({rgb.tobytes() for rgb, *_ in drawn}) == len(drawn)


def test_polygons_cover_exactly_the_visible_pixels():
    """Through the reader and rasteriser of real annotations."""
    for number in range(2):
        rgb, owner, labels, _ = synthetic.draw_figure(np.random.default_rng([0, number]))
        jpeg, instances, _ = synthetic.draw_photo(0, number)
        expected = labels_of(owner, labels)
        parts = []
        for instance in instances:
            polygons = tuple(np.array(polygon) for polygon in instance["segmentation"])
            parts.append(segmentations.Instance(instance["category_id"], polygons))
            mask = segmentations.decode_mask(segmentations.encode_mask(polygons, 400, 600))
            rows, columns = np.nonzero(mask)
            x, y, width, height = instance["bbox"]
            assert mask.sum() == instance["area"]
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
        photo = segmentations.Photo(1, "", 400, 600, tuple(parts))
        found = segmentations.label_map_and_overlap(photo, (400, 600))[0]
        differ = found != expected
        assert differ.sum() < 12 * len(labels) and (found[differ] == 0).all(), "only tiny remains"
        with Image.open(io.BytesIO(jpeg)) as picture:
            decoded = np.asarray(picture)
        assert np.abs(decoded.astype(int) - rgb).mean() < 4


def test_a_photo_depends_only_on_seed_and_number():
    assert synthetic.draw_photo(0, 5)[:2] == synthetic.draw_photo(0, 5)[:2]
    assert synthetic.draw_photo(0, 5)[0] != synthetic.draw_photo(0, 6)[0]
    assert synthetic.draw_photo(0, 5)[0] != synthetic.draw_photo(1, 5)[0]


def test_files_are_in_modanets_layout(tmp_path):
    path = synthetic.draw_all(tmp_path / "raw", Drawing(3, 0), 1)
    content = json.loads(path.read_text())
    assert sorted(p.name for p in (tmp_path / "raw/images").iterdir()) == [
        f"000000{i}.jpg" for i in (1, 2, 3)]
    assert set(content) >= {"info", "images", "annotations", "categories", "licenses"}
    assert [c["name"] for c in content["categories"]] == list(MODANET_CLASSES)
    ids = [entry["id"] for entry in content["annotations"]]
    assert len(set(ids)) == len(ids)
    assert set(content["annotations"][0]) == {"image_id", "id", "iscrowd", "category_id",
                                              "segmentation", "area", "bbox"}
    photos = annotations.load_annotations(path)
    assert not photos.defects and not photos.skipped_images
    before = path.stat().st_mtime_ns
    synthetic.draw_all(tmp_path / "raw", Drawing(3, 0), 1)
    assert path.stat().st_mtime_ns == before, "what is drawn is kept"
    one = (tmp_path / "raw/images/0000001.jpg").read_bytes()
    synthetic.draw_all(tmp_path / "raw", Drawing(2, 0), 2)
    assert len(list((tmp_path / "raw/images").iterdir())) == 2
    assert (tmp_path / "raw/images/0000001.jpg").read_bytes() == one, "by other workers, too"


def test_drawn_photos_go_through_the_same_code(tmp_path):
    from dataprep import create
    config = create_config(command="create_synthetic", out=tmp_path, num_images=4, resolution=32)
    content = create.create_synthetic(config, print)
    assert content["num_channels"] == 16 and content["skipped"] == 0
    assert sum(map(len, content["splits"].values())) == 4


def test_figures_are_inside_the_picture():
    for seed in range(50):
        figure = random_figure(np.random.default_rng(seed), 400, 600)
        joints = np.concatenate([figure.shoulders, figure.elbows, figure.wrists, figure.hips,
                                 figure.knees, figure.ankles, figure.head[None]])
        assert (joints > 5).all() and (joints < [395, 598]).all()
        assert (figure.ankles[:, 1] > figure.knees[:, 1]).all()
        assert (figure.knees[:, 1] > figure.hips[:, 1]).all()
        assert figure.head[1] < figure.shoulders[:, 1].min()


def test_limbs_start_at_the_joints_and_end_where_they_are_cut():
    figure = random_figure(np.random.default_rng(3), 400, 600)
    for side in (0, 1):
        whole = figure.arm(side, 1.0)
        np.testing.assert_allclose(whole, [figure.shoulders[side], figure.elbows[side],
                                           figure.wrists[side]])
        np.testing.assert_allclose(figure.arm(side, 0.25)[-1], whole[:2].mean(0))
        np.testing.assert_allclose(figure.arm(side, 0.75)[-1], whole[1:].mean(0))
        leg = figure.leg(side, 0.3)
        assert leg[0].tolist() == figure.hips[side].tolist() and len(leg) == 2
        np.testing.assert_allclose(leg[-1, 1], figure.level(0.3))


def test_garments_are_where_the_body_is(drawn):
    """Shoes and boots at the ankles, trousers between hips and ankles, hats on the head."""
    for number, (_, owner, labels, _) in enumerate(drawn):
        rng = np.random.default_rng([0, number])
        synthetic._backdrop(rng)
        figure = random_figure(rng, synthetic.WIDTH, synthetic.HEIGHT)
        names = {MODANET_CLASSES[label - 1]: np.nonzero(owner == index)
                 for index, label in enumerate(labels, 1)}
        feet = names.get("boots", names.get("footwear"))
        assert abs(feet[0].max() - figure.level(0)) < 0.05 * figure.h
        if "pants" in names:
            rows = names["pants"][0]
            assert figure.level(0.6) < rows.min() and rows.max() < figure.level(0)
        if "headwear" in names:
            assert names["headwear"][0].max() < figure.head[1]
            assert abs(names["headwear"][1].mean() - figure.head[0]) < 0.02 * figure.h


def test_painted_pixels_belong_to_their_shape():
    """To the shape that covers a pixel last; its darker edge belongs to it too."""
    canvas = Canvas(np.full((40, 60, 3), 128, np.uint8))
    canvas.polygon([(10, 10), (20, 10), (20, 30), (10, 30)], (100, 0, 0), owner=3)
    assert (canvas.owner[10:31, 10:21] == 3).all() and (canvas.owner == 3).sum() == 21 * 11
    assert canvas.rgb[20, 15].tolist() == [100, 0, 0] and canvas.rgb[20, 10].tolist() == [80, 0, 0]
    canvas.limb([(14, 6), (50, 6)], 8, (0, 0, 250), owner=0)
    assert (canvas.owner[:14, 14:] == 0).all(), "what covers a garment takes its pixels"
    canvas.ellipse(np.array([40, 30]), 6, 4, (0, 200, 0), owner=1)
    rows, columns = np.nonzero(canvas.owner == 1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (26, 34, 34, 46)
    changed = (canvas.rgb != 128).any(-1)
    assert (canvas.owner[~changed] == 0).all(), "nothing is owned that was not painted"


def test_an_unfinished_drawing_is_drawn_again(tmp_path):
    synthetic.draw_all(tmp_path / "whole", Drawing(2, 0), 1)
    path = synthetic.draw_all(tmp_path / "raw", Drawing(2, 0), 1)
    path.rename(path.with_name(f".{path.name}.1.tmp"))
    (tmp_path / "raw" / "images" / "0000003.jpg").write_bytes(b"of a longer one")
    synthetic.draw_all(tmp_path / "raw", Drawing(2, 0), 1)
    assert folder_bytes(tmp_path / "raw") == folder_bytes(tmp_path / "whole")


def test_existing_photos_are_not_overwritten(tmp_path):
    """As `create_synthetic --out datasets/modanet` would do."""
    source = make_source(tmp_path / "raw", 3)
    before = folder_bytes(source)
    with pytest.raises(UserError, match="holds files that were not drawn"):
        synthetic.draw_all(source, Drawing(2, 0), 1)
    (source / "annotations" / "modanet2018_instances_train.json").unlink()
    with pytest.raises(UserError, match="holds files that were not drawn"):
        synthetic.draw_all(source, Drawing(2, 0), 1)
    assert sum(data == before.get(name) for name, data in folder_bytes(source).items()) == 3
