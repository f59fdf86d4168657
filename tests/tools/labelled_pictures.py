"""Pictures whose colours show the classes, and trainings of segmentation networks on them."""

import numpy as np

from dnnlib.data import labelled
from dnnlib.data.dataset import open_dataset
from tests.tools.data_helpers import make_dataset, one_hot
from tests.tools.training_runs import ONE_DEVICE, run_to_end, with_networks
from training.segmentation.config import SegmenterConfig
from training.segmentation.segmenter import SegmenterTraining
from training.segmentation.stream import Source, split_minibatch

CLASSES = ("red", "green")
SIDE = 16
TINY = dict(architecture="unet", unet_fmaps=4, resolution=SIDE, minibatch=8, kimg=0.064,
            tick_kimg=0.032, network_ticks=1, minibatch_repeats=1, seed=5, lrate=0.05,
            mirror_pairs="none")


def picture(rng):
    """Return rgb uint8 [16, 16, 3] of a red and a green box on grey noise, and its label map."""
    rgb = rng.integers(90, 160, (SIDE, SIDE, 3), np.uint8)
    label_map = np.zeros((SIDE, SIDE), np.uint8)
    for label in (1, 2):
        x, y, width, height = rng.integers([0, 0, 5, 5], [9, 9, 9, 9])
        label_map[y:y + height, x:x + width] = label
    rgb[label_map == 1] = (230, 20, 20)
    rgb[label_map == 2] = (20, 230, 20)
    return rgb, label_map


def coloured_dataset(path, seed=0, photos=4):
    """Make a data set of such pictures; photos: the number in the validation and the test split."""
    rng = np.random.default_rng(seed)

    def stack(count):
        pairs = [picture(rng) for _ in range(count)]
        return np.stack([np.concatenate([rgb, one_hot(label_map, 2)], axis=2).transpose(2, 0, 1)
                         for rgb, label_map in pairs])

    splits = {"train": stack(24), "val": stack(photos), "test": stack(photos)}
    return make_dataset(path, splits, CLASSES)


def segmenter(config, strategy=ONE_DEVICE, second=None, evaluate=None):
    """Return a SegmenterTraining on config.data, and on a second data set or pairs, if any."""
    infos = [open_dataset(config.data), *([second] if second else [])]
    sources = []
    for info, share in zip(infos, split_minibatch(config.minibatch, config.mix if second else 0.0)):
        pictures = labelled.pictures_of(info, "train", config.resolution)
        sources.append(Source(pictures, range(len(pictures)), share))
    return SegmenterTraining(config, CLASSES, sources, {}, strategy, sources[0].pictures, evaluate)


def begun(config, strategy=ONE_DEVICE, **options):
    """Return such a training with its network made."""
    return with_networks(segmenter(config, strategy, **options))


def train(config, run_dir, **options):
    """Train in a run directory to the end, or continue there; return the Training."""
    return run_to_end(segmenter(config, **options), run_dir)


def tiny(data, **changes):
    """Return a SegmenterConfig for seconds of training."""
    return SegmenterConfig(**{**TINY, "data": str(data), **changes})
