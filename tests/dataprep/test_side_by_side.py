"""Pictures that contain photo and labels: the halves, colours before and after JPEG, splits."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

import dataset_tool
from dataprep import side_by_side
from dataprep.side_by_side import FACADES, SideBySide
from dnnlib.data import channels, photos
from dnnlib.data.dataset import open_dataset, open_split, read_ids
from dnnlib.util import UserError
from tests.tools.data_helpers import read_jsonl

CLASSES, COLOURS = side_by_side.read_colours("facades", print)
PALETTE = np.array([list(colour.to_bytes(3)) for colour in FACADES.values()], np.uint8)
LAYOUT = SideBySide("left", COLOURS)


def town(rng, height=96, width=128, num=14):
    """Return a label map of overlapping rectangles, uint8 [height, width] of 0..11."""
    labels = np.ones((height // 4, width // 4), np.uint8)
    for label in rng.integers(0, 12, num):
        y, x = rng.integers(0, height // 4 - 4), rng.integers(0, width // 4 - 4)
        labels[y:y + rng.integers(2, 10), x:x + rng.integers(2, 10)] = label
    return labels.repeat(4, axis=0).repeat(4, axis=1)


def noise_photo(rng, height, width):
    """Return a photo of greenish noise, without any label's colour."""
    return rng.integers((90, 110, 60), (150, 170, 120), (height, width, 3)).astype(np.uint8)


def picture(rng, labels, side="left"):
    """Return photo and drawn labels side by side, a PIL image."""
    halves = [noise_photo(rng, *labels.shape), PALETTE[labels]]
    return Image.fromarray(np.hstack(halves if side == "left" else halves[::-1]))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(image, layout=LAYOUT):
    return layout.split_halves(image, image.size)


def majority_oracle(labels):
    """Apply the majority rule pixel by pixel."""
    result = np.empty_like(labels)
    for y, x in np.ndindex(labels.shape):
        votes = labels[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2].ravel().tolist()
        most = max(map(votes.count, votes))
        winners = sorted(label for label in set(votes) if votes.count(label) == most)
        result[y, x] = labels[y, x] if labels[y, x] in winners else winners[0]
    return result


def interior(labels, margin=2):
    """Return where all pixels up to `margin` away have the same label."""
    padded = np.pad(labels, margin, mode="edge")
    height, width = labels.shape
    return np.all([padded[y:y + height, x:x + width] == labels
                   for y, x in itertools.product(range(2 * margin + 1), repeat=2)], axis=0)


def test_the_built_in_list_is_for_facades():
    assert CLASSES[0] == "facade" and len(CLASSES) == 11, "'background' is no class but label 0"
    assert dict(COLOURS)[0x0000de] == 0 and dict(COLOURS)[0xaf0000] == 11
    assert PALETTE[[1, 2, 6]].tolist() == [[0, 48, 255], [0, 128, 255], [191, 255, 64]]


def test_the_nearest_colour_is_found(rng):
    rgb = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    nearest, distance = side_by_side.nearest_colours(rgb, PALETTE)
    squares = ((rgb[:, :, None].astype(np.float64) - PALETTE) ** 2).sum(-1)
    np.testing.assert_array_equal(nearest, squares.argmin(-1))
    np.testing.assert_array_equal(distance, squares.min(-1))


def test_the_majority_decides(rng):
    for num in (2, 3, 12):
        labels = rng.integers(0, num, (17, 23), dtype=np.uint8)
        np.testing.assert_array_equal(side_by_side.majority_filter(labels), majority_oracle(labels))
    spot = np.zeros((5, 5), np.uint8)
    spot[2, 2] = 3
    assert not side_by_side.majority_filter(spot).any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_exact_colours_give_exact_labels(rng, side):
    labels = town(rng)
    image = picture(rng, labels, side)
    photo, found, size = halves(image, SideBySide(side, COLOURS))
    assert photo.size == size == (128, 96)
    np.testing.assert_array_equal(found, majority_oracle(labels))
    left = 0 if side == "left" else 128
    np.testing.assert_array_equal(photo, np.asarray(image)[:, left:left + 128])


@pytest.mark.parametrize(("quality", "factor"), [(75, 1), (95, 1), (95, 3)])
def test_labels_survive_jpeg(rng, quality, factor):
    """With colours at half the resolution, as in JPEG; also drawn larger and then reduced."""
    right = total = everywhere = 0
    for _ in range(4):
        labels = town(rng)
        large = picture(rng, labels.repeat(factor, axis=0).repeat(factor, axis=1))
        image = large.resize((256, 96), Image.Resampling.BICUBIC)
        _, found, _ = halves(photos.decode_photo(encoded(image, "JPEG", quality=quality)))
        inner = interior(labels)
        right, total = right + (found == labels)[inner].sum(), total + inner.sum()
        everywhere += (found == labels).mean() / 4
    assert right >= 0.99 * total
    assert everywhere >= 0.975, "nearest colours and a majority alone have 0.95 to 0.965"


def test_a_blend_gets_the_nearer_of_two_classes():
    """Also if it is near a third class's colour, which is then a thin line, or far from all."""
    a, b, c = PALETTE[6], PALETTE[4], PALETTE[5]  # c is about the mean of a and b
    row = np.stack([a, a, a, 0.8 * a + 0.2 * b, c, 0.2 * a + 0.8 * b, b, b, b])
    rgb = np.tile(np.rint(row).astype(np.uint8), (6, 1, 1))
    nearest, distance = side_by_side.nearest_colours(rgb, PALETTE)
    assert 5 in nearest
    found = side_by_side.resolve_blends(rgb, PALETTE.astype(int), nearest, distance)
    assert set(found.flat) == {4, 6} and (found == found[0]).all()
    assert found[0].tolist()[:4] == [6] * 4 and found[0].tolist()[5:] == [4] * 4
    rgb[:, 3:6] = PALETTE[11]  # not a blend of the two
    nearest, distance = side_by_side.nearest_colours(rgb, PALETTE)
    np.testing.assert_array_equal(nearest, side_by_side.resolve_blends(
        rgb, PALETTE.astype(int), nearest, distance))


