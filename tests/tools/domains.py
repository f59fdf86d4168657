"""Two small lists of photos, red and blue boxes on grey, and CycleGANs between them."""

import json

import numpy as np
from PIL import Image

from tests.tools.data_helpers import make_dataset, one_hot
from tests.tools.training_runs import ONE_DEVICE, run_to_end, with_networks
from training.cycle.config import CycleConfig
from training.cycle.cyclegan import CycleTraining
from training.cycle.domains import Domain, open_list
from training.snapshots import save_snapshot

SIDE = 16
RED, BLUE = np.array([220, 30, 30]), np.array([30, 30, 220])
TINY = dict(resolution=SIDE, blocks=1, fmaps=4, strides=1, minibatch=4, kimg=0.032, lrate=2e-3,
            pool=6, tick_kimg=0.016, network_ticks=1, minibatch_repeats=1, seed=5)


def boxes(colour, count, seed, side=SIDE):
    """Return uint8 [count, 4, side, side]: boxes of a colour on grey noise, and their map."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rgb = rng.integers(100, 150, (side, side, 3), np.uint8)
        label_map = np.zeros((side, side), np.uint8)
        x, y, width, height = rng.integers([0, 0, 6, 6], [7, 7, 10, 10])
        label_map[y:y + height, x:x + width] = 1
        rgb[label_map == 1] = colour + rng.integers(-20, 21)
        found.append(np.concatenate([rgb, one_hot(label_map, 1)], axis=-1).transpose(2, 0, 1))
    return np.stack(found)


def box_dataset(path, colour, count, seed=0, has_maps=True, side=SIDE, num_test=0):
    """Make a data set of such boxes, with its own digest."""
    splits = {"train": boxes(colour, count, seed, side)}
    if num_test:
        splits["test"] = boxes(colour, num_test, seed + 100, side)
    make_dataset(path, {name: images if has_maps else images[:, :3]
                        for name, images in splits.items()}, ("box",) if has_maps else ())
    content = json.loads((path / "dataset.json").read_text())
    content["digest"] = f"{path.name:0>64}"
    (path / "dataset.json").write_text(json.dumps(content))
    return path


def two_datasets(root, has_maps=(True, True), counts=(6, 9), num_test=(0, 0)):
    """Make two data sets, A of red boxes and B of blue ones; return their paths."""
    return [box_dataset(root / name, colour, count, seed, maps, num_test=test)
            for name, colour, count, seed, maps, test
            in zip("ab", (RED, BLUE), counts, (1, 2), has_maps, num_test)]


def pair_folder(path):
    """Make a folder of pairs with one class, box."""
    for kind in ("images", "labels"):
        (path / kind).mkdir(parents=True)
    label_map = np.tile(np.repeat([0, 1], 8), (16, 1)).astype(np.uint8)
    for number in range(3):
        rgb = np.where(label_map[..., None] > 0, RED, 90 + number).astype(np.uint8)
        Image.fromarray(rgb).save(path / f"images/{number}.png")
        Image.fromarray(label_map).save(path / f"labels/{number}.png")
    (path / "classes.txt").write_text("box\n")


def tiny(data, **changes):
    """Return a CycleConfig for seconds of training between two data sets."""
    return CycleConfig(**{**TINY, "data": str(data[0]), "target": str(data[1]), **changes})


def cyclegan(config, strategy=ONE_DEVICE):
    """Return a CycleTraining between config.data and config.target."""
    domains = []
    for path in (config.data, config.target):
        source = open_list(path)
        garment = config.garment.split(",") if config.garment and source.classes else ()
        domains.append(Domain.open(source, config.resolution, garment))
    return CycleTraining(config, domains, strategy)


def begun(config, strategy=ONE_DEVICE):
    """Return such a training with its networks made, and its counters."""
    return with_networks(cyclegan(config, strategy))


def steps(method, progress, count):
    """Take some steps; return the last report as numbers."""
    for _ in range(count):
        stage = method.stage(progress)
        report = method.step(method.next_batch(stage, progress), stage, progress.step)
        progress.step += 1
    return {name: float(value) for name, value in report.items()}


def save_cyclegan(path, config):
    """Write a snapshot of untrained networks to a path."""
    method, progress = begun(config)
    save_snapshot(path, method.networks, method.header(method.stage(progress), progress))
    return path


def train(config, run_dir, strategy=ONE_DEVICE):
    """Train in a run directory to the end, or continue there; return the Training."""
    return run_to_end(cyclegan(config, strategy), run_dir)
