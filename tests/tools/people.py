"""Drawn figures of 16x16 pixels with keypoints, in pairs, and trainings on them."""

import json

import numpy as np

from dnnlib.data import dataset, keypoints
from dnnlib.data.dataset import open_dataset
from dnnlib.tflib.network import build
from tests.tools.data_helpers import make_dataset
from tests.tools.training_runs import ONE_DEVICE, run_to_end, with_networks
from training.pose.config import PoseConfig
from training.pose.people import PosePairs
from training.pose.pose import Pose
from training.snapshots import save_snapshot

SIDE, NAMES = 16, keypoints.NAMES
TINY = dict(resolution=SIDE, g_fmaps=4, d_fmaps=4, halvings=2, d_strides=1, minibatch=4, kimg=0.032,
            tick_kimg=0.016, network_ticks=1, minibatch_repeats=1, seed=5)


def pose(rng):
    """Return keypoints [18, 3] of a standing figure, its arms and legs at random angles."""
    x, place = rng.uniform(0.4, 0.6), {}
    for name, dx, y in (("nose", 0, 0.14), ("neck", 0, 0.26), ("eye", 0.03, 0.11),
                        ("ear", 0.06, 0.13), ("shoulder", 0.12, 0.28), ("hip", 0.08, 0.58)):
        for side, sign in (("right_", -1), ("left_", 1)):
            place[name if name in NAMES else side + name] = np.array([x + sign * dx, y])
    for side, sign in (("right", -1), ("left", 1)):
        for joint, before, length, limit in (
                ("elbow", "shoulder", 0.16, 1.6), ("wrist", "elbow", 0.14, 2.0),
                ("knee", "hip", 0.19, 0.5), ("ankle", "knee", 0.17, 0.3)):
            angle = rng.uniform(0.1, limit)
            place[f"{side}_{joint}"] = place[f"{side}_{before}"] + length * np.array(
                [sign * np.sin(angle), np.cos(angle)])
    return np.float32([[*place[name], 2] for name in NAMES])


def figure(points, colours):
    """Draw a photo uint8 [3, 16, 16] of a figure: lines of the skeleton in colours [18, 3]."""
    centres = (np.arange(SIDE) + 0.5) / SIDE
    pixels = np.stack(np.meshgrid(centres, centres), -1)
    rgb = np.full((SIDE, SIDE, 3), colours[0])
    for (first, last), colour in zip(keypoints.SKELETON, colours[1:]):
        a, b = points[first - 1, :2], points[last - 1, :2]
        share = np.clip(((pixels - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)
        distance = np.linalg.norm(pixels - a - share[..., None] * (b - a), axis=-1)
        rgb[distance < 0.06] = colour
    return rgb.astype(np.uint8).transpose(2, 0, 1)


def people_dataset(path, people=8, still=False):
    """Make a data set of two photos each of some people; `still`: both photos are the same."""
    rng, images, points = np.random.default_rng(0), {}, {}
    for split, count in (("train", people), ("val", 2)):
        images[split], points[split] = [], []
        for _ in range(count):
            colours, poses = rng.integers(0, 256, (18, 3)), [pose(rng), pose(rng)]
            for one in poses[:1] * 2 if still else poses:
                images[split].append(figure(one, colours))
                points[split].append(one)
    make_dataset(path, {split: np.stack(stack) for split, stack in images.items()}, ())
    for split, stack in points.items():
        pairs = [(a, a + 1 - 2 * (a % 2)) for a in range(len(stack))]
        dataset.write_array(keypoints.keypoints_path(path, split), np.stack(stack))
        dataset.write_array(keypoints.pairs_path(path, split), np.array(pairs, np.int32))
    content = json.loads((path / "dataset.json").read_text())
    content |= {"keypoints": list(NAMES), "skeleton": [list(pair) for pair in keypoints.SKELETON],
                "pairs": {split: len(stack) for split, stack in points.items()}}
    (path / "dataset.json").write_text(json.dumps(content))
    return path


def tiny(data, **changes):
    """Return a PoseConfig for seconds of training."""
    return PoseConfig.preset("tiny", {**TINY, "data": str(data), **changes})


def pose_method(config, strategy=ONE_DEVICE, evaluate=None):
    """Return a Pose on config.data."""
    pairs, shown = (PosePairs(open_dataset(config.data), split, config.resolution)
                    for split in ("train", "val"))
    return Pose(config, strategy, pairs, shown, {}, evaluate)


def begun(config, strategy=ONE_DEVICE):
    """Return such a training with its networks made."""
    return with_networks(pose_method(config, strategy))


def train(config, run_dir, evaluate=None):
    """Train in a run directory to the end, or continue there; return the Training."""
    return run_to_end(pose_method(config, evaluate=evaluate), run_dir)


def save_reposer(path, names=NAMES, seed=3, about=None):
    """Write a snapshot of an untrained generator whose photos differ clearly.

    about: more entries of its header.
    """
    network = build("PoseGenerator", "G", {"resolution": SIDE, "num_keypoints": len(names),
                                           "fmaps": 4, "halvings": 2, "seed": seed})
    network.set_arrays({name: value * (10 if name.endswith("kernel") else 1)
                        for name, value in network.get_arrays().items()})
    save_snapshot(path, {"G": network}, {
        "variant": "pose", "classes": [], "keypoints": list(names), "skeleton": [[1, 2], [2, 3]],
        "kimg": 0.0, "lod": {"resolution": SIDE, "fade": 0.0}, **(about or {})})
    return path