def test_pictures_that_do_not_fit_are_refused(rng):
    labels = town(rng)
    whole = picture(rng, labels)
    with pytest.raises(photos.PhotoError, match="255x96; photo and labels side by side have an"):
        halves(whole.crop((0, 0, 255, 96)))
    with pytest.raises(photos.PhotoError, match="is the photo on the left"):
        halves(picture(rng, labels, "right"))
    with pytest.raises(photos.PhotoError, match="background only"):
        halves(picture(rng, np.zeros_like(labels)))
    spoiled = np.array(whole)
    spoiled[10:40, 150:180] = (120, 118, 122)
    with pytest.raises(photos.PhotoError, match="a colour near #807080, which is not in the list"):
        halves(Image.fromarray(spoiled))


def test_a_list_needs_colours_and_may_lack_the_background(tmp_path, capsys):
    path = tmp_path / "classes.txt"
    path.write_text("road #804080\ncar #00008e\n")
    assert side_by_side.read_colours(str(path), print) == (
        ("road", "car"), ((0x804080, 1), (0x00008e, 2)))
    assert "0 background (no colour), 1 road, 2 car" in capsys.readouterr().out
    path.write_text("void #000000\nroad #804080\n")
    assert side_by_side.read_colours(str(path), print)[1] == ((0, 0), (0x804080, 1))
    path.write_text("0: road #804080\n1: car #00008e\n")
    with pytest.raises(UserError, match="number 0 is 'road'"):
        side_by_side.read_colours(str(path), print)
    path.write_text("road\ncar\n")
    with pytest.raises(UserError, match="has no colours"):
        side_by_side.read_colours(str(path), print)


@pytest.fixture
def facades(tmp_path, rng):
    """Make four pictures for training, two for validation, one elsewhere, and other files."""
    root = tmp_path / "facades"
    for folder, count in (("train", 4), ("val", 2), ("more", 1)):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            labels = town(rng, 64, 64)
            labels[:8] = number % 3  # all show the first classes
            (root / folder / f"{number}.png").write_bytes(encoded(picture(rng, labels)))
    (root / "train" / "odd.jpg").write_bytes(encoded(Image.new("RGB", (65, 64)), "JPEG"))
    (root / "train" / "broken.jpg").write_bytes(b"none")
    return root


def create(source, out, *options):
    return dataset_tool.main(["create_from_pairs", f"--source={source}", f"--out={out}",
                              "--classes=facades", "--resolution=64", "--workers=1", *options])


def test_folders_are_the_splits(facades, tmp_path, capsys):
    assert create(facades, tmp_path / "set") == 0
    printed = capsys.readouterr().out
    assert "9 pictures, in the splits of its folders" in printed
    assert "left out: 1 x not in train/, val/, test/" in printed
    assert "left out: 1 x picture of 65x64" in printed
    info = open_dataset(tmp_path / "set")
    assert info.splits == {"train": 4, "val": 2, "test": 0} and info.classes == CLASSES
    assert set(read_ids(tmp_path / "set", "val")) == {"val/0.png", "val/1.png"}
    skipped = {entry["id"] for entry in read_jsonl(tmp_path / "set" / "skipped.jsonl")}
    assert skipped == {"more/0.png", "train/odd.jpg", "train/broken.jpg"}
    image = open_split(info, "val").read_image(0)
    with Image.open(facades / read_ids(tmp_path / "set", "val")[0]) as source:
        pixels = np.asarray(source)
    np.testing.assert_array_equal(image[:3].transpose(1, 2, 0), pixels[:, :64])
    expected = side_by_side.majority_filter((pixels[:, 64:, None] == PALETTE).all(-1).argmax(-1)
                                            .astype(np.uint8))
    found = channels.to_label_map(image[3:].transpose(1, 2, 0), channels.STORED_THRESHOLD)
    np.testing.assert_array_equal(found, expected)
    assert dataset_tool.main(["info", str(tmp_path / "set"), "--verify"]) == 0
    assert create(facades, tmp_path / "set") == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("names", [
    ("Train", "Val", "Test"), ("training", "valid", "TEST"), ("TRAIN", "Validation", "test")])
def test_folders_of_splits_may_have_other_names(names):
    files = [f"{name}/0.png" for name in names]
    splits, skipped = side_by_side.folder_splits("x", [*files, "more/0.png", "train.png"])
    assert splits == dict(zip(files, ("train", "val", "test")))
    assert [entry["id"] for entry in skipped] == ["more/0.png", "train.png"]


def test_without_such_folders_the_seed_decides(facades, tmp_path):
    assert create(facades / "train", tmp_path / "set", "--num-val=1", "--num-test=1") == 0
    assert open_dataset(tmp_path / "set").splits == {"train": 2, "val": 1, "test": 1}


def test_splits_cannot_be_given_twice(facades, tmp_path):
    with pytest.raises(UserError, match=r"--num-val.*are the splits"):
        create(facades, tmp_path / "set", "--num-val=1")
    (facades / "train").rename(facades / "others")
    with pytest.raises(UserError, match="has val, but no pictures in train"):
        create(facades, tmp_path / "set")


def test_a_dry_run_writes_nothing(facades, tmp_path, capsys):
    assert create(facades, tmp_path / "set", "--dry-run") == 0
    assert "dry run: nothing written" in capsys.readouterr().out
    assert not (tmp_path / "set").exists()
