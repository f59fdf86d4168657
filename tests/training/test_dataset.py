"""Records -> minibatches: order, position, channels, and errors."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dnnlib.data import tfrecords
from dnnlib.util import UserError
from tests.tools.data_helpers import make_dataset, random_image
from training import dataset

NUM = 10
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def images():
    """Return {split: uint8 [N, C, H, W]}: 10 and 4 images of 3 + 4 channels, 16x16."""
    rng = np.random.default_rng(5)
    return {split: np.stack([random_image(rng, 7, 16) for _ in range(num)])
            for split, num in (("train", NUM), ("val", 4))}


@pytest.fixture(scope="module")
def labelled(images, tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "labelled", images)


@pytest.fixture(scope="module")
def unlabelled(images, tmp_path_factory):
    colours = {"train": images["train"][:6, :3] // 2}
    return make_dataset(tmp_path_factory.mktemp("data") / "unlabelled", colours, (), "raw")


def stream(*directories, **changes):
    options = {"resolution": 16, "num_channels": 7, "minibatch": 4, "seed": 1, **changes}
    return dataset.TrainingStream(directories, **options)


def take(batches, num):
    """Return the images of the first `num` minibatches in one array."""
    return np.concatenate([images.numpy() for images, _ in itertools.islice(iter(batches), num)])


def nhwc(stack):
    return stack.transpose(0, 2, 3, 1)


def test_sample_k_is_the_permutations_record(labelled, images):
    samples = take(stream(labelled), 12)
    assert samples.shape == (48, 16, 16, 7) and samples.dtype == np.uint8
    for k, sample in enumerate(samples):
        number = dataset.permutation(1, k // NUM, NUM)[k % NUM]
        np.testing.assert_array_equal(sample, nhwc(images["train"])[number])


def test_every_epoch_has_every_image_once_in_its_own_order(labelled, images):
    samples = take(stream(labelled, minibatch=5), 6).reshape(3, NUM, -1)
    sets = [sorted(sample.tobytes() for sample in epoch) for epoch in samples]
    assert sets[0] == sets[1] == sets[2] and len(set(sets[0])) == NUM
    assert not np.array_equal(samples[0], samples[1])


@pytest.mark.parametrize("start", [7, 1_000_003])
def test_a_stream_continues_where_another_stopped(labelled, images, start):
    resumed = take(stream(labelled, minibatch=2, start_nimg=start), 4)
    expected = [nhwc(images["train"])[dataset.permutation(1, k // NUM, NUM)[k % NUM]]
                for k in range(start, start + 8)]
    np.testing.assert_array_equal(resumed, expected)


def test_the_minibatch_does_not_change_the_order(labelled):
    np.testing.assert_array_equal(take(stream(labelled, minibatch=3), 8),
                                  take(stream(labelled, minibatch=8), 3))


def test_a_stream_can_be_read_twice(labelled):
    batches = stream(labelled)
    np.testing.assert_array_equal(take(batches, 3), take(batches, 3))


def test_the_seed_changes_the_order(labelled):
    assert not np.array_equal(take(stream(labelled), 2), take(stream(labelled, seed=2), 2))


@pytest.mark.parametrize("resolution", [4, 8])
def test_lower_levels_are_those_of_the_same_records(labelled, images, resolution):
    samples = take(stream(labelled, resolution=resolution), 2)
    block = 16 // resolution
    for k, sample in enumerate(samples):
        whole = nhwc(images["train"])[dataset.permutation(1, 0, NUM)[k]].astype(np.float64)
        means = whole.reshape(resolution, block, resolution, block, 7).mean((1, 3))
        np.testing.assert_array_equal(sample, np.rint(means))


def test_channels_of_the_three_stages(labelled):
    everything = take(stream(labelled), 3)
    np.testing.assert_array_equal(take(stream(labelled, num_channels=3), 3), everything[..., :3])
    binary = take(stream(labelled, num_channels=4), 3)
    np.testing.assert_array_equal(binary[..., :3], everything[..., :3])
    total = np.minimum(everything[..., 3:].astype(int).sum(-1), 255)
    np.testing.assert_array_equal(binary[..., 3], total)


def test_the_binary_map_saturates(tmp_path):
    """At lower levels and soft edges, rounding can make the maps add up to more than 255."""
    image = np.full((1, 7, 4, 4), 129, np.uint8)
    data = make_dataset(tmp_path / "soft", {"train": image})
    samples = take(stream(data, resolution=4, num_channels=4, minibatch=1), 1)
    assert (samples[..., 3] == 255).all()


def test_one_class_is_its_own_binary_map(tmp_path, rng):
    image = random_image(rng, 4, 8)[None]
    data = make_dataset(tmp_path / "one", {"train": image}, classes=("coat",))
    samples = take(stream(data, resolution=8, num_channels=4, minibatch=1), 1)
    np.testing.assert_array_equal(samples, nhwc(image))


def test_directories_without_maps_join_for_colours(labelled, unlabelled, images):
    both = stream(labelled, unlabelled, num_channels=3)
    assert both.num_images == 16
    colours = nhwc(images["train"])[..., :3]
    records = np.concatenate([colours, colours[:6] // 2])
    order = dataset.permutation(1, 0, 16)
    np.testing.assert_array_equal(take(both, 4), records[order])


@pytest.mark.parametrize("changes, message", [
    ({"split": "test"}, "no images in split 'test'; it has: train, val"),
    ({"resolution": 32}, "no images of 32x32; it has: 4, 8, 16"),
    ({"resolution": 12}, r"no images of 12x12"),
    ({"num_channels": 6}, "cannot give images of 6 channels; it gives 3, 4 or 7")])
def test_missing_parts_of_a_data_set_are_one_line(labelled, changes, message):
    with pytest.raises(UserError, match=message):
        stream(labelled, **changes)


def test_maps_are_not_invented(labelled, unlabelled, images, tmp_path):
    for num_channels in (4, 7):
        with pytest.raises(UserError, match="no class maps"):
            stream(labelled, unlabelled, num_channels=num_channels)
    other = make_dataset(tmp_path / "other", images, classes=("a", "b", "c", "d"))
    with pytest.raises(UserError, match="different classes"):
        stream(labelled, other)


def change_json(path, **changes):
    content = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps({**content, **changes}))


@pytest.fixture
def copy(images, tmp_path):
    return make_dataset(tmp_path / "copy", images, encoding="png")


def test_a_count_that_differs_from_dataset_json_is_noticed(copy):
    change_json(copy, splits={"train": list(range(NUM + 1))})
    with pytest.raises(UserError, match=r"10 records where dataset\.json says 11"):
        stream(copy)


def test_a_damaged_record_stops_the_stream_and_is_named(copy):
    path = copy / "train" / "train-r04.tfrecords"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-r04\.tfrecords: record \d is damaged"):
        take(stream(copy), 6)


def test_records_of_another_shape_stop_the_stream(copy):
    (copy / "train" / "train-r04.tfrecords").write_bytes(
        (copy / "train" / "train-r03.tfrecords").read_bytes())
    with pytest.raises(UserError, match=r"cannot be decoded \(.*resolution.*\)"):
        take(stream(copy), 1)


def test_images_smaller_than_their_shape_stop_the_stream(copy, images):
    """The error names the failing op, not the graph around it."""
    encoded = tfrecords.encode_record(images["train"][0][:, :8, :8], "webp")
    lying = encoded.replace(bytes([7, 8, 8]), bytes([7, 16, 16]), 1)  # the feature `shape`
    assert lying != encoded
    (copy / "train" / "train-r04.tfrecords").write_bytes(tfrecords.frame(lying) * NUM)
    with pytest.raises(UserError, match=r"cannot be decoded \([^:]*\[8,8,3\][^:]*\[16,16,3\]"):
        take(stream(copy), 1)


DROPPING = """
import sys
from training import dataset
for i in range(9):
    batches = iter(dataset.TrainingStream([sys.argv[1]], resolution=4 << i % 3, num_channels=3,
                                          minibatch=64, seed=i))
    next(batches)
    if i % 2:
        del batches
"""


@pytest.mark.slow
def test_streams_can_be_dropped_at_any_moment(labelled):
    """This happens at every change of resolution and at the end of a run; a hang would stop it."""
    done = subprocess.run([sys.executable, "-c", DROPPING, str(labelled)], timeout=100, check=False,
                          cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
