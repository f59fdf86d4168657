"""Two lists of photos: what is read from them, in which order, and their random changes."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.distribute import Draws
from dnnlib.util import UserError
from tests.tools.data_helpers import make_dataset
from tests.tools.domains import BLUE, RED, SIDE, box_dataset, boxes, tiny, two_datasets
from training.cycle.domains import (
    Domain,
    UnlabelledFolder,
    augment_photos,
    open_list,
    read_domains,
    to_floats,
)


def test_photos_and_soft_masks_of_records(tmp_path):
    """At a smaller level too, where edges are soft."""
    path, images = box_dataset(tmp_path / "a", RED, 5, seed=1), boxes(RED, 5, 1)
    domain = Domain.open(open_list(path), SIDE, ("box",))
    np.testing.assert_array_equal([domain.read(n) for n in range(5)],
                                  images.transpose(0, 2, 3, 1))
    halved = Domain.open(open_list(path), 8, ("box",)).read(0)[..., 3].astype(float)
    expected = images[0, 3].reshape(8, 2, 8, 2).mean((1, 3))
    np.testing.assert_allclose(halved, expected, atol=0.5)
    assert Domain.open(open_list(path), SIDE).read(0).shape == (SIDE, SIDE, 3)


def test_photos_without_the_garment_are_left_out(tmp_path):
    images = boxes(RED, 4, 1)
    images[1, 3:] = images[2, 3:] = 0
    images[2, 3, 0, :2] = 255  # two pixels of 256 are too few
    path = make_dataset(tmp_path / "a", {"train": images}, ("box",))
    assert Domain.open(open_dataset(path), SIDE, ("box",)).numbers == [0, 3]
    images[:, 3:] = 0
    empty = make_dataset(tmp_path / "b", {"train": images}, ("box",))
    with pytest.raises(UserError, match="none of 4 photos shows box on 1% of its area"):
        Domain.open(open_dataset(empty), SIDE, ("box",))


def test_folders_of_photos_and_of_pairs(tmp_path):
    """Photos of any size are fitted into squares; a pair's label map is its mask."""
    photo = np.full((20, 40, 3), 90, np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos/x.png")
    os.mkfifo(tmp_path / "photos/pipe.png")  # reading it would block for ever
    source = open_list(tmp_path / "photos")
    assert source.splits == {"train": 1}
    assert isinstance(source, UnlabelledFolder) and source.largest_level() == 32
    rgb = Domain.open(source, 16).read(0)
    assert (rgb[:4] == 255).all() and (rgb[4:12] == 90).all() and (rgb[12:] == 255).all()
    for name in "yz":
        Image.new("RGB", (70, 30)).save(tmp_path / f"photos/{name}.png")
    assert open_list(tmp_path / "photos").largest_level() == 64  # the size of half of them
    for name in "yz":
        (tmp_path / f"photos/{name}.png").unlink()
    for name, kind in (("z.tif", "TIFF"), ("y", "JPEG"), (".a.png", "PNG")):
        Image.fromarray(photo).save(tmp_path / f"photos/{name}", kind)
    (tmp_path / "photos/notes.txt").write_text("no photo")
    assert open_list(tmp_path / "photos").splits == {"train": 3}  # x.png, y, z.tif
    for name in ("z.tif", "y", ".a.png", "notes.txt"):
        (tmp_path / f"photos/{name}").unlink()
    first = source.digest
    Image.fromarray(photo + 1).save(tmp_path / "photos/x.png")
    assert open_list(tmp_path / "photos").digest != first
    pairs = tmp_path / "pairs"
    (pairs / "images").mkdir(parents=True)
    (pairs / "labels").mkdir()
    labels = np.zeros((20, 40), np.uint8)
    labels[:, :20] = 2
    Image.fromarray(photo).save(pairs / "images/x.png")
    Image.fromarray(labels).save(pairs / "labels/x.png")
    (pairs / "classes.txt").write_text("hat\nbox\n")
    domain = Domain.open(open_list(pairs), 16, ("box",))
    assert domain.read(0)[8, :, 3].tolist() == [255] * 8 + [0] * 8
    assert Domain.open(open_list(pairs), 16, ("box", "hat", "box")).garment == ("box", "hat")
    (tmp_path / "photos/x.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"x\.png: .*; move it out of the folder"):
        Domain.open(open_list(tmp_path / "photos"), 16).read(0)
    with pytest.raises(UserError, match="does not exist"):
        open_list(tmp_path / "nothing")


def test_the_shorter_list_repeats_in_another_order(tmp_path):
    """While the longer one is used once. A stream that starts later is the same from there on, and
    workers read their own rows."""
    domains = [Domain.open(open_list(path), SIDE) for path in two_datasets(tmp_path)]
    originals = [boxes(colour, count, seed)[:, :3].transpose(0, 2, 3, 1)
                 for colour, count, seed in ((RED, 6, 1), (BLUE, 9, 2))]

    def numbers(start, count, rows=None, seed=7):
        places = [start + 3 * step + row for step in range(count) for row in rows or range(3)]
        batch = read_domains(domains, seed, places)
        return [[int(np.abs(original - photo.astype(int)).mean((1, 2, 3)).argmin())
                 for photo in batch[side]]
                for side, original in enumerate(originals)]

    a, b = numbers(0, 6)
    assert sorted(a[:6]) == sorted(a[6:12]) == sorted(a[12:]) == list(range(6))
    assert sorted(b[:9]) == sorted(b[9:]) == list(range(9))
    assert a[:6] != a[6:12] and b[:9] != b[9:]
    assert numbers(9, 3) == [a[9:], b[9:]]
    assert numbers(0, 6, [1]) == [a[1::3], b[1::3]]
    # B has its own order, which is not A's in the next training either.
    domains, originals = domains[:1] * 2, originals[:1] * 2
    one, two = (numbers(0, 6, seed=seed) for seed in (7, 8))
    assert one[0] == a and one[1] not in (a, two[0], two[1])


def test_a_photo_without_changes_is_returned_as_it_is(tmp_path, rng):
    photos = to_floats(tf.constant(rng.integers(0, 256, (2, 8, 8, 4)), tf.uint8))
    config = tiny("ab", jitter=1.0, flip=False)
    assert augment_photos(photos, Draws(1, 0, 2), config, "a") is photos
    moved = augment_photos(photos, Draws(1, 0, 2), tiny("ab", jitter=1.0), "a").numpy()
    for before, after in zip(photos.numpy(), moved):
        assert np.array_equal(after, before) or np.array_equal(after, before[:, ::-1])


def test_photos_are_enlarged_rotated_and_cropped(rng):
    """A ramp in x and y shows the affine map: scale, angle, position; masks move alike."""
    side, count, jitter, degrees = 32, 64, 1.25, 20.0
    y, x = np.mgrid[:side, :side].astype(np.float32)
    ramp = np.broadcast_to(np.stack([x, y, x, y], axis=-1), (count, side, side, 4))
    config = tiny("ab", jitter=jitter, rotation=degrees, flip=False)
    moved = augment_photos(tf.constant(ramp), Draws(3, 1, count), config, "a").numpy()
    middle = (side - 1) / 2
    part = slice(side // 2 - 4, side // 2 + 4)  # far from pixels filled by reflection
    along_x = np.diff(moved[:, part, part, :2], axis=2).mean((1, 2))
    angles = np.degrees(np.arctan2(along_x[:, 1], along_x[:, 0]))
    np.testing.assert_allclose(np.hypot(*along_x.T), 1 / jitter, rtol=1e-4)
    assert np.abs(angles).max() <= degrees and np.abs(angles).max() > 0.8 * degrees
    along_y = np.diff(moved[:, part, part, :2], axis=1).mean((1, 2))
    np.testing.assert_allclose(along_y, along_x[:, ::-1] * [-1, 1], atol=1e-4)  # a rotation
    shifts = moved[:, part, part, :2].mean((1, 2)) - middle
    room = middle * (1 - 1 / jitter)
    assert np.abs(shifts).max() <= room + 1e-3 and np.abs(shifts).max() > 0.8 * room
    np.testing.assert_array_equal(moved[..., :2], moved[..., 2:])
    other = augment_photos(tf.constant(ramp), Draws(3, 1, count), config, "b").numpy()
    assert np.abs(other - moved).max() > 1
